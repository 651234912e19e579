"""ClusterManifests -> its manifests in the cluster behind its Secret, and what of them runs.

    Secret changed, interval passed --> reach, which cluster is it? --> bring --> what is not ready? --> status; sooner again while something is not

Nothing of it is remembered here but the cluster's uid. How long something has not been so is in its condition, and what is asked of a
cluster that is away, or not ready, is asked less and less often the longer it lasts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from trimtab.api import JSON
from trimtab.api.core import Secret
from trimtab.client import ApiError, ClusterAccess, KubeconfigError, foreign_kubeconfig
from trimtab.components.infrastructure.durations import seconds
from trimtab.components.infrastructure.remote.access import (
    Clusters,
    CredentialsRefused,
    InventoryFault,
    Unreachable,
    reached,
)
from trimtab.components.infrastructure.remote.bring import Brought, bring, remove, several
from trimtab.components.infrastructure.remote.kinds import REMOVED, ClusterManifests
from trimtab.components.infrastructure.remote.order import Item, ManifestFault, named
from trimtab.components.infrastructure.remote.readiness import first_unready
from trimtab.runtime import Context, Desired, FieldWrite, Requeue, Writes, reconciler

SOON_S = 1.0
LATE_S = 300.0
SHARE = 0.25
"""Of the time that something has lasted already: the wait until it is looked at again."""
EFFECT = "manifests"
IN_USE = "trimtab.dev/kubeconfig-in-use"
"""The finalizer of a Secret whose kubeconfig is needed: whatever is deleted at once, what was brought in can be taken out again."""

REASONS = {
    "Applied": "All manifests are in the cluster.",
    "WorkloadsReady": "What the manifests made in the cluster runs.",
    "NotReady": "Something of it does not run yet in the cluster; the message has the first, and why.",
    "KubeconfigInvalid": "The Secret's kubeconfig cannot be used; the message says what is wrong with it.",
    "NoKubeconfig": "The Secret with the kubeconfig, or its key, is not there yet. It is waited for.",
    "NoSecret": "A Secret of spec.secrets is not there yet. It is waited for, and what is in the cluster stays as it is.",
    "Unreachable": "The cluster does not answer. It is asked again, less and less often.",
    "CredentialsRefused": "The cluster does not accept the kubeconfig's credentials. A change of the Secret is acted on at once.",
    "InvalidManifest": "A manifest is no object; the message has its place in the list.",
    "Refused": "The cluster refused a manifest, or has an object of this name that somebody else made; the message names it.",
    "WaitingForKind": "The cluster does not have the kind of a manifest yet: what defines it may still be starting.",
    REMOVED: "It is deleted, and what it brought into the cluster is gone, or was left there as it says; the object goes next.",
    "InventoryUnreadable": "Somebody changed what the cluster remembers of what was brought in; the message says what to delete.",
    "Removing": "Something that is no longer in the list is still being deleted in the cluster.",
}


class NotNow(Exception):
    """It cannot be gone on. reason: of the condition Applied; its text is one line."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@reconciler(
    ClusterManifests,
    reads=[Secret],
    writes=[Writes(Secret, ("metadata.finalizers",))],
    effects=True,
    workers=8,
    name="manifests",
)
async def manifests(subject: ClusterManifests, ctx: Context) -> Desired | Requeue:
    """Brings the manifests in and says what of them runs."""
    if ctx.deleting:
        return await _ending(subject, ctx)
    return replace(await _kept_so(subject, ctx), writes=await _holds(subject, ctx))


async def _kept_so(subject: ClusterManifests, ctx: Context) -> Desired:
    try:
        wanted = named(subject.spec.manifests)
        kubeconfig = await _kubeconfig(subject, ctx)
        access = _access(subject, kubeconfig)
        wanted += await _carried(subject, ctx, wanted)
        await ctx.effect(EFFECT, find=_nothing, do=_something)
        async with reached(ctx.adapter(Clusters), access) as cluster:  # type: ignore[type-abstract]
            uid = await cluster.uid()
            began = ctx.now
            done = await bring(cluster, subject.metadata.uid, str(subject.ref), wanted)
            _say(subject, ctx, uid, done, began)
            unready = await first_unready(cluster, done.there)
    except ManifestFault as err:
        return _not_now(subject, ctx, NotNow("InvalidManifest", str(err)))
    except Unreachable as err:
        return _not_now(subject, ctx, NotNow("Unreachable", str(err)))
    except InventoryFault as err:
        return _not_now(subject, ctx, NotNow("InventoryUnreadable", str(err)))
    except CredentialsRefused as err:
        return _not_now(subject, ctx, NotNow("CredentialsRefused", str(err)))
    except NotNow as err:
        return _not_now(subject, ctx, err)
    seen = {"kubeconfig": digest(kubeconfig), "outputs": _outputs(subject, done.there)}
    return _outcome(subject, ctx, uid, done, unready, seen)


def digest(kubeconfig: str) -> str:
    """Of a kubeconfig as a Secret has it: says whether two are the same, and nothing of what is in it."""
    return hashlib.blake2s(kubeconfig.encode(), digest_size=16).hexdigest()


async def _kubeconfig(subject: ClusterManifests, ctx: Context) -> str:
    """As the Secret has it. Raises `NotNow`."""
    ref = subject.spec.kubeconfig
    secret = await ctx.get(Secret, ref.name)
    if secret is None:
        raise NotNow("NoKubeconfig", f"there is no Secret {ref.name} in namespace {subject.namespace} yet")
    if (raw := secret.data.get(ref.key)) is None:
        has = ", ".join(sorted(secret.data)) or "none"
        raise NotNow("NoKubeconfig", f"the Secret {ref.name} has no key {ref.key}; it has {has}")
    return raw


def _access(subject: ClusterManifests, kubeconfig: str) -> ClusterAccess:
    """Raises `NotNow`."""
    ref = subject.spec.kubeconfig
    try:
        text = base64.b64decode(kubeconfig).decode(errors="replace")
        return foreign_kubeconfig(text, f"Secret {ref.name}, key {ref.key}")
    except KubeconfigError as err:
        raise NotNow("KubeconfigInvalid", str(err)) from None


async def _carried(subject: ClusterManifests, ctx: Context, wanted: list[tuple[Item, JSON]]) -> list[tuple[Item, JSON]]:
    """The Secrets of `spec.secrets`, as they are to be in there. Raises `NotNow`."""
    listed = {(item.kind, item.name, item.namespace) for item, _ in wanted}
    out: list[tuple[Item, JSON]] = []
    for one in subject.spec.secrets:
        if ("Secret", one.name, one.namespace) in listed:
            raise NotNow("InvalidManifest", f"spec.secrets: Secret {one.name} is in spec.manifests, too: leave one out")
        secret = await ctx.get(Secret, one.name)
        if secret is None:
            where = f"there is no Secret {one.name} in namespace {subject.namespace} yet"
            raise NotNow("NoSecret", f"spec.secrets: {where}")
        item = Item("v1", "Secret", one.namespace, one.name)
        meta = {"name": one.name} | ({"namespace": one.namespace} if one.namespace else {})
        whole = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": secret.type, "data": dict(secret.data)}
        out.append((item, whole))
    return out


def _outputs(subject: ClusterManifests, there: Mapping[Item, JSON]) -> JSON:
    """What `spec.outputs` names, as far as it is there."""
    out: JSON = {}
    for key, wanted in subject.spec.outputs.items():
        for item, live in there.items():
            if (item.kind, item.name) == (wanted.kind, wanted.name) and item.kind != "Secret":
                value = _at(live, wanted.field)
                out |= {key: value} if value is not None else {}
    return out


def _at(live: JSON, path: str) -> Any:
    from trimtab.components.infrastructure.schemas.changes import at

    try:
        return at(live, path)
    except ValueError:
        return None


def _say(subject: ClusterManifests, ctx: Context, uid: str, done: Brought, began: datetime) -> None:
    before = subject.status.cluster_uid
    took_ms = (ctx.now - began).total_seconds() * 1000
    if before and before != uid:
        ctx.event(
            "ClusterReplaced",
            f"behind Secret {subject.spec.kubeconfig.name} is another cluster now ({before} before, {uid} now): everything is applied anew",
            warning=True,
        )
    if done.new:
        ctx.event("Applied", f"{done.new} of {len(done.there)} objects were not in cluster {uid}", duration_ms=took_ms)
    if done.removed:
        ctx.event("Pruned", f"no longer in the list, and deleted: {several([str(item) for item in done.removed])}")


def _outcome(
    subject: ClusterManifests, ctx: Context, uid: str, done: Brought, unready: str | None, seen: JSON
) -> Desired:
    if done.refused:
        applied = _condition("Applied", "False", "Refused", several(done.refused))
    elif done.waiting:
        applied = _condition("Applied", "False", "WaitingForKind", several(done.waiting))
    elif done.left:
        applied = _condition("Applied", "False", "Removing", several([str(item) for item in done.left]))
    else:
        applied = _condition("Applied", "True", "Applied", f"{len(done.there)} objects")
    if unready:
        ready = _condition("Ready", "False", "NotReady", unready)
    elif applied["status"] != "True":
        ready = applied | {"type": "Ready"}
    else:
        ready = _condition("Ready", "True", "WorkloadsReady", "")
        if (since := _not_ready_since(subject)) is not None:
            took_ms = (ctx.now - since).total_seconds() * 1000
            ctx.event("Ready", f"everything runs in cluster {uid}", duration_ms=took_ms)
    interval_s = max(seconds(subject.spec.interval), SOON_S)
    calm = applied["status"] == ready["status"] == "True"
    again_s = interval_s if calm else min(_backed_off(subject, ctx, "Ready"), interval_s)
    status = _status(subject, [applied, ready]) | {"clusterUid": uid, "objects": len(done.there)} | seen
    return Desired(status=status, requeue_after_s=_jittered(ctx, again_s))


def _not_now(subject: ClusterManifests, ctx: Context, err: NotNow) -> Desired:
    applied = _condition("Applied", "False", err.reason, str(err))
    status = _status(subject, [applied, applied | {"type": "Ready"}])
    before = subject.status
    status |= {"clusterUid": before.cluster_uid, "objects": before.objects}
    status |= {"kubeconfig": before.kubeconfig, "outputs": before.outputs}
    again_s = _backed_off(subject, ctx, "Applied")
    return Desired(status=status, requeue_after_s=_jittered(ctx, again_s))


def _condition(type_: str, status: str, reason: str, message: str) -> JSON:
    return {"type": type_, "status": status, "reason": reason, "message": message}


def _status(subject: ClusterManifests, conditions: list[JSON]) -> JSON:
    return {"conditions": conditions, "observedGeneration": subject.metadata.generation}


def _not_ready_since(subject: ClusterManifests) -> datetime | None:
    ready = next((c for c in subject.status.conditions if c.type == "Ready"), None)
    if ready is None:
        return subject.metadata.creation_timestamp
    return ready.last_transition_time if ready.status != "True" else None


def _backed_off(subject: ClusterManifests, ctx: Context, type_: str) -> float:
    """Seconds until it is looked at again: a share of how long it has not been well already. What is not ready counts from when it was
    applied, if that was later."""
    since = {c.type: c for c in subject.status.conditions}
    one, applied = since.get(type_), since.get("Applied")
    if one is None or one.status == "True" or one.last_transition_time is None:
        return SOON_S
    began = one.last_transition_time
    if applied is not None and applied.status == "True" and applied.last_transition_time is not None:
        began = max(began, applied.last_transition_time)
    return min(max((ctx.now - began).total_seconds() * SHARE, SOON_S), LATE_S)


def _jittered(ctx: Context, delay_s: float) -> float:
    return max(SOON_S, delay_s * (0.9 + 0.2 * ctx.random.random()))


# Ending


async def _ending(subject: ClusterManifests, ctx: Context) -> Desired | Requeue:
    await ctx.effect(EFFECT, find=_something, do=_something)
    if not subject.removed:
        await _pruned(subject, ctx)
        # Written down before its Secret is let go, so that nothing is looked for with it any more.
        applied = _condition("Applied", "False", REMOVED, "")
        return Requeue(0.0, status=_status(subject, [applied, applied | {"type": "Ready"}]))
    return Desired(writes=await _holds(subject, ctx))


async def _holds(subject: ClusterManifests, ctx: Context) -> list[FieldWrite]:
    """Holds the Secrets of the namespace that are needed, and lets go of the others."""
    needed = {
        one.spec.kubeconfig.name for one in await ctx.list(ClusterManifests, subject.namespace) if not one.removed
    }
    writes = []
    for secret in await ctx.list(Secret, subject.namespace, where=lambda s: s.name in needed or _held(s)):
        if secret.name not in needed:
            writes.append(FieldWrite(secret.ref, {"metadata": {"finalizers": []}}))
        elif _held(secret) or secret.metadata.deletion_timestamp is None:
            writes.append(FieldWrite(secret.ref, {"metadata": {"finalizers": [IN_USE]}}))
    return writes


def _held(secret: Secret) -> bool:
    return IN_USE in secret.metadata.finalizers


async def _pruned(subject: ClusterManifests, ctx: Context) -> None:
    """Takes out of the cluster what was brought in. Raises with one line while something stands in the way."""
    if subject.spec.deletion == "leave":
        return
    owner = subject.metadata.uid
    try:
        access = _access(subject, await _kubeconfig(subject, ctx))
        async with reached(ctx.adapter(Clusters), access) as cluster:  # type: ignore[type-abstract]
            items = await cluster.inventory(owner)
            if items is None:
                return
            _, left = await remove(cluster, owner, items)
            if not left:
                await cluster.forget(owner)
                ctx.event("Removed", f"what was brought into cluster {subject.status.cluster_uid} is gone from it")
                return
    except (NotNow, Unreachable, CredentialsRefused, InventoryFault, ApiError) as err:
        _abandon_or_wait(subject, ctx, err)
        return
    raise StillThere(f"still being deleted in the cluster: {several([str(item) for item in left])}")


class StillThere(Exception):
    """Something that is to be deleted is not gone yet: one line."""


def _abandon_or_wait(subject: ClusterManifests, ctx: Context, err: Exception) -> None:
    """Without its kubeconfig nobody will ever reach the cluster; what does not answer is waited for, for a while."""
    reason = err.reason if isinstance(err, NotNow) else ""
    since = subject.metadata.deletion_timestamp
    waited_s = (ctx.now - since).total_seconds() if since is not None else 0.0
    patience_s = seconds(subject.spec.abandon_after)
    if reason != "NoKubeconfig" and waited_s < patience_s:
        raise StillThere(
            f"{err}; waited for until {subject.spec.abandon_after} have passed (spec.abandonAfter)"
        ) from None
    ctx.event(
        "Abandoned",
        f"{subject.status.objects} objects were left in cluster {subject.status.cluster_uid or 'that was never reached'}: {err}",
        warning=True,
    )


async def _nothing() -> Any | None:
    return None


async def _something() -> Any:
    return {}
