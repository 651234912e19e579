"""Who still needs an object that is to go: what refers to it, what works with its credential, what is of its kinds.

    objects of all enabled kinds --references--> a resource      --providerRef--> ProviderConfig --secrets--> Secret      --kind--> Provider

Whatever is deleted together goes in this order by itself: each waits, and says for whom, until those before it are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from trimtab.api import Ref, Resource, kind_of
from trimtab.api.core import Secret
from trimtab.client import Index
from trimtab.components.infrastructure.kinds import Ephemeral, Managed, Provider, ProviderConfig, secrets_of
from trimtab.components.infrastructure.remote.kinds import ClusterManifests
from trimtab.components.infrastructure.schemas import naming
from trimtab.runtime import Context, Desired, FieldWrite, Requeue, Writes, reconciler

IN_USE = "trimtab.dev/credential-in-use"
"""The finalizer of a Secret that a ProviderConfig needs."""
WAIT_S = 30.0
UNSEEN_S = 2.0
NAMED_MAX = 3
REACHED_MAX = 256


class Unseen(Exception):
    """A kind is enabled and not watched yet, so that nobody can say who is of it."""


async def enabled(ctx: Context, provider: str = "") -> list[type[Managed]]:
    """The kinds of a provider, or of all, that are enabled. Raises `Unseen`."""
    out = []
    for one in await ctx.list(Provider):
        for name in one.spec.kinds if provider in ("", one.name) else ():
            kind = kind_of(f"{naming.group(one.name)}/{naming.VERSION}", naming.kind_name(one.name, name))
            if kind is None or not issubclass(kind, Managed) or not await ctx.knows(kind):
                raise Unseen(
                    f"{name} of the provider {one.name} is enabled and not watched yet: trimtab provider disable {one.name} {name} takes it out"
                )
            out.append(kind)
    return out


async def objects(
    ctx: Context, kinds: Sequence[type[Managed]], namespace: str | None, where: Callable[[Managed], bool]
) -> list[Managed]:
    """Objects of enabled kinds. A change of one of them runs the subject again."""
    return [one for kind in kinds for one in await ctx.list(kind, namespace, where=where)]


def _referred(one: Managed) -> Iterator[str]:
    """What an object refers to, as `_key_of` has it."""
    for reference in one.spec.references:
        source = reference.source
        yield _key_of(source.api_version or one.resource_type.api_version, source.kind, source.name)


def _key_of(api_version: str, kind: str, name: str) -> str:
    return f"{api_version}/{kind}/{name}"


REFERENCES = Index(_referred)


async def referring(ctx: Context, subject: Managed) -> list[Managed]:
    """What refers to a resource and has to go before it; not what it needs itself, in a circle."""
    place = subject.resource_type
    mine = _key_of(place.api_version, place.kind, subject.name)
    kinds = await enabled(ctx)
    found = [one for kind in kinds for one in await ctx.by_index(kind, REFERENCES, mine, subject.namespace)]
    needed = await _needed(ctx, subject) if found else set()
    return [one for one in found if one.ref not in needed]


async def _needed(ctx: Context, subject: Managed) -> set[Ref]:
    """What a resource refers to, and what that refers to, and so on."""
    reached: set[Ref] = {subject.ref}
    left = [subject]
    while left and len(reached) < REACHED_MAX:
        one = left.pop()
        for reference in one.spec.references:
            source = reference.source
            kind = kind_of(source.api_version or one.resource_type.api_version, source.kind)
            found = await ctx.get(kind, source.name) if kind is not None and issubclass(kind, Managed) else None
            if found is not None and found.ref not in reached:
                reached.add(found.ref)
                left.append(found)
    return reached


async def reaching(ctx: Context, subject: Managed) -> list[ClusterManifests]:
    """What has manifests in a cluster that a resource is, and has to take them out before it goes."""
    connection = subject.spec.connection
    if connection is None:
        return []
    found = await ctx.list(ClusterManifests, subject.namespace)
    return [one for one in found if one.spec.kubeconfig.name == connection.secret_name and not one.removed]


async def using(ctx: Context, config: ProviderConfig) -> list[Managed]:
    """The objects that are kept with a credential."""

    def needs(one: Managed) -> bool:
        return one.spec.provider_ref.name == config.name or opens_with(one.spec.ephemeral, config.name)

    return await objects(ctx, await enabled(ctx), config.namespace, needs)


def opens_with(declared: Mapping[str, Ephemeral], name: str) -> bool:
    """Whether one of these is opened with the ProviderConfig of a name."""
    return any(one.provider_ref is not None and one.provider_ref.name == name for one in declared.values())


def told(users: Sequence[Resource]) -> str:
    """`Server web, Server db and 7 more`."""
    names = [f"{type(one).resource_type.kind} {one.name}" for one in users[:NAMED_MAX]]
    more = len(users) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


@reconciler(
    ProviderConfig,
    name="credentials",
    reads=[Provider, Secret],
    writes=[Writes(Secret, ("metadata.finalizers",))],
    family=Managed,
    while_deleting=True,
    workers=1,
)
async def credentials(subject: ProviderConfig, ctx: Context) -> Desired | Requeue:
    """Holds the Secrets of a namespace that ProviderConfigs need, and lets go of the others."""
    needed: set[str] = set()
    try:
        await enabled(ctx)
    except Unseen:
        return Requeue(UNSEEN_S)
    for config in await ctx.list(ProviderConfig, subject.namespace):
        if config.metadata.deletion_timestamp is None or await using(ctx, config):
            needed |= secrets_of(config.spec)
    writes = []
    for secret in await ctx.list(Secret, subject.namespace, where=lambda s: s.name in needed or held(s)):
        if secret.name not in needed:
            writes.append(FieldWrite(secret.ref, {"metadata": {"finalizers": []}}))
        elif held(secret) or secret.metadata.deletion_timestamp is None:
            writes.append(FieldWrite(secret.ref, {"metadata": {"finalizers": [IN_USE]}}))
    return Desired(writes=writes)


def held(secret: Secret) -> bool:
    """Whether a ProviderConfig needs it."""
    return IN_USE in secret.metadata.finalizers


async def config_ends(subject: ProviderConfig, ctx: Context) -> Desired | Requeue:
    """A ProviderConfig goes when nobody needs it, and after it has let go of its Secrets."""
    try:
        users = await using(ctx, subject)
    except Unseen as err:
        return _waits(subject.metadata.generation, str(err), UNSEEN_S)
    if users:
        return _waits(subject.metadata.generation, f"it is still needed by {told(users)}: delete them first")
    others: set[str] = set()
    for config in await ctx.list(ProviderConfig, subject.namespace):
        if config.name != subject.name:
            others |= secrets_of(config.spec)
            if opens_with(config.spec.ephemeral, subject.name):
                return _waits(
                    subject.metadata.generation, f"it is still needed by ProviderConfig {config.name}: delete it first"
                )
    for name in secrets_of(subject.spec):
        secret = await ctx.get(Secret, name)
        if secret is not None and held(secret) and name not in others:
            return Requeue(WAIT_S)
    return Desired()


async def provider_ends(subject: Provider, ctx: Context) -> Desired | Requeue:
    """A Provider goes when there is no object of its kinds."""
    try:
        left = await objects(ctx, await enabled(ctx, subject.name), None, lambda _: True)
    except Unseen as err:
        return _waits(subject.metadata.generation, str(err), UNSEEN_S)
    if left:
        return _waits(subject.metadata.generation, f"there still is {told(left)}: delete them first")
    return Desired()


def _waits(generation: int, message: str, after_s: float = WAIT_S) -> Requeue:
    said = {"type": "Ready", "status": "False", "reason": "InUse", "message": message}
    return Requeue(after_s, status={"observedGeneration": generation, "conditions": [said]})


__all__ = [
    "Unseen",
    "config_ends",
    "credentials",
    "enabled",
    "provider_ends",
    "reaching",
    "referring",
    "told",
    "using",
]
