"""`trimtab --context C uninstall`: what `trimtab run` has put into a cluster goes, and what it keeps on this machine.

    nobody works for it, nothing of it is left --> webhooks, CRDs, roles, ingress class, namespace --> state directory

It is refused while there are objects: what they stand for (resources at a provider's, pods) is taken away by `run` alone.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from trimtab.api import JSON, Ref, ResourceType
from trimtab.api.cluster import ClusterRole, CustomResourceDefinition, Lease
from trimtab.api.core import Namespace
from trimtab.api.networking import IngressClass
from trimtab.client import ApiError, WireClient
from trimtab.components.infrastructure import Provider
from trimtab.components.infrastructure.questions.outside import REVIEWS
from trimtab.components.infrastructure.questions.webhooks import NAME as WEBHOOKS
from trimtab.components.infrastructure.questions.webhooks import ValidatingWebhookConfiguration
from trimtab.components.infrastructure.schemas.naming import GROUP_SUFFIX
from trimtab.components.ingress.routes import CLASS
from trimtab.engine.access_roles import BESIDE
from trimtab.engine.bootstrap import SYSTEM_NAMESPACE
from trimtab.engine.errors import EngineError
from trimtab.runtime.effects import Effect
from trimtab.runtime.leases import DURATION_S
from trimtab.runtime.settings import Settings

OWN_GROUP = "trimtab.dev"
LEASE = "trimtab-controllers"
COMPOSED = "trimtab.dev/composed-api"
ROLES = (
    "trimtab:aggregate-to-view",
    "trimtab:aggregate-to-edit",
    BESIDE,
    "trimtab:provider:",
    "trimtab:composition",
)
"""What the names of our roles and their bindings begin with."""
BOOKKEEPING = (Effect.resource_type.plural, REVIEWS.plural)
KEPT = ("journal", "log", "proxy", "run", "providers", "compositions")
NAMED_MAX = 5
EMPTIED_LOOKS, LOOK_S = 100, 0.1
BINDINGS = ResourceType(
    "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False, status=False
)

Say = Callable[[str], None]


async def depart(client: WireClient, settings: Settings, *, really: bool, say: Say) -> None:
    """Takes everything away; without `really` it says what would go. Can be repeated after it failed half-way.

    Raises:
        EngineError: a `trimtab run` works for the cluster, or there are objects left.
    """
    await _nobody_works(client)
    definitions = [one for one in (await client.list(CustomResourceDefinition.resource_type))["items"] if _ours(one)]
    await _nothing_left(client, definitions)
    found = [
        (kind, one)
        for kind in (BINDINGS, ClusterRole.resource_type)
        for one in (await client.list(kind))["items"]
        if one["metadata"]["name"].startswith(ROLES) or (one.get("roleRef") or {}).get("name") == BESIDE
    ]
    roles = [(kind, one["metadata"]["name"]) for kind, one in found if "aggregationRule" not in one]
    gathered = [one["metadata"]["name"] for _, one in found if "aggregationRule" in one]
    what = f"{len(definitions)} kinds, {len(found)} roles and bindings, ingress class {CLASS}, namespace {SYSTEM_NAMESPACE}"
    if not really:
        say(f"would delete of the cluster: {what}; and {settings.data}: say --yes")
        return
    await _delete(client, ValidatingWebhookConfiguration.resource_type, WEBHOOKS)
    for kind, name in roles:
        await _delete(client, kind, name)
    for name in gathered:
        await _emptied(client, name)
        await _delete(client, ClusterRole.resource_type, name)
    for one in definitions:
        await _delete(client, CustomResourceDefinition.resource_type, one["metadata"]["name"])
    await _delete(client, IngressClass.resource_type, CLASS)
    await _delete(client, Namespace.resource_type, SYSTEM_NAMESPACE)
    _forget(settings)
    say(f"deleted of the cluster: {what}; and {settings.data}")


async def _emptied(client: WireClient, name: str) -> None:
    """Waits until the cluster has taken out of a role what it gathered there: what fills it makes it anew when it is deleted meanwhile."""
    for _ in range(EMPTIED_LOOKS):
        if not (await client.get(ClusterRole.resource_type, name) or {}).get("rules"):
            return
        await asyncio.sleep(LOOK_S)


def _forget(settings: Settings) -> None:
    """Removes what `run` keeps in its directory, and the directory when nothing else is in it."""
    for name in KEPT:
        shutil.rmtree(settings.data_path(name), ignore_errors=True)
    settings.data_path("lock").unlink(missing_ok=True)
    with suppress(OSError):
        settings.data_path().rmdir()


async def _nobody_works(client: WireClient) -> None:
    spec = (await client.get(Lease.resource_type, LEASE, SYSTEM_NAMESPACE) or {}).get("spec") or {}
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if holder and renewed and (datetime.now(UTC) - datetime.fromisoformat(renewed)).total_seconds() < DURATION_S:
        raise EngineError(f"`trimtab run` works for this cluster ({holder}): end it first")


def _ours(definition: JSON) -> bool:
    group = definition["spec"]["group"]
    composed = COMPOSED in (definition["metadata"].get("labels") or {})
    return group == OWN_GROUP or group.endswith(f".{GROUP_SUFFIX}") or composed


async def _nothing_left(client: WireClient, definitions: list[JSON]) -> None:
    left: list[str] = []
    for one in definitions:
        spec = one["spec"]
        names = spec["names"]
        if spec["group"] == OWN_GROUP and names["plural"] in BOOKKEEPING:
            continue
        kind = ResourceType(f"{spec['group']}/{spec['versions'][0]['name']}", names["kind"], names["plural"])
        left += [str(Ref.of_wire(item)) for item in (await client.list(kind))["items"]]
    if not left:
        return
    more = f" and {len(left) - NAMED_MAX} more" if len(left) > NAMED_MAX else ""
    hint = ""
    if any(name.startswith(f"{Provider.resource_type.kind} ") for name in left):
        hint = "; a Provider goes by `trimtab provider disable` and `trimtab provider remove`"
    raise EngineError(
        f"there is still {', '.join(left[:NAMED_MAX])}{more}: delete it while `trimtab run` runs, which takes away what it stands for{hint}"
    )


async def _delete(client: WireClient, kind: ResourceType, name: str) -> None:
    try:
        await client.delete(kind, name)
    except ApiError as err:
        if err.status != 404:
            raise EngineError(f"{kind.kind} {name} could not be deleted: {err}") from None
