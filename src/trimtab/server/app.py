"""The ASGI application: from a request to its answer, and from an exception to a `Status`.

    request -> limit -> who (authentication) -> what (path) -> may they (authorization) -> handler -> reply

`create_app(server)` is for callers in the same process and for the engine's own socket, whose users are trusted unless their
connection is bound to an identity (`peers.py`); `create_app(server, trusted=False)` for the network.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from trimtab.server import errors
from trimtab.server.audit import Asking, asking
from trimtab.server.authentication import User, impersonated
from trimtab.server.authorization import Attributes
from trimtab.server.bodies import APPLY_TYPES
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
from trimtab.server.metrics import MUTATING, READ_ONLY, Asked, Metrics
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

GIT = "git"

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
        metrics = self._server.metrics
        counted = _Counted(metrics, request.method)
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
            if counted.answering:
                metrics.in_flight[counted.sort] -= 1
            if turn := counted.turn:
                turn.reads = counted.verb in ("get", "list", "watch")
        if isinstance(reply, Stream) and reply.begin is not None:
            reply.turn = turn
        elif turn is not None:
            turn.end()
        series = metrics.series(counted.asked)
        if isinstance(reply, Reply):
            series.count(reply.status, time.perf_counter() - started, counted.waited_s)
            await reply.send(request, send)
            return
        stays_open = counted.verb != "list"
        series.open += stays_open
        try:
            await reply.send(request, send)
        finally:
            series.open -= stays_open
            status = reply.status if isinstance(reply, Stream) else 200  # what another server said is its own
            series.count(status, time.perf_counter() - started, counted.waited_s)

    async def answer(self, request: Request) -> Answer:
        """The answer to an upgrade request, for a listener that can hand its connection over. Raises `StatusError`."""
        return await self._answer(request, _Counted(self._server.metrics, request.method, in_flight=True))

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
        user = self._user(request, passwords=_takes_passwords(target))
        request.user = user
        if not self._trusted and not counted.in_flight:
            turn = Turn(server.turns, (user.name, request.address))
            with counted.waiting():
                await turn.begin()
            counted.turn = turn
        if not watching:
            counted.begin()
        asking.set(Asking(user, request.headers.get("user-agent", "").partition("/")[0]))
        if target is None:
            self._server.authorizer.require(user, Attributes(_VERBS.get(request.method, "get"), path=path))
            counted.verb = "get"
            counted.asked = Asked(counted.asked.verb, subresource=_plain_name(path))
            return self._plain(request)
        verb = _verb(request, target, watching)
        resource = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
        counted.verb = verb
        counted.asked = _asked(server, request, target, verb)
        namespace = target.namespace or (target.name if target.plural == "namespaces" and not target.group else "")
        asked = Attributes(verb, target.group, resource, namespace, target.name)
        self._server.authorizer.require(user, asked)
        if server.stopping and verb != "get":
            raise errors.unavailable("the API server is stopping")
        answer = await self._handlers.handle(request, target, verb)
        if self._trusted or isinstance(answer, Reply):
            return answer
        return server.sessions.guard(answer, lambda: self._still_allowed(request, user, asked), user.until)

    def _user(self, request: Request, *, passwords: bool = False) -> User:
        peer = (request.scope.get("extensions") or {}).get(PEER)
        if isinstance(peer, StatusError):
            raise peer
        if isinstance(peer, User):
            user = peer
        else:
            user = self._server.authenticator(request, trusted=self._trusted, passwords=passwords)
            if self._trusted:
                return user
        wanted = impersonated(request)
        if wanted is None:
            return user
        self._authorize_impersonation(user, wanted)
        return wanted

    def _still_allowed(self, request: Request, user: User, asked: Attributes) -> bool:
        try:
            self._server.authorizer.require(user, asked)
            return self._user(request, passwords=_takes_passwords(parse_target(request.path))).name == user.name
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
            self._server.authorizer.require(user, attributes)

    def _plain(self, request: Request) -> Reply:
        """Paths that are no resources: health, version, metrics, discovery, OpenAPI."""
        server, path = self._server, request.path.rstrip("/") or "/"
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed()
        if (health := health_reply(server, request, path)) is not None:
            return health
        if path == "/metrics":
            from trimtab.server.figures import CONTENT_TYPE, figures

            return Reply(figures(server), content_type=CONTENT_TYPE)
        if path in (CONFIGURATION_PATH, KEYS_PATH):
            return _openid(server, request, path)
        return discovery_reply(server, request, path)


class _Counted:
    """What the metrics say of a request."""

    def __init__(self, metrics: Metrics, method: str, *, in_flight: bool = False) -> None:
        self._metrics = metrics
        self.verb = "get"
        self.asked = Asked("GET" if method == "HEAD" else method if method in _VERBS else "OTHER")
        self.sort = READ_ONLY if method in ("GET", "HEAD") else MUTATING
        self.in_flight = in_flight
        self.answering = False
        self.waited_s = 0.0
        self.turn: Turn | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """It stands in line."""
        began = time.perf_counter()
        self._metrics.in_line[self.sort] += 1
        try:
            yield
        finally:
            self._metrics.in_line[self.sort] -= 1
            self.waited_s = time.perf_counter() - began

    def begin(self) -> None:
        self.answering = True
        self._metrics.in_flight[self.sort] += 1


_SAID = {"create": "POST", "update": "PUT", "patch": "PATCH"}
"""Verbs that the metrics call by the method of their requests; the others only in capitals."""
_PLAIN = ("healthz", "livez", "readyz", "metrics", "version", "api", "apis", "openapi")


def _asked(server: ApiServer, request: Request, target: Target, verb: str) -> Asked:
    said = _SAID.get(verb) or verb.upper()
    if target.subresource in ("exec", "attach", "portforward", "proxy"):
        said = "CONNECT"
    elif said == "PATCH" and request.content_type in APPLY_TYPES:
        said = "APPLY"
    scope = "resource" if target.name or verb == "create" else "namespace" if target.namespace else "cluster"
    dry = "All" if "dryRun" in request.query else ""
    if not _known(server, target):
        return Asked(said, resource="unknown", scope=scope, dry_run=dry)
    return Asked(said, target.group, target.version, target.plural, target.subresource or "", scope, dry)


def _plain_name(path: str) -> str:
    """The first part of a path that is no resource, where it is one of the server's own."""
    name = path.strip("/").partition("/")[0]
    return name if name in _PLAIN else ""


def _takes_passwords(target: Target | None) -> bool:
    """Whether programs that know no bearer tokens come here: git, to the endpoint of that name."""
    return target is not None and target.subresource == GIT


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


def _openid(server: ApiServer, request: Request, path: str) -> Reply:
    """How ServiceAccount tokens are checked by others."""
    if path == KEYS_PATH:
        return Reply(msgspec.json.encode(server.tokens.keys()), content_type=KEYS_TYPE)
    return json_reply(server.tokens.configuration(request.headers.get("host") or "kubernetes.default.svc"))


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
