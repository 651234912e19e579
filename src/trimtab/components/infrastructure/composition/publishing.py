"""A CompositeDefinition -> its kind in the API, its function looked at, and its claims kept while it runs.

    definition, what the controllers may do --defined--> CRD, conditions      definitions --a service--> one reconciler of claims for each

Nothing is published before an administrator has granted it (`grants.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec
from msgspec import to_builtins

from trimtab.api import JSON, Resource, ResourceType
from trimtab.api.cluster import CustomResourceDefinition
from trimtab.client.clock import jittered
from trimtab.client.errors import ApiError, NotFound
from trimtab.client.informer import BACKOFF_FIRST_S, BACKOFF_LAST_S, Informer
from trimtab.client.wire import encode
from trimtab.components.infrastructure.composition.grants import Grant, command, lacking, role_name
from trimtab.components.infrastructure.composition.kinds import (
    Claim,
    CompositeDefinition,
    child_kind,
    claim_kind,
    plural_of,
)
from trimtab.components.infrastructure.composition.packages import NotInstalled, Packages
from trimtab.components.infrastructure.composition.terms import Compositions, Failed
from trimtab.components.infrastructure.schemas.naming import GROUP_SUFFIX
from trimtab.runtime import Context, Desired, Owned, Reconciler

PUBLISHED = "trimtab.dev/composed-api"
CHECK_S = 300.0
MISSING_CHECK_S = 10.0
"""A package that is not on this machine yet is looked for so often: to look costs nothing."""
WAIT_S = 1.0
GRANT_S = 5.0
"""A grant is looked for so often: a cluster takes a while to put aggregated roles together, and it may be in a role of another name."""
NAMED_MAX = 3

log = logging.getLogger(__name__)


class Rights(Protocol):
    """What the controllers may do."""

    async def lacking(self, made: CompositeDefinition) -> list[str]:
        """What they may not do of what a definition needs, one line each."""


class Published(Resource, omit_defaults=True):
    """A CustomResourceDefinition that was made from a CompositeDefinition."""

    resource_type: ClassVar[ResourceType] = CustomResourceDefinition.resource_type
    watched: ClassVar[str] = PUBLISHED
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


async def _defined(subject: CompositeDefinition, ctx: Context) -> Desired:
    """Publishes a definition's kind, and says whether its function can be called."""
    from trimtab.components.infrastructure.composition.definition import refused
    from trimtab.components.infrastructure.composition.fields import BadField

    if ctx.deleting:
        return await _ending(subject, ctx)
    try:
        if problem := refused(subject):
            raise BadField(problem)
        wanted = _published(subject)
    except BadField as err:
        keep = [one.ref for one in await ctx.owned(Published)]
        return Desired(keep=keep, status=_status(subject, bool(keep), "False", "Invalid", str(err)))
    if problem := await _not_granted(subject, ctx):
        keep = [one.ref for one in await ctx.owned(Published)]
        status = _status(subject, False, "False", "NotGranted", problem)
        return Desired(keep=keep, status=status, requeue_after_s=GRANT_S)
    live = await ctx.get(Published, wanted.name)
    if live is None or not _established(live):
        why = "the API does not serve it yet" if live is None else _not_accepted(live)
        status = _status(subject, False, "False", "Establishing", why)
        return Desired(
            objects=[wanted], status=status, requeue_after_s=WAIT_S, refused=lambda text: _refused(subject, text)
        )
    ready, reason, message = await _callable(subject, ctx)
    return Desired(
        objects=[wanted],
        status=_status(subject, True, ready, reason, message),
        requeue_after_s=None if ready == "True" else MISSING_CHECK_S if reason == "PackageMissing" else CHECK_S,
        refused=lambda text: _refused(subject, text, served=True),  # as it was, with the claims that there are
    )


defined: Reconciler[CompositeDefinition] = Reconciler(
    name="defined",
    subject=CompositeDefinition,
    function=_defined,
    reads=(Grant,),
    owns=(Owned(Published, granted=True),),
    effects=True,
    dismantles=True,
    workers=2,
)


def _established(live: Published) -> bool:
    found = live.status.get("conditions") or ()
    return any(c.get("type") == "Established" and c.get("status") == "True" for c in found)


async def _not_granted(subject: CompositeDefinition, ctx: Context) -> str:
    """What the controllers may not do, and what an administrator types; empty when they may do all."""
    await ctx.get(Grant, role_name(subject.name))  # so that it is looked again when that comes
    rights: Rights = ctx.adapter(Claims)
    missing = await rights.lacking(subject)
    if not missing:
        return ""
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return f"the controllers may not {missing[0]}{more}: as an administrator, {command(subject.name)}"


def _not_accepted(live: Published) -> str:
    """Why a kind is not served: a cluster takes a definition whose names another one has, and says so in its status."""
    for one in live.status.get("conditions") or ():
        if one.get("type") == "NamesAccepted" and one.get("status") == "False":
            return f"the API does not serve it: {one.get('message') or one.get('reason')}"
    return "the API does not serve it yet"


async def _callable(subject: CompositeDefinition, ctx: Context) -> tuple[str, str, str]:
    """Of the condition Ready: status, reason, message."""
    from trimtab.components.infrastructure.composition.claims import function_of

    compositions: Compositions = ctx.adapter(Compositions)  # type: ignore[type-abstract]
    packages: Packages = ctx.adapter(Packages)  # type: ignore[type-abstract]
    try:
        await compositions.load(function_of(subject, packages))
    except NotInstalled as err:
        return "False", "PackageMissing", str(err)
    except Failed as err:
        return "False", err.reason, str(err)
    return "True", "Served", ""


def _published(subject: CompositeDefinition) -> Published:
    from trimtab.components.infrastructure.composition.definition import crd

    made = crd(subject)
    made.metadata.labels[PUBLISHED] = subject.name[:63].rstrip("-.")
    return Published(metadata=made.metadata, spec=made.spec)


async def _ending(subject: CompositeDefinition, ctx: Context) -> Desired:
    """The kind goes when there are no claims any more: with it they would all be deleted."""
    published = [one.ref for one in await ctx.owned(Published)]
    left = ctx.adapter(Claims).of(subject.name)
    if not published:
        return Desired()
    if problem := await _not_granted(subject, ctx):
        status = _status(subject, False, "False", "NotGranted", problem)
        return Desired(keep=published, status=status, requeue_after_s=GRANT_S)
    if left == []:
        return Desired()
    if left is None:
        message = "its claims are not known yet"
    else:
        names = ", ".join(f"{one.namespace}/{one.name}" for one in left[:NAMED_MAX])
        count = "is one claim" if len(left) == 1 else f"are {len(left)} claims"
        message = f"there {count} of it, which would be deleted with it: {names}: delete them first"
    status = _status(subject, True, "False", "ClaimsLeft", message)
    return Desired(keep=published, status=status, requeue_after_s=WAIT_S)


def _refused(subject: CompositeDefinition, text: str, *, served: bool = False) -> JSON:
    return _status(subject, served, "False", "Invalid", f"the API refused it: {text}")


def _status(subject: CompositeDefinition, served: bool, status: str, reason: str, message: str) -> JSON:
    return {
        "observedGeneration": subject.metadata.generation,
        "served": served,
        "conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message}],
    }


# The service


class Claims:
    """The claims of all definitions: who keeps them, and the kinds of what they are composed of. Implements `claims.Kinds`, `Rights`."""

    def __init__(self) -> None:
        self._process: Any = None
        self._runs = asyncio.Event()
        self._joined: dict[str, tuple[bytes, Any]] = {}
        self._children: dict[str, tuple[Any, dict[tuple[str, str], str]]] = {}
        """Definition -> what it names; of that, what the API has: (apiVersion, kind) -> plural."""
        self._woken = asyncio.Event()

    async def lacking(self, made: CompositeDefinition) -> list[str]:
        await self._runs.wait()
        return await lacking(self._process.client.wire, made)

    def of(self, definition: str) -> list[Claim] | None:
        """Its claims; None while they are not known."""
        joined = self._joined.get(definition)
        if joined is None:
            return None
        informer = joined[1].claims
        return list(informer.list()) if informer.synced else None

    async def need(self, definition: CompositeDefinition, places: Sequence[tuple[str, str]]) -> None:
        """Raises `KindMissing`."""
        known = (await self._known(definition))[1]
        for one in definition.spec.composes:
            place = (one.api_version, one.kind)
            if place in places and place not in known:
                known[place] = await self._plural(*place, plural_of(one))
        self._woken.set()

    async def _known(self, made: CompositeDefinition) -> tuple[Any, dict[tuple[str, str], str]]:
        """What the API has of the kinds that a definition names; looked up when they change."""
        from trimtab.components.infrastructure.composition.claims import KindMissing

        found = self._children.get(made.name)
        if found is None or found[0] != made.spec.composes:
            kinds = {}
            for one in made.spec.composes:
                with contextlib.suppress(KindMissing):
                    kinds[one.api_version, one.kind] = await self._plural(one.api_version, one.kind, plural_of(one))
            found = self._children[made.name] = (made.spec.composes, kinds)
        return found

    async def _plural(self, api_version: str, kind: str, named: str) -> str:
        """named: as the definition calls it, and the grant. Raises `KindMissing`."""
        from trimtab.components.infrastructure.composition.claims import KindMissing

        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            answer = await self._process.client.wire.send("GET", path)
        except NotFound:
            found: list[JSON] = []
        else:
            found = msgspec.json.decode(answer.body).get("resources") or []
        for one in found:
            if one.get("kind") == kind and "/" not in one["name"]:
                if not one.get("namespaced"):
                    raise KindMissing(f"{kind} of {api_version} has no namespace: claims are composed of what has one")
                if one["name"] != named:
                    raise KindMissing(
                        f"spec.composes: {kind} of {api_version} is called {one['name']} in this API, not {named}: give its plural"
                    )
                return named
        provider = api_version.partition(".")[0] if api_version.partition("/")[0].endswith(f".{GROUP_SUFFIX}") else ""
        hint = f": trimtab provider enable {provider} ..." if provider else ""
        raise KindMissing(f"there is no kind {kind} of {api_version} in this API{hint}")

    async def run(self, process: Any) -> None:
        """The service. Until cancelled."""
        self._process = process
        self._runs.set()
        informer = process.informer(CompositeDefinition)
        end = informer.subscribe(lambda _: self._woken.set())
        try:
            await informer.wait_synced()
            self._woken.set()
            delay_s = BACKOFF_FIRST_S
            while True:
                await self._woken.wait()
                self._woken.clear()
                if await self._keep({one.name: one for one in informer.list() if one.status.served}):
                    delay_s = BACKOFF_FIRST_S
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(jittered(delay_s, process.clock)):
                        await self._woken.wait()
                self._woken.set()
                delay_s = min(delay_s * 2, BACKOFF_LAST_S)
        finally:
            end()
            for name in list(self._joined):
                await self._part(name)

    async def _keep(self, served: Mapping[str, CompositeDefinition]) -> bool:
        """Starts and ends what is new and old; returns whether the API said all that is needed for it. Who needs what it did not say stays
        as it is."""
        if not served and not self._joined:
            return True
        from trimtab.components.infrastructure.composition.claims import COMPOSED

        self._children = {name: known for name, known in self._children.items() if name in served}
        shapes, said = {}, True
        for name, one in served.items():
            try:
                shapes[name] = self._shape(one, (await self._known(one))[1])
            except (ApiError, ConnectionError) as err:
                log.warning("the kinds that %s composes cannot be looked up: %s; it is tried again", name, err)
                said = False
                if name in self._joined:
                    shapes[name] = self._joined[name][0]
        if shapes == {name: shape for name, (shape, _) in self._joined.items()}:
            return said
        COMPOSED.clear()
        COMPOSED.update((f"{one.spec.group}/{one.spec.version}", one.spec.names.kind) for one in served.values())
        for name in [name for name, (shape, _) in self._joined.items() if shapes.get(name) != shape]:
            await self._part(name)
        for name in sorted(shapes.keys() - self._joined.keys()):
            self._joined[name] = (shapes[name], self._join(served[name]))
        return said

    def _shape(self, one: CompositeDefinition, children: Mapping[tuple[str, str], str]) -> bytes:
        """What its reconciler is made from."""
        spec = one.spec
        return encode(
            [spec.group, spec.version, to_builtins(spec.names), bool(spec.connection), sorted(children.items())]
        )

    def _join(self, made: CompositeDefinition) -> Joined:
        from trimtab.components.infrastructure.composition.claims import claims

        kind = claim_kind(made.spec)
        children = [
            child_kind(ResourceType(api_version, name, plural))
            for (api_version, name), plural in sorted(self._children[made.name][1].items())
        ]
        controller = self._process.join("infrastructure", claims(made, kind, children, self))
        return Joined(controller, self._process.informers[kind])

    async def _part(self, name: str) -> None:
        _, joined = self._joined.pop(name)
        await self._process.part(joined.controller)


class Joined(NamedTuple):
    """One definition's reconciler, and its claims."""

    controller: Any
    claims: Informer[Claim]
