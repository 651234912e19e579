"""The API server put together: one value that holds the store, the kinds, the writers and watches, and runs the server's own
controllers (garbage collection, namespaces, events that expire).

It has no sockets; `app.create_app` makes an ASGI application of it, `serve.serve` gives that one its listeners.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from trimtab.api import JSON
from trimtab.server import quotas
from trimtab.server.admitting import Check
from trimtab.server.allocation import ServiceAllocator
from trimtab.server.audit import WriteNote, note
from trimtab.server.authentication import AdminToken, Authenticator, TokenReader
from trimtab.server.authorization import Authorizer
from trimtab.server.bootstrap import bootstrap
from trimtab.server.builtin_kinds import PRIORITY_CLASSES, RUNTIME_CLASSES
from trimtab.server.clock import Clock, SystemClock, timestamp
from trimtab.server.deleting import Deleter
from trimtab.server.hooks import Hooks
from trimtab.server.housekeeping import NAMESPACES, PODS, Housekeeping
from trimtab.server.kinds import Kind
from trimtab.server.metrics import Metrics
from trimtab.server.objects import decode, meta_of
from trimtab.server.registry import Registry
from trimtab.server.sessions import Sessions
from trimtab.server.tokens import ServiceAccountTokens
from trimtab.server.turns import Turns
from trimtab.server.watching import WatchService
from trimtab.server.writing import Writer
from trimtab.store import Store


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What an API server is told about its engine. Paths that are None switch off what needs them."""

    service_cidr: str = "10.96.0.0/16"
    node_socket: Path | None = None
    """The node agent's streaming endpoint: logs, exec, attach, port-forward."""
    node_sockets: Path | None = None
    """Where the agents of further nodes have theirs: `<node_sockets>/NODE/node.sock`."""
    admin_token_file: Path | None = None
    """The token that is `system:admin`, a member of `system:masters`."""
    service_account_key: Path | None = None
    """The secret with which ServiceAccount tokens are signed; made when it is missing."""
    ca_file: Path | None = None
    """The CA's certificate, given to every namespace as ConfigMap `kube-root-ca.crt`."""
    issuer: str = "https://kubernetes.default.svc.cluster.local"
    endpoints: Mapping[tuple[str, str, str], Path] = field(default_factory=dict)
    """Subresources of custom kinds that something beside this server answers: (group, plural, subresource) -> its unix socket."""
    judges: Mapping[str, Path] = field(default_factory=dict)
    """Who judges writes of custom kinds beside this server: how their group ends -> its unix socket."""


class ApiServer:
    """See the module. Make it inside the event loop that its store was opened in; `start` it, and `stop` it."""

    def __init__(
        self,
        store: Store,
        *,
        settings: ServerSettings | None = None,
        clock: Clock | None = None,
        admission: Sequence[tuple[str, str, Check]] = (),
        on_write: Callable[[WriteNote], None] | None = None,
    ) -> None:
        """admission: (apiVersion, kind, check) with `check(new, old) -> warnings`, which refuses by raising an exception
        that has `field` and `message`. on_write: told of every change once it is committed."""
        self.store = store
        self._on_write = on_write
        self.settings = settings or ServerSettings()
        self.clock: Clock = clock or SystemClock()
        self.registry = Registry(store)
        self.services = ServiceAllocator(store, self.settings.service_cidr, self.clock)
        self.hooks = Hooks(store, self.registry, self.clock, self.namespace_labels, self.settings.judges)
        self.writer = Writer(store, self.registry, self, admission, self.hooks)
        self.deleter = Deleter(store, self.registry, self.writer, self.clock, self, self.hooks)
        self.metrics = Metrics()
        self.watches = WatchService(store, self.metrics)
        self.tokens = ServiceAccountTokens(store, self.settings.service_account_key, self.settings.issuer, self.clock)
        readers: list[TokenReader] = [self.tokens.user]
        if self.settings.admin_token_file is not None:
            readers.append(AdminToken(self.settings.admin_token_file))
        self.authenticator = Authenticator(readers)
        self.authorizer = Authorizer(store)
        self.sessions = Sessions(self.clock)
        self.turns = Turns()
        self._housekeeping = Housekeeping(self)
        self._tasks: list[asyncio.Task[None]] = []
        self.ready = False
        self.stopping = False

    async def start(self) -> None:
        """Writes what every cluster has (namespaces, roles) and starts the server's own controllers."""
        await bootstrap(self)
        self._tasks = self._housekeeping.start()
        self.ready = True

    async def stop(self) -> None:
        """Ends watches and controllers; the store stays open, it belongs to whoever opened it."""
        self.ready = False
        self.stopping = True
        self.watches.close()
        self.hooks.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish_ca(self) -> None:
        """Gives the CA's certificate, as its file has it now, to every namespace."""
        self._housekeeping.furnish_all()

    def now(self) -> str:
        """The time as objects have it."""
        return timestamp(self.clock)

    # What the rules of kinds look at

    def wrote(
        self,
        kind: Kind,
        verb: str,
        obj: JSON,
        old: JSON | None = None,
        *,
        manager: str = "",
        subresource: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """A change was committed: passed on to whoever wants to be told."""
        if self._on_write is not None:
            self._on_write(
                note(kind, verb, obj, old, manager=manager, subresource=subresource, annotations=annotations or {})
            )

    def default_of(self, collection: str, annotation: str) -> str:
        """The name of the newest object that is annotated as the default of its kind; empty when there is none."""
        wanted = f'"{annotation}":"true"'.encode()
        found = [record for record in self.store.list(collection) if wanted in record.value]
        return meta_of(max(found, key=lambda record: record.revision)).name if found else ""

    def priority_class(self, name: str) -> JSON | None:
        """The PriorityClass of that name; of the empty name the default for all pods with the least value, if any."""
        if name:
            record = self.store.get(f"{PRIORITY_CLASSES}{name}")
            return decode(record) if record else None
        classes = [decode(record) for record in self.store.list(PRIORITY_CLASSES)]
        return min((c for c in classes if c.get("globalDefault")), key=lambda c: int(c["value"]), default=None)

    def runtime_class(self, name: str) -> JSON | None:
        """The RuntimeClass of that name."""
        record = self.store.get(f"{RUNTIME_CLASSES}{name}")
        return decode(record) if record else None

    @property
    def identities(self) -> bool:
        """Whether pods are given tokens: where there is a CA by which they know this server."""
        return self.settings.ca_file is not None

    def service_account(self, namespace: str, name: str) -> JSON | None:
        """A ServiceAccount, or None."""
        record = self.store.get(f"/core/serviceaccounts/{namespace}/{name}")
        return decode(record) if record else None

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """A namespace's labels; none where there is no such namespace."""
        record = self.store.get(f"{NAMESPACES}{name}")
        return (decode(record)["metadata"].get("labels") or {}) if record is not None else {}

    def pods_of(self, namespace: str) -> Iterator[JSON]:
        """The pods of a namespace."""
        return (decode(record) for record in self.store.list(f"{PODS}{namespace}/"))

    def limit_ranges(self, namespace: str) -> list[JSON]:
        """The LimitRanges of a namespace."""
        return [decode(record) for record in self.store.list(f"/core/limitranges/{namespace}/")]

    def quotas(self, namespace: str) -> list[JSON]:
        """The ResourceQuotas of a namespace."""
        return [decode(record) for record in self.store.list(f"{quotas.PREFIX}{namespace}/")]

    def counted(self, quota: JSON) -> dict[str, Decimal]:
        """What a ResourceQuota counts now, under each name that it limits."""
        namespace = quota["metadata"]["namespace"]

        def objects(resource: str) -> Iterator[tuple[Kind, JSON]]:
            plural, _, group = resource.partition(".")
            kind = self.registry.of_collection(f"/{group or 'core'}/{plural}/")
            if kind is not None and kind.namespaced:
                yield from ((kind, decode(record)) for record in self.store.list(kind.prefix(namespace)))

        return quotas.counted(quota, objects)

    def name_holder(self, group: str, name: str) -> str | None:
        """The CRD (or "the API server itself") that serves a plural, singular, kind or short name in a group."""
        for kind in self.registry:
            if kind.group == group and name in (kind.plural, kind.singular_name, kind.kind, *kind.short_names):
                return kind.crd.rpartition("/")[2] or "the API server itself"
        return None
