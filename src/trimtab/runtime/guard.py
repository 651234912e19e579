"""The declarations of a service, enforced where nothing gets around them: at its transport.

A reconciler reads and writes through the runtime, which checks each kind. A service holds a client, so its requests are
checked by what they name: a GET must be of a declared kind, a write of an owned one, a patch of another's object may
hold declared fields only. What is not a resource (`/version`, discovery) is free to read.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from trimtab.api import Resource
from trimtab.client.client import Client
from trimtab.client.informer import Informer
from trimtab.client.transport import Request, Response, Transport
from trimtab.runtime.component import Component, Service, Writes
from trimtab.runtime.context import Undeclared
from trimtab.runtime.declared import covers, field_paths

K = TypeVar("K", bound=Resource)

Place = tuple[str, str]
"""(apiVersion, plural)."""

ALWAYS: frozenset[Place] = frozenset({("v1", "events"), ("authorization.k8s.io/v1", "selfsubjectaccessreviews")})
"""Telling what happened, and asking what one may do oneself, is everybody's."""


def resource_place(path: str) -> Place | None:
    """Which resource a request's path names; None for what is no resource."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        version, rest = parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        version, rest = f"{parts[1]}/{parts[2]}", parts[3:]
    else:
        return None
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    return version, rest[0]


def _place(kind: type[Resource]) -> Place:
    return kind.resource_type.api_version, kind.resource_type.plural


class DeclaredTransport:
    """A transport that sends only what `service` declared; raises `Undeclared` for the rest."""

    def __init__(self, inner: Transport, component: str, service: Service) -> None:
        self._inner = inner
        self._who = f"{component}.{service.name}"
        self._owned = {_place(owned.kind) for owned in service.owns}
        self._writes: dict[Place, Writes] = {_place(writes.kind): writes for writes in service.writes}
        self._posts = {(*_place(posts.kind), posts.subresource) for posts in service.posts}
        self._readable = {*map(_place, service.reads), *self._owned, *self._writes}

    async def send(self, request: Request) -> Response:
        self._check(request)
        return await self._inner.send(request)

    def _check(self, request: Request) -> None:
        place = resource_place(request.path)
        if place is None or place in ALWAYS or place in self._owned:
            return
        name = f"{place[1]} of {place[0]}"
        if request.method == "GET":
            if place not in self._readable:
                raise Undeclared(f"{self._who} reads {name}: add the kind to reads=(...) of the Service")
            return
        if request.method == "POST" and (*place, request.path.rpartition("/")[2]) in self._posts:
            return
        allowed = self._writes.get(place)
        if allowed is None or request.method != "PATCH":
            raise Undeclared(f"{self._who} writes {name}: add the kind to owns=(...) of the Service")
        if allowed.names and request.path.rpartition("/")[2] not in allowed.names:
            raise Undeclared(f"{self._who} writes {name}: its writes allow only those named {', '.join(allowed.names)}")
        fields = msgspec.json.decode(request.body)
        if not isinstance(fields, dict):
            raise Undeclared(f"{self._who} sends a JSON patch to {name}: write declared fields by apply or merge patch")
        identity = ("apiVersion", "kind")
        meta = {k: v for k, v in fields.get("metadata", {}).items() if k not in ("name", "namespace", "uid")}
        rest = {k: v for k, v in fields.items() if k not in identity and k != "metadata"} | (
            {"metadata": meta} if meta else {}
        )
        for path in field_paths(rest):
            if not any(covers(field, path) for field in allowed.fields):
                raise Undeclared(
                    f"{self._who} writes {path} of {name}: its writes allow only {', '.join(allowed.fields)}"
                )

    async def close(self) -> None:
        await self._inner.close()


class ServiceProcess:
    """The `Process` as one service sees it: the same, but with a client that sends only what the service declared."""

    def __init__(self, process: Any, component: Component, service: Service) -> None:
        self._process = process
        self._kinds = {*service.reads, *(o.kind for o in service.owns), *(w.kind for w in service.writes)}
        self._who = f"{component.name}.{service.name}"
        self.client = Client(DeclaredTransport(process.client.transport, component.name, service))

    def informer(self, kind: type[K]) -> Informer[K]:
        """The shared live copy of a declared kind."""
        if kind not in self._kinds:
            raise Undeclared(f"{self._who} reads {kind.__name__}: add the kind to reads=(...) of the Service")
        informer: Informer[K] = self._process.informer(kind)
        return informer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)
