"""App -> database, secrets, migration, processes, names; and back: one line that says how it is.

The order is the promise. The database and the secrets stand first. A new version's migration runs as a Job while the
version before it serves on; only when the Job is complete are the Deployments changed to the new image. A migration that
fails changes nothing. What the Deployments then do (new beside old, ready, in the proxy, then the old drained) is the
work of `workloads`, `node` and `ingress`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from trimtab.api import JSON, Condition, Ref, Resource
from trimtab.api.core import HOOK_NAMESPACE, HOOK_SERVICE, Pod, Secret
from trimtab.api.core import Service as ServiceKind
from trimtab.api.jobs import Job
from trimtab.api.networking import Ingress
from trimtab.api.workloads import Deployment, StatefulSet
from trimtab.components.apps import render
from trimtab.components.apps.kinds import App
from trimtab.runtime import Context, Desired, Owned, reconciler

REASONS = {
    "Serving": "Every process of the wanted version is ready and, where there are domains, the proxy sends it requests.",
    "DatabaseStarting": "The database is being started; processes wait for it.",
    "Migrating": "The migration of the new version runs; the version before it serves on.",
    "MigrationFailed": "The migration failed; the version before it serves on. Mend it and run `trimtab up` again.",
    "RollingOut": "New processes are being started beside the old ones.",
    "NotReady": "Processes of the new version do not get ready; the version before it serves on.",
    "Unhealthy": "The version that served has lost processes; they are being restarted.",
    "SecretMissing": "A Secret or a key that the app refers to does not exist; create it.",
}


@dataclass
class Release:
    """What one run decided: the objects, and the state in a word and a line."""

    objects: list[Resource] = field(default_factory=list)
    keep: list[Ref] = field(default_factory=list)
    reason: str = "Serving"
    message: str = "serving"


@reconciler(
    App,
    reads=[Secret, Deployment, StatefulSet, Job, Pod, Ingress],
    owns=[Owned(k) for k in (Secret, ServiceKind, Ingress, Deployment, StatefulSet, Job)],
)
async def app(app: App, ctx: Context) -> Desired:
    release = Release()
    missing = await _missing_secrets(app, ctx)
    secrets = await _secrets(app, ctx)
    release.objects += secrets
    secrets_hash = render.hash_of_secrets(await _given_secrets(app, ctx))

    for name in app.spec.processes:
        if made := render.service(app, name):
            release.objects.append(made)
    if route := render.ingress(app):
        release.objects.append(route)

    deployed = {d.name: d for d in await ctx.list(Deployment, app.namespace, render.labels_of_app(app))}
    hook = await _hook_address(ctx)
    wanted = [render.deployment(app, name, secrets_hash, hook) for name in app.spec.processes]

    database_ready = await _database(app, ctx, release)
    if missing:
        _hold(release, wanted, deployed, "SecretMissing", missing)
    elif not database_ready and not deployed:
        _hold(release, wanted, deployed, "DatabaseStarting", await _waiting_for_database(app, ctx))
    elif await _migrated(app, ctx, release, secrets_hash):
        release.objects += wanted
        await _judge(app, ctx, release, wanted, deployed)
    else:
        release.keep += [d.ref for d in deployed.values()]

    return Desired(
        objects=release.objects, keep=release.keep, status=await _status(app, ctx, release, wanted, deployed)
    )


async def _hook_address(ctx: Context) -> str:
    """Where preStop hooks ask whether the proxy has let go; empty where the node agent is ours and waits by itself."""
    service = await ctx.get(ServiceKind, HOOK_SERVICE, HOOK_NAMESPACE)
    return (service.spec.cluster_ip or "") if service is not None else ""


def _hold(
    release: Release, wanted: list[Deployment], deployed: dict[str, Deployment], reason: str, message: str
) -> None:
    """The processes stay as they are, for a reason."""
    release.keep += [d.ref for d in deployed.values()]
    release.reason, release.message = reason, message


async def _secrets(app: App, ctx: Context) -> list[Secret]:
    """The Secrets that we make: those that stand are kept by their value, the others are made now."""
    made: list[Secret] = []
    if app.spec.database:
        fresh = render.database_secret(app, ctx.random)
        made.append(await _standing(fresh, ctx))
    for name, secret in sorted(app.spec.secrets.items()):
        if secret.generate:
            made.append(await _standing(render.generated_secret(app, name, secret.generate, ctx.random), ctx))
    return made


async def _standing(fresh: Secret, ctx: Context) -> Secret:
    standing = await ctx.get(Secret, fresh.name, fresh.namespace)
    if standing is not None:
        fresh.data = standing.data
    return fresh


async def _given_secrets(app: App, ctx: Context) -> list[Secret]:
    names = sorted({s.secret_name for s in app.spec.secrets.values() if s.secret_name})
    found = [await ctx.get(Secret, name, app.namespace) for name in names]
    return [secret for secret in found if secret is not None]


async def _missing_secrets(app: App, ctx: Context) -> str:
    for variable, source in sorted(app.spec.secrets.items()):
        if source.generate:
            continue
        if not source.secret_name or not source.key:
            return f"secrets.{variable}: has no source; write generate, or secretName and key"
        secret = await ctx.get(Secret, source.secret_name, app.namespace)
        if secret is None:
            return f"secrets.{variable}: Secret {source.secret_name} does not exist; create it"
        if source.key not in secret.data:
            return f"secrets.{variable}: Secret {source.secret_name} has no key {source.key}; add it"
    return ""


async def _database(app: App, ctx: Context, release: Release) -> bool:
    """Declares the database; True when it answers, or when there is none."""
    if app.spec.database is None:
        return True
    wanted = render.database_stateful_set(app, app.spec.database)
    release.objects += [render.database_service(app), wanted]
    standing = await ctx.get(StatefulSet, wanted.name, app.namespace)
    return standing is not None and standing.status.ready_replicas >= 1


async def _waiting_for_database(app: App, ctx: Context) -> str:
    """What keeps the database from answering, as far as its pod says (no volume for it, no image), in a line."""
    pods = await ctx.list(Pod, app.namespace, render.labels(app, "db"))
    trouble = next((line for pod in pods if (line := pod_trouble(pod))), "")
    return f"waiting for the database: {trouble}" if trouble else "waiting for the database"


async def _migrated(app: App, ctx: Context, release: Release, secrets_hash: str) -> bool:
    """Declares the migration of this version; True when it is done, or when there is none."""
    job = render.migration_job(app, secrets_hash)
    if job is None:
        return True
    release.objects.append(job)
    standing = await ctx.get(Job, job.name, app.namespace)
    conditions = {c.type: c for c in standing.status.conditions} if standing else {}
    if _true(conditions.get("Complete")):
        return True
    if failed := _true(conditions.get("Failed")):
        why = await _last_words(app, ctx, job.name) or failed.message or failed.reason
        release.reason = "MigrationFailed"
        release.message = f"migration failed: {why} (logs: trimtab logs job/{job.name})"
    else:
        release.reason, release.message = "Migrating", "migrating the database to the new version"
    return False


def _true(condition: Condition | None) -> Condition | None:
    return condition if condition is not None and condition.status == "True" else None


async def _last_words(app: App, ctx: Context, job: str) -> str:
    """The last line that the newest failed pod of a Job left behind."""
    pods = await ctx.list(Pod, app.namespace, {"batch.kubernetes.io/job-name": job})
    for pod in sorted(pods, key=lambda p: p.name, reverse=True):
        for status in pod.status.container_statuses:
            ended = status.state.terminated or status.last_state.terminated
            if ended and ended.exit_code:
                lines = ended.message.strip().splitlines()
                return lines[-1][:300] if lines else f"exit code {ended.exit_code}"
    return ""


# How it is


async def _judge(
    app: App, ctx: Context, release: Release, wanted: list[Deployment], deployed: dict[str, Deployment]
) -> None:
    for one in wanted:
        standing = deployed.get(one.name)
        if standing is None or not _same_template(standing, one) or not _observed(standing):
            release.reason, release.message = "RollingOut", f"rolling out {one.name}"
            return
        replicas = one.spec.replicas if one.spec.replicas is not None else 1
        status = standing.status
        if status.updated_replicas < replicas or status.replicas > status.updated_replicas:
            trouble = await _trouble(app, ctx, one, standing)
            release.reason = "NotReady" if trouble else "RollingOut"
            release.message = trouble or f"rolling out {one.name}: {status.updated_replicas}/{replicas} started"
            if trouble and status.available_replicas:
                release.message += "; the version before it serves on"
            return
        if status.available_replicas < replicas:
            trouble = await _trouble(app, ctx, one, standing)
            release.reason = "Unhealthy" if trouble else "RollingOut"
            release.message = trouble or f"waiting for {one.name}: {status.available_replicas}/{replicas} ready"
            return


def _observed(standing: Deployment) -> bool:
    return standing.status.observed_generation >= standing.metadata.generation


def _same_template(standing: Deployment, wanted: Deployment) -> bool:
    """Whether the Deployment already asks for this version (compared by what an App decides)."""

    def essence(d: Deployment) -> object:
        c = d.spec.template.spec.containers[0] if d.spec.template.spec.containers else None
        note = d.spec.template.metadata.annotations.get(render.SECRETS_HASH, "")
        return (c.image, c.command, msgspec.json.encode(c.env), note, c.lifecycle, d.spec.replicas) if c else None

    return essence(standing) == essence(wanted)


async def _trouble(app: App, ctx: Context, one: Deployment, standing: Deployment) -> str:
    """What keeps the newest processes from being ready, in a line; empty while nothing is wrong yet."""
    component = one.metadata.labels["app.kubernetes.io/component"]
    pods = await ctx.list(Pod, app.namespace, render.labels(app, component))
    image = one.spec.template.spec.containers[0].image
    for pod in pods:
        if pod.metadata.deletion_timestamp or not pod.spec.containers or pod.spec.containers[0].image != image:
            continue
        if line := pod_trouble(pod):
            return f"{component}: {line}"
    progressing = {c.type: c for c in standing.status.conditions}.get("Progressing")
    if progressing and progressing.status == "False":
        return f"{component}: {progressing.message}"
    return ""


def pod_trouble(pod: Pod) -> str:
    """What is wrong with a pod, in a line; empty when nothing is."""
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.message or "cannot be scheduled"
    for status in pod.status.container_statuses:
        waiting, ended = status.state.waiting, status.state.terminated or status.last_state.terminated
        if waiting and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
            last = ended.message.strip().splitlines() if ended and ended.message else []
            exit_text = f", exit code {ended.exit_code}" if ended else ""
            said = f": {last[-1][:300]}" if last else (f": {waiting.message}" if waiting.message else "")
            return f"{waiting.reason}{exit_text}{said} (logs: trimtab logs {pod.name})"
        if ended and status.restart_count > 1 and not status.ready:
            return (
                f"restarted {status.restart_count} times, exit code {ended.exit_code} (logs: trimtab logs {pod.name})"
            )
    return ""


def address(domain: str, route: Ingress | None) -> str:
    """Where a domain is reached: at 443, or at the port that the Ingress reports first."""
    balancers = route.status.load_balancer.ingress if route else []
    ports = [port.port for balancer in balancers for port in balancer.ports]
    return f"https://{domain}" if not ports or 443 in ports else f"https://{domain}:{ports[0]}"


async def _status(
    app: App, ctx: Context, release: Release, wanted: Sequence[Deployment], deployed: dict[str, Deployment]
) -> JSON:
    total = sum(1 if d.spec.replicas is None else d.spec.replicas for d in wanted)
    ready = sum(d.status.ready_replicas for d in deployed.values())
    images = {d.spec.template.spec.containers[0].image for d in deployed.values() if d.spec.template.spec.containers}
    url = ""
    if route := render.ingress(app):
        standing = await ctx.get(Ingress, route.name, app.namespace)
        url = address(app.spec.domains[0], standing)
        if release.reason == "Serving" and (standing is None or not standing.status.load_balancer.ingress):
            release.reason, release.message = "RollingOut", "waiting for the proxy to take the route"
    serving = release.reason == "Serving"
    return {
        "observedGeneration": app.metadata.generation,
        "ready": f"{min(ready, total)}/{total}",
        "url": url,
        "image": app.spec.image if serving else (app.status.image or next(iter(images), "")),
        "message": release.message,
        "conditions": [
            {
                "type": "Ready",
                "status": "True" if serving else "False",
                "reason": release.reason,
                "message": release.message,
                "observedGeneration": app.metadata.generation,
            }
        ],
    }
