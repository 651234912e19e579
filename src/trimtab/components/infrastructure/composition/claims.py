"""A claim -> what it is composed of: made, kept as the function says, taken away in order when it is no longer said.

    claim, its CompositeDefinition, what there is --Compositions.compose--> output.Wanted --> objects, status, connection Secret

What a function returned last stays when the next call fails: the claim says why. Kinds that the API has
only by now are watched from then on (`Kinds.need`), and the claim is looked at again. What refers to another is deleted before it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from trimtab.api import JSON, ObjectMeta, Ref, from_wire, to_wire
from trimtab.api.core import Secret
from trimtab.api.resource import InvalidObject
from trimtab.components.infrastructure.composition.kinds import (
    AFTER_ANNOTATION,
    NAME_ANNOTATION,
    Child,
    Claim,
    Composed,
    CompositeDefinition,
)
from trimtab.components.infrastructure.composition.output import (
    BadOutput,
    NotNamed,
    Part,
    Wanted,
    checked,
    needs,
    refuse_unnamed,
    secret_of,
)
from trimtab.components.infrastructure.composition.packages import NotInstalled, Packages
from trimtab.components.infrastructure.composition.readiness import readiness
from trimtab.components.infrastructure.composition.terms import Compositions, Failed, Function
from trimtab.components.infrastructure.loop.connection import TemplateFault, filled
from trimtab.components.infrastructure.remote.kinds import ClusterManifests
from trimtab.components.infrastructure.remote.reconcile import digest
from trimtab.components.infrastructure.schemas.naming import GROUP_SUFFIX
from trimtab.runtime import Context, Desired, Owned, Reconciler, Requeue

RETRY_S = 60.0
MISSING_RETRY_S = 10.0
"""Of a package that is not on this machine: to look costs nothing."""
JOIN_S = 5.0
"""Kinds that are there by now are watched at once; should that fail, it is tried again."""
NAMED_MAX = 5
NAME_MAX = 48


class KindMissing(LookupError):
    """The API has no such kind, or it has no namespace: one line."""


class Kinds(Protocol):
    """The kinds of what claims are composed of."""

    async def need(self, definition: CompositeDefinition, places: Sequence[tuple[str, str]]) -> None:
        """Has claims of a definition composed of these (apiVersion, kind), too, which it names. Raises `KindMissing`."""


def function_of(made: CompositeDefinition, packages: Packages) -> Function:
    """What a definition runs. Raises `NotInstalled`."""
    compose = made.spec.compose
    place = packages.place(compose.package) if compose.package else ""
    return Function(
        name=f"{made.spec.names.kind.lower()}.py" if compose.source else compose.package,
        source=compose.source,
        package=place,
        edition=str(os.stat(place).st_mtime_ns) if place else "",
        entry=compose.function,
        fields=msgspec.json.encode(made.spec.fields).decode(),
        timeout_s=compose.timeout_seconds,
        memory_bytes=compose.memory_mi_b << 20,
    )


def claims(
    definition: CompositeDefinition, kind: type[Claim], children: Sequence[type[Child]], kinds: Kinds
) -> Reconciler[Claim]:
    """The reconciler of a definition's claims. children: the kinds of what they are composed of, as far as the API has them."""
    name, connected = definition.name, bool(definition.spec.connection)

    async def compose(subject: Claim, ctx: Context) -> Desired | Requeue:
        return await Run(subject, ctx, name, children, kinds).outcome()

    return Reconciler(
        name=_short(f"{kind.resource_type.plural}-{kind.resource_type.group.replace('.', '-')}"),
        subject=kind,
        function=compose,
        reads=(CompositeDefinition, *(() if connected else (Secret,))),
        owns=(*map(Owned, children), *((Owned(Secret),) if connected else ())),
        effects=True,
        dismantles=True,
        workers=8,
    )


def _short(name: str) -> str:
    """A reconciler's name, as a label can have it, with the component's before it."""
    if len(name) <= NAME_MAX:
        return name
    return f"{name[: NAME_MAX - 9].rstrip('-')}-{hashlib.blake2s(name.encode(), digest_size=4).hexdigest()}"


class Run:
    """One run for one claim."""

    def __init__(
        self, subject: Claim, ctx: Context, definition: str, children: Sequence[type[Child]], kinds: Kinds
    ) -> None:
        self._subject = subject
        self._ctx = ctx
        self._definition = definition
        self._kinds = kinds
        self._children = {(kind.resource_type.api_version, kind.resource_type.kind): kind for kind in children}
        self._there: dict[str, JSON] = {}
        self._refs: dict[str, Ref] = {}
        self._behind: dict[str, str] = {}
        """Names of manifests that say of themselves what they saw in a cluster before: why they are not ready."""

    async def outcome(self) -> Desired | Requeue:
        made = await self._ctx.get(CompositeDefinition, self._definition)
        await self._look()
        if self._ctx.deleting:
            return self._ending()
        if made is None:
            return self._stays("FunctionMissing", f"there is no CompositeDefinition {self._definition} any more")
        try:
            wanted = await self._wanted(made)
            refuse_unnamed(wanted, made.spec.composes)
            missing = [p for p in _places(wanted) if p not in self._children]
            if missing:
                await self._kinds.need(made, missing)
                return Requeue(JOIN_S, f"watches {', '.join(kind for _, kind in missing)} from now on")
            objects = [self._object(part) for part in wanted.parts]
        except NotInstalled as err:
            return self._stays("PackageMissing", str(err), MISSING_RETRY_S)
        except Failed as err:
            return self._stays(err.reason, str(err))
        except BadOutput as err:
            return self._stays("BadOutput", str(err))
        except NotNamed as err:
            return self._stays("KindNotNamed", str(err))
        except KindMissing as err:
            return self._stays("KindNotEnabled", str(err))
        return await self._composed(made, wanted, objects)

    # What there is

    async def _look(self) -> None:
        for kind in self._children.values():
            for one in await self._ctx.owned(kind):
                name = one.metadata.annotations.get(NAME_ANNOTATION) or one.name.removeprefix(f"{self._subject.name}-")
                self._there[name] = to_wire(one) | ({"status": one.status} if one.status is not msgspec.UNSET else {})
                self._refs[name] = one.ref
                if (one.ref.api_version, one.ref.kind) == MANIFESTS:
                    await self._look_behind(name, self._there[name])

    async def _look_behind(self, name: str, one: JSON) -> None:
        """What manifests say of themselves holds for the cluster that they were seen in, not for another one behind the same Secret."""
        ref = one["spec"]["kubeconfig"]
        secret = await self._ctx.get(Secret, ref["name"])
        seen = (one.get("status") or {}).get("kubeconfig")
        if secret is not None and seen not in (None, "", digest(secret.data.get(ref["key"], ""))):
            self._behind[name] = f"another kubeconfig is in Secret {ref['name']}: what is there was not looked at yet"

    def _ready(self, name: str) -> tuple[bool, str]:
        """(ready, why not) of one that is there."""
        one = self._there[name]
        if name in self._behind:
            return False, self._behind[name]
        return readiness(one, says=_says(one["apiVersion"]) or (one["apiVersion"], one["kind"]) in COMPOSED)

    # What there should be

    async def _wanted(self, made: CompositeDefinition) -> Wanted:
        """Raises `NotInstalled`, `Failed`, `BadOutput`."""
        subject = self._subject
        function = function_of(made, self._ctx.adapter(Packages))  # type: ignore[type-abstract]
        xr = {
            "name": subject.name,
            "namespace": subject.namespace,
            "uid": subject.metadata.uid,
            "labels": subject.metadata.labels,
            "annotations": subject.metadata.annotations,
            "spec": subject.spec,
        }
        observed = {name: self._observed(name) for name in sorted(self._there)}
        compositions: Compositions = self._ctx.adapter(Compositions)  # type: ignore[type-abstract]
        returned = await compositions.compose(function, xr, observed)
        return checked(returned, subject.name, subject.namespace or "")

    def _observed(self, name: str) -> JSON:
        one = self._there[name]
        ready, message = self._ready(name)
        return {"ready": ready, "message": message, "kind": one["kind"], "status": one.get("status") or {}}

    def _object(self, part: Part) -> Child:
        """Raises `BadOutput`."""
        try:
            return from_wire(self._children[part.api_version, part.kind], part.object)
        except InvalidObject as err:
            raise BadOutput(f"{part.name}: {err.problem}") from None

    async def _composed(self, made: CompositeDefinition, wanted: Wanted, objects: list[Child]) -> Desired:
        names = {part.name for part in wanted.parts}
        going = {name: one for name, one in self._there.items() if name not in names}
        rows = [self._row(part) for part in wanted.parts]
        secrets, lacking = await self._connection(made, wanted)
        ready = self._verdict(rows, wanted, lacking)
        self._tell(names, rows, ready)
        status = self._status(_condition("Synced", "True", "Composed", ""), ready, rows)
        if secrets:
            status["connectionSecret"] = secrets[0].name
        return Desired(
            objects=[*objects, *secrets],
            keep=[self._refs[name] for name in self._held(going)] + ([] if secrets else await self._connections()),
            status=wanted.status | status,
            refused=lambda text: self._refused(text, rows),
        )

    def _row(self, part: Part) -> Composed:
        live = self._there.get(part.name)
        same = live is not None and (live["apiVersion"], live["kind"]) == (part.api_version, part.kind)
        ready, message = self._ready(part.name) if same else (False, "it is being made")
        return Composed(part.name, part.api_version, part.kind, part.called, ready, message)

    def _verdict(self, rows: Sequence[Composed], wanted: Wanted, lacking: str) -> JSON:
        """The condition Ready."""
        first = next((row for row in rows if not row.ready), None)
        if first is not None:
            more = sum(not row.ready for row in rows) - 1
            text = f"{first.name} ({first.kind} {first.object}): {first.message}" + (
                f"; and {more} more" if more else ""
            )
            return _condition("Ready", "False", "ResourceNotReady", text)
        if wanted.waiting:
            return _condition("Ready", "False", "WaitsForMore", wanted.waiting)
        if lacking:
            return _condition("Ready", "False", "ConnectionWaiting", lacking)
        return _condition("Ready", "True", "AllReady", "")

    # Its connection Secret

    async def _connection(self, made: CompositeDefinition, wanted: Wanted) -> tuple[list[Secret], str]:
        """The Secret, or what it lacks."""
        templates = made.spec.connection
        if not templates:
            return [], ""
        fields: dict[str, Any] = {}
        for part in wanted.parts:
            live = self._there.get(part.name, {})
            name = secret_of(live) or secret_of(part.object)
            secret = await self._ctx.get(Secret, name) if name else None
            values = {key: _decoded(raw) for key, raw in secret.data.items()} if secret is not None else {}
            fields[part.name] = values | {"status": live.get("status") or {}, "name": part.called}
        try:
            data = filled(templates, fields)
        except TemplateFault as err:
            return [], f"spec.connection of {made.name}: {err}"
        meta = ObjectMeta(name=self._secret_name, namespace=self._subject.namespace)
        return [Secret(metadata=meta, data={key: base64.b64encode(raw).decode() for key, raw in data.items()})], ""

    @property
    def _secret_name(self) -> str:
        return f"{self._subject.name}-{self._subject.resource_type.kind.lower()}-connection"

    async def _connections(self) -> list[Ref]:
        """What was made of it before."""
        if self._subject.status.connection_secret:
            return [Ref("v1", "Secret", self._subject.namespace, self._secret_name)]
        return []

    # Ending, in order

    def _held(self, going: Mapping[str, JSON]) -> list[str]:
        """Names of those that cannot go yet, since others that go refer to them."""
        after = {name: _after(one) for name, one in going.items()}
        edges = needs({name: (one["kind"], one) for name, one in going.items()}, after)
        held = {other for others in edges.values() for other in others}
        return sorted(held) if held != going.keys() else []  # in a circle nobody can be first

    def _ending(self) -> Desired:
        if not self._there:
            return Desired()
        held = self._held(self._there)
        first = next(name for name in sorted(self._there) if name not in held or not held)
        _, message = self._ready(first)
        said = self._synced_of(first)
        text = f"{len(self._there)} resources are left; {first} ({self._refs[first]}): {said or message or 'it is being deleted'}"
        rows = [
            Composed(name, one["apiVersion"], one["kind"], one["metadata"]["name"], False, "it is being deleted")
            for name, one in sorted(self._there.items())
        ]
        ending = _condition("Ready", "False", "Ending", text)
        status = self._status(_condition("Synced", "True", "Ending", ""), ending, rows)
        return Desired(keep=[self._refs[name] for name in held], status=status)

    def _synced_of(self, name: str) -> str:
        """What stands in the way of an object's end, in its own words."""
        status = self._there[name].get("status")
        for one in status.get("conditions") or () if isinstance(status, dict) else ():
            if isinstance(one, dict) and one.get("type") == "Synced" and one.get("status") == "False":
                return f"{one.get('reason')}: {one.get('message')}"
        return ""

    # Telling

    def _stays(self, reason: str, message: str, retry_s: float = RETRY_S) -> Desired:
        """Nothing changes but what the claim says."""
        self._ctx.event(reason, message, warning=True)
        before = self._subject.status
        ready = next((c for c in before.conditions if c.type == "Ready"), None)
        rows = [self._again(row) for row in before.resources]
        condition = (
            _condition("Ready", ready.status, ready.reason, ready.message)
            if ready is not None and rows and all(row.ready for row in rows)
            else _condition("Ready", "False", reason, message)
        )
        status = self._status(_condition("Synced", "False", reason, message), condition, rows)
        keep = list(self._refs.values())
        if before.connection_secret:
            status["connectionSecret"] = before.connection_secret
            keep.append(Ref("v1", "Secret", self._subject.namespace, before.connection_secret))
        return Desired(keep=keep, status=status, requeue_after_s=retry_s * (0.9 + 0.2 * self._ctx.random.random()))

    def _again(self, row: Composed) -> Composed:
        ready, message = self._ready(row.name) if row.name in self._there else (False, "it is not there")
        return msgspec.structs.replace(row, ready=ready, message=message)

    def _refused(self, text: str, rows: Sequence[Composed]) -> JSON:
        self._ctx.event("ApplyRefused", text, warning=True)
        ready = _condition("Ready", "False", "ApplyRefused", text)
        return self._status(_condition("Synced", "False", "ApplyRefused", text), ready, rows)

    def _status(self, synced: JSON, ready: JSON, rows: Sequence[Composed]) -> JSON:
        return {
            "observedGeneration": self._subject.metadata.generation,
            "conditions": [synced, ready],
            "resources": [msgspec.to_builtins(row) | {"ready": row.ready} for row in rows],
        }

    def _tell(self, names: set[str], rows: Sequence[Composed], ready: JSON) -> None:
        """What is new, on the timeline."""
        if fresh := [row for row in rows if row.name not in self._there]:
            self._ctx.event("Composes", f"makes {_named([f'{row.name} ({row.kind})' for row in fresh])}")
        if going := sorted(name for name in self._there if name not in names):
            self._ctx.event("Prunes", f"{_named(going)} {'is' if len(going) == 1 else 'are'} no longer wanted")
        before = next((c for c in self._subject.status.conditions if c.type == "Ready"), None)
        was_ready = before is not None and before.status == "True"
        if ready["status"] == "True" and not was_ready:
            # Of one that was not ready from the beginning on, the beginning is that of the claim.
            since = before.last_transition_time if before is not None else self._subject.metadata.creation_timestamp
            took_s = (self._ctx.now - since).total_seconds() if since is not None else 0.0
            text = f"all of {len(rows)} resources are ready after {took_s:.1f} s"  # the time makes it another sentence each time
            self._ctx.event("AllReady", text)
        elif ready["status"] == "False" and was_ready:
            self._ctx.event(ready["reason"], f"no longer ready: {ready['message']}", warning=True)


MANIFESTS = (ClusterManifests.resource_type.api_version, ClusterManifests.resource_type.kind)
COMPOSED: set[tuple[str, str]] = set()
"""Kinds that are claims themselves: (apiVersion, kind)."""


def _says(api_version: str) -> bool:
    """Whether objects say themselves whether they are ready: a provider's."""
    return api_version.partition("/")[0].endswith(f".{GROUP_SUFFIX}")


def _places(wanted: Wanted) -> list[tuple[str, str]]:
    return list(dict.fromkeys((part.api_version, part.kind) for part in wanted.parts))


def _after(one: JSON) -> list[str]:
    said: str = one["metadata"].get("annotations", {}).get(AFTER_ANNOTATION, "")
    return [name for name in said.split(",") if name]


def _condition(type_: str, status: str, reason: str, message: str) -> JSON:
    return {"type": type_, "status": status, "reason": reason, "message": message}


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _decoded(raw: str) -> Any:
    try:
        value = base64.b64decode(raw, validate=True)
        return value.decode()
    except binascii.Error:
        return raw
    except UnicodeDecodeError:
        return value
