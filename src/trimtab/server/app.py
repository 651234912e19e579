"""The ASGI application: from a request to its answer, and from an exception to a `Status`.

    request -> limit -> who (authentication) -> what (path) -> may they (authorization) -> handler -> reply

`create_app(server)` is for callers in the same process and for the engine's own socket, whose users are trusted unless their
connection is bound to an identity (`peers.py`); `create_app(server, trusted=False)` for the network.
"""

from __future__ import annotations

import logging
import os
import time

import msgspec

from trimtab.server import errors
from trimtab.server.audit import Asking, asking
from trimtab.server.authentication import User, impersonated
from trimtab.server.authorization import Attributes
from trimtab.server.discovery import discovery_reply
from trimtab.server.errors import StatusError
from trimtab.server.handlers import Handlers
from trimtab.server.health import health_reply
from trimtab.server.http import (
    Answer,
    Disconnected,
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    Stream,
    error_reply,
    json_reply,
)
from trimtab.server.metrics import Metrics
from trimtab.server.paths import Target, parse_target
from trimtab.server.peers import PEER
from trimtab.server.server import ApiServer
from trimtab.server.subresources import PROXY
from trimtab.server.tokens import CONFIGURATION_PATH, KEYS_PATH, KEYS_TYPE
from trimtab.server.tunnel import Tunnel
from trimtab.server.turns import Turn
from trimtab.store import Compacted, DiskFull, Overloaded, StoreClosed

log = logging.getLogger(__name__)

IN_FLIGHT_MAX = 400
"""The engine's own requests answered at the same time, watches and streams aside. Those of the network take turns (`turns.py`)."""

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}


def create_app(server: ApiServer, *, trusted: bool = True) -> Application:
    """The API as an ASGI application. `trusted`: requests come from the engine itself and name their actor."""
    return Application(server, trusted)


class Application:
    """See `create_app`."""

    def __init__(self, server: ApiServer, trusted: bool) -> None:
        self._server = server
        self._trusted = trusted
        self._handlers = Handlers(server)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        request = Request(scope, receive, send)
        started = time.perf_counter()
        counted = _Counted()
        before = asking.set(None)
        try:
            reply = await self._answer(request, counted)
            if isinstance(reply, Tunnel):
                raise errors.bad_request("this stream needs a connection of its own: it cannot be upgraded here")
        except Disconnected:
            return
        except StatusError as err:
            reply = error_reply(err)
        except DiskFull as err:
            reply = error_reply(errors.storage_full(str(err)))
        except Overloaded as err:
            reply = error_reply(errors.too_many_requests(str(err)))
        except (StoreClosed, Compacted) as err:
            reply = error_reply(errors.unavailable(f"the API server is stopping: {err}"))
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            reply = error_reply(errors.internal("the request failed; the API server's log has the details"))
        finally:
            asking.reset(before)
            if counted.in_flight:
                self._in_flight -= 1
            if turn := counted.turn:
                turn.reads = counted.verb in ("get", "list", "watch")
        if isinstance(reply, Stream) and reply.begin is not None:
            reply.turn = turn
        elif turn is not None:
            turn.end()
        if isinstance(reply, Reply):
            self._server.metrics.count(counted.verb, counted.resource, reply.status, time.perf_counter() - started)
        await reply.send(request, send)

    async def answer(self, request: Request) -> Answer:
        """The answer to an upgrade request, for a listener that can hand its connection over. Raises `StatusError`."""
        return await self._answer(request, _Counted(in_flight=True))

    async def _answer(self, request: Request, counted: _Counted) -> Answer:
        server = self._server
        path = request.path
        target = parse_target(path)
        watching = request.flag("watch") and target is not None and request.method == "GET"
        if self._trusted and not watching and not counted.in_flight:
            if self._in_flight >= IN_FLIGHT_MAX:
                raise errors.too_many_requests("too many requests, please try again later")
            self._in_flight += 1
            counted.in_flight = True
        user = self._user(request)
        request.user = user
        if not self._trusted and not counted.in_flight:
            turn = Turn(server.turns, (user.name, request.address))
            await turn.begin()
            counted.turn = turn
        asking.set(Asking(user, request.headers.get("user-agent", "").partition("/")[0]))
        if target is None:
            self._authorize(user, Attributes(_VERBS.get(request.method, "get"), path=path))
            counted.verb, counted.resource = "get", "nonresource"
            return self._plain(request)
        verb = _verb(request, target, watching)
        resource = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
        counted.verb = verb
        counted.resource = resource if _known(server, target) else "unknown"
        namespace = target.namespace or (target.name if target.plural == "namespaces" and not target.group else "")
        asked = Attributes(verb, target.group, resource, namespace, target.name)
        self._authorize(user, asked)
        if server.stopping and verb != "get":
            raise errors.unavailable("the API server is stopping")
        answer = await self._handlers.handle(request, target, verb)
        if self._trusted or isinstance(answer, Reply):
            return answer
        return server.sessions.guard(answer, lambda: self._still_allowed(request, user, asked), user.until)

    def _user(self, request: Request) -> User:
        peer = (request.scope.get("extensions") or {}).get(PEER)
        if isinstance(peer, StatusError):
            raise peer
        if isinstance(peer, User):
            user = peer
        else:
            user = self._server.authenticator(request, trusted=self._trusted)
            if self._trusted:
                return user
        wanted = impersonated(request)
        if wanted is None:
            return user
        self._authorize_impersonation(user, wanted)
        return wanted

    def _still_allowed(self, request: Request, user: User, asked: Attributes) -> bool:
        try:
            self._authorize(user, asked)
            return self._user(request).name == user.name
        except StatusError:
            return False

    def _authorize_impersonation(self, user: User, wanted: User) -> None:
        name = wanted.name
        if name.startswith("system:serviceaccount:") and name.count(":") == 3:
            _, _, namespace, account = name.split(":")
            asked = [Attributes("impersonate", "", "serviceaccounts", namespace, account)]
        else:
            asked = [Attributes("impersonate", "", "users", "", name)]
        implied = ("system:authenticated", "system:unauthenticated")
        asked += [
            Attributes("impersonate", "", "groups", "", group)
            for group in wanted.groups
            if group not in implied and not (group.startswith("system:serviceaccounts") and len(asked[0].namespace))
        ]
        for attributes in asked:
            self._authorize(user, attributes)

    def _authorize(self, user: User, asked: Attributes) -> None:
        if self._server.authorizer.allows(user, asked):
            return
        if asked.path:
            raise StatusError(
                403, "Forbidden", f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
            )
        where = f' in the namespace "{asked.namespace}"' if asked.namespace else " at the cluster scope"
        raise errors.forbidden(
            asked.resource.partition("/")[0],
            asked.group,
            asked.name,
            f'User "{user.name}" cannot {asked.verb} resource "{asked.resource}" in API group "{asked.group}"{where}',
        )

    def _plain(self, request: Request) -> Reply:
        """Paths that are no resources: health, version, metrics, discovery, OpenAPI."""
        server, path = self._server, request.path.rstrip("/") or "/"
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed()
        if (health := health_reply(server, request, path)) is not None:
            return health
        if path == "/metrics":
            return Reply(_metrics(server, server.metrics), content_type="text/plain; version=0.0.4; charset=utf-8")
        if path in (CONFIGURATION_PATH, KEYS_PATH):
            return _openid(server, request, path)
        return discovery_reply(server, request, path)


class _Counted:
    """What the metrics say of a request."""

    def __init__(self, *, in_flight: bool = False) -> None:
        self.verb = "get"
        self.resource = "nonresource"
        self.in_flight = in_flight
        self.turn: Turn | None = None


def _verb(request: Request, target: Target, watching: bool) -> str:
    verb = _VERBS.get(request.method)
    if target.subresource == PROXY:
        return verb or ""  # what the pod makes of it is not known here: only who may do everything may send it
    if verb is None:
        raise errors.method_not_allowed()
    if watching:
        return "watch"
    if not target.name:
        return {"get": "list", "delete": "deletecollection"}.get(verb, verb)
    if verb == "get" and target.subresource in ("exec", "attach", "portforward"):
        return "create"  # who may open a stream may run commands: reading rights are not enough
    return verb


def _known(server: ApiServer, target: Target) -> bool:
    """Whether such a resource is served: what clients make up must not become names in the metrics."""
    kind = server.registry.find(target.group, target.version, target.plural)
    if kind is None or not target.subresource:
        return kind is not None
    return target.subresource in ("status", "scale") or any(
        target.subresource == known for known, _, _ in kind.subresources
    )


def _metrics(server: ApiServer, metrics: Metrics) -> bytes:
    return metrics.text(
        {
            "trimtab_store_revision": ("The last committed revision.", server.store.revision),
            "trimtab_store_compacted_revision": ("History begins after this revision.", server.store.compacted),
            "trimtab_store_objects": ("Live objects.", len(server.store)),
            "apiserver_longrunning_requests": ("Open watches.", len(server.watches)),
            "apiserver_current_inflight_requests": ("Requests of the network being answered.", server.turns.seats_used),
            "apiserver_current_inqueue_requests": (
                "Requests of the network that wait for their turn.",
                server.turns.waiting,
            ),
            "process_resident_memory_bytes": ("Memory of the process.", _resident_bytes()),
            "process_open_fds": ("Open file descriptors.", len(os.listdir("/proc/self/fd"))),
        }
    )


def _openid(server: ApiServer, request: Request, path: str) -> Reply:
    """How ServiceAccount tokens are checked by others."""
    if path == KEYS_PATH:
        return Reply(msgspec.json.encode(server.tokens.keys()), content_type=KEYS_TYPE)
    return json_reply(server.tokens.configuration(request.headers.get("host") or "kubernetes.default.svc"))


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
