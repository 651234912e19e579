"""Provider -> whether its program is on this machine, and what it has; ProviderConfig -> whether the provider takes it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import Secret
from trimtab.components.infrastructure.definitions import outdated
from trimtab.components.infrastructure.kinds import Managed, Provider, ProviderConfig
from trimtab.components.infrastructure.loop.users import config_ends, provider_ends
from trimtab.components.infrastructure.programs.shelf import Shelf
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import NO_OPENINGS, NotReady, Providers
from trimtab.runtime import Context, Desired, Requeue, reconciler

if TYPE_CHECKING:
    from trimtab.components.infrastructure.programs.leases import Opening

AGAIN_S = 60.0
"""What a provider refuses is asked again: a cloud that was away at its start, a token that is valid again, tell nobody."""
MISSING_S = 10.0
"""A directory tells nobody that there is something in it: while it is waited for, it is looked into."""


@reconciler(Provider, name="installed", family=Managed, effects=True, workers=1)
async def installed(subject: Provider, ctx: Context) -> Desired | Requeue:
    """Says whether a provider's program is here."""
    if ctx.deleting:
        return await provider_ends(subject, ctx)
    shelf = ctx.adapter(Shelf)
    schema = shelf.schema(subject.spec.checksum)
    if schema is None or not shelf.program(subject.spec.checksum).exists():
        version = f"@{subject.spec.version}" if subject.spec.version else ""
        again = f"trimtab provider install {subject.spec.source}{version}"
        message = f"its program is not on this machine: {again}"
        return Desired(status=_status(subject, 0, "False", "NotInstalled", message), requeue_after_s=MISSING_S)
    missing = [name for name in subject.spec.kinds if name not in schema.resources]
    if missing:
        message = f"it has no resource {missing[0]}: trimtab provider disable {subject.name} {missing[0]}"
        return Desired(status=_status(subject, len(schema.resources), "False", "NoSuchResource", message))
    if outdated(subject):
        message = f"another version of Trimtab defined its kinds: they may lack fields: trimtab provider enable {subject.name}"
        return Desired(status=_status(subject, len(schema.resources), "True", "DefinedBefore", message))
    return Desired(status=_status(subject, len(schema.resources), "True", "Installed", ""))


def _status(subject: Provider, resources: int, status: str, reason: str, message: str) -> JSON:
    return {
        "observedGeneration": subject.metadata.generation,
        "resources": resources,
        "enabled": len(subject.spec.kinds),
        "conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message}],
    }


@reconciler(ProviderConfig, name="configured", reads=[Provider, Secret], family=Managed, effects=True, workers=2)
async def configured(subject: ProviderConfig, ctx: Context) -> Desired | Requeue:
    """Asks the provider whether it takes this configuration."""
    if ctx.deleting:
        return await config_ends(subject, ctx)
    provider = await ctx.get(Provider, subject.spec.provider)
    if provider is None:
        message = f"there is no Provider {subject.spec.provider}: trimtab provider install {subject.spec.provider}"
        return Desired(status=_ready(subject, "False", "NoProvider", message))
    secrets = {}
    for field, ref in subject.spec.secrets.items():
        secret = await ctx.get(Secret, ref.name)
        if secret is None or ref.key not in secret.data:
            what = f"has no key {ref.key}" if secret is not None else "does not exist"
            message = f"{field}: the Secret {ref.name} {what} in namespace {subject.namespace}"
            return Desired(status=_ready(subject, "False", "SecretMissing", message))
        secrets[field] = base64.b64decode(secret.data[ref.key]).decode(errors="replace")
    providers: Providers = ctx.adapter(Providers)  # type: ignore[type-abstract]
    try:
        await providers.talk(provider, subject, secrets, await _openings(subject, ctx, providers))
    except NotReady as err:
        return Desired(status=_ready(subject, "False", err.reason, str(err)), requeue_after_s=AGAIN_S)
    return Desired(status=_ready(subject, "True", "Accepted", ""))


async def _openings(subject: ProviderConfig, ctx: Context, providers: Providers) -> Mapping[str, Opening]:
    """Raises `NotReady`."""
    if not subject.spec.ephemeral:
        return NO_OPENINGS
    from trimtab.components.infrastructure.loop.gathering import Blocked, Sources

    somebody = Managed(metadata=ObjectMeta(name=subject.name, namespace=subject.namespace))
    try:
        sources = Sources(somebody, ctx.get, providers, ctx.adapter(Suspects))
        return await sources.openings(subject.spec.ephemeral, "spec", through=(subject.name,))
    except Blocked as err:
        raise NotReady(err.reason, str(err)) from None


def _ready(subject: ProviderConfig, status: str, reason: str, message: str) -> JSON:
    return {
        "observedGeneration": subject.metadata.generation,
        "conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message}],
    }
