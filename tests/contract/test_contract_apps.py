"""The apps component under the contract kit: a user ships, changes and breaks an app while the world answers late."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from typing import Any

import pytest

from simulated_api import make_api
from store_release import EARLIER
from trimtab.api import JSON, Resource
from trimtab.api.core import Secret, Service
from trimtab.api.jobs import Job
from trimtab.api.networking import Ingress
from trimtab.api.workloads import Deployment, StatefulSet
from trimtab.components.apps import COMPONENT
from trimtab.components.apps.kinds import App, AppDatabase, AppMigration, AppProcess, AppSecret, AppSpec
from trimtab.runtime.contract import Case, Scenario, Stage, contract

STEP_S = 0.7
BROKEN = "broken"
"""An image whose migration fails."""


def shop(image: str = "shop@sha256:1", **changes: Any) -> App:
    spec = AppSpec(
        image=image,
        processes={
            "web": AppProcess(command=["serve"], port=8000, health="/ok", replicas=2),
            "worker": AppProcess(command=["work"]),
        },
        env={"A": "1"},
        secrets={"KEY": AppSecret(generate=20)},
        database=AppDatabase(image="postgres@sha256:2"),
        migration=AppMigration(command=["migrate"]),
        domains=["shop.localhost"],
    )
    for name, value in changes.items():
        setattr(spec, name, value)
    made = App(spec=spec)
    made.metadata.name, made.metadata.namespace = "shop", "default"
    return made


async def world(stage: Stage) -> None:
    """Plays workloads, nodes and proxy: whatever is asked for gets ready a little later, each object once a version."""
    while True:
        for database in await stage.list(StatefulSet):
            await told(stage, database, {"replicas": 1, "readyReplicas": 1}, database.status.ready_replicas == 1)
        for job in await stage.list(Job):
            failed = job.spec.template.spec.containers[0].image == BROKEN
            await told(stage, job, ended(stage, failed=failed), bool(job.status.conditions))
        for deployment in await stage.list(Deployment):
            count = deployment.spec.replicas or 0
            status = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
            status["observedGeneration"] = deployment.metadata.generation
            await told(
                stage, deployment, status, deployment.status.observed_generation == deployment.metadata.generation
            )
        for ingress in await stage.list(Ingress):
            status = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}
            await told(stage, ingress, status, bool(ingress.status.load_balancer.ingress))
        await stage.changed(StatefulSet, Job, Deployment, Ingress, settle_s=STEP_S)


def ended(stage: Stage, *, failed: bool) -> JSON:
    """The status of a Job that ended, with all that the API wants such a Job to say."""
    at = stage.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    message = "no such table" if failed else ""
    types = ("FailureTarget", "Failed") if failed else ("SuccessCriteriaMet", "Complete")
    conditions = [
        {"type": type_, "status": "True", "reason": "Ended", "message": message, "lastTransitionTime": at}
        for type_ in types
    ]
    status = {"startTime": at, "uncountedTerminatedPods": {}, "conditions": conditions}
    return status | ({"failed": 1} if failed else {"succeeded": 1, "completionTime": at})


async def told(stage: Stage, target: Resource, status: JSON, known: bool) -> None:
    if known or target.metadata.deletion_timestamp:
        return
    from trimtab.client import ApiError

    try:
        await stage.client.patch(target, {"status": status}, manager="world", subresource="status")
    except ApiError as err:
        if err.status not in (404, 409):
            raise


def ready(app: App | None) -> tuple[str, str]:
    for condition in app.status.conditions if app else ():
        if condition.type == "Ready":
            return condition.status, condition.reason
    return "", ""


async def serving(stage: Stage) -> str | None:
    app = await stage.get(App, "shop")
    if app is None or ready(app) != ("True", "Serving"):
        return f"not serving: {app and app.status.message}"
    for name in app.spec.processes:
        deployment = await stage.get(Deployment, f"shop-{name}")
        if deployment is None or deployment.spec.template.spec.containers[0].image != app.spec.image:
            return f"process {name} does not run the wanted image"
    if [d.name for d in await stage.list(Deployment)] != [f"shop-{n}" for n in sorted(app.spec.processes)]:
        return "processes are left that nobody wants"
    secret = await stage.get(Secret, "shop-db")
    if app.spec.database and (secret is None or len(base64.b64decode(secret.data["password"])) != 32):
        return "the database has no password"
    return None


async def old_one_serves(stage: Stage) -> str | None:
    app = await stage.get(App, "shop")
    if app is None or ready(app)[1] != "MigrationFailed":
        return f"expected a failed migration: {app and app.status.message}"
    deployment = await stage.get(Deployment, "shop-web")
    image = deployment and deployment.spec.template.spec.containers[0].image
    return None if image == "shop@sha256:1" else f"traffic goes to {image}"


async def waits_for_secret(stage: Stage) -> str | None:
    app = await stage.get(App, "shop")
    return None if ready(app)[1] == "SecretMissing" else f"does not say that the secret is missing: {ready(app)}"


async def new_version(stage: Stage) -> None:
    await until_serving(stage)
    await stage.apply(shop("shop@sha256:9", env={"A": "2"}))


async def broken_version(stage: Stage) -> None:
    await until_serving(stage)
    await stage.apply(shop(BROKEN))


async def until_serving(stage: Stage) -> None:
    problem = await serving(stage)
    while problem:
        await asyncio.sleep(STEP_S)
        problem = await serving(stage)


async def fewer_parts(stage: Stage) -> None:
    await until_serving(stage)
    await stage.apply(shop(processes={"web": AppProcess(command=["serve"], port=8000)}, migration=None))


async def somebody_deletes(stage: Stage) -> None:
    for deployment in await stage.list(Deployment):
        await stage.delete(deployment)


def missing_secret() -> App:
    return shop(secrets={"TOKEN": AppSecret(secret_name="elsewhere", key="token")})


SCENARIOS = [
    Scenario("ships-and-changes", objects=[shop()], steps=[new_version], goal=serving, world=world),
    Scenario("processes-deleted", objects=[shop()], steps=[somebody_deletes], goal=serving, world=world),
    Scenario("fewer-parts", objects=[shop()], steps=[fewer_parts], goal=serving, world=world),
    Scenario("bad-migration", objects=[shop()], steps=[broken_version], goal=old_one_serves, world=world),
    Scenario("missing-secret", objects=[missing_secret()], goal=waits_for_secret, world=world),
]
JUDGED = COMPONENT
SCENARIOS = [dataclasses.replace(s, ignore=(Secret, Service)) for s in SCENARIOS]


@pytest.mark.parametrize("case", contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER), ids=str)
def test_apps_contract(case: Case) -> None:
    case.run()
