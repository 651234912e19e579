"""The ingress component under the contract kit: rollouts, crashes and bad input, while the API and the proxy answer late.

Whenever the world stops a pod, no worker of the simulated proxy may still be willing to send it a request.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from ingress_world import ca_secret, endpoint_slice, engine_ca, ingress, pod, running_status, service, tls_secret
from simulated_api import make_api
from simulated_envoy import SimulatedEnvoy
from store_release import EARLIER
from trimtab.api import ObjectMeta, from_wire
from trimtab.api.core import PROXIED, ConfigMap, Pod, Secret, Service
from trimtab.api.networking import EndpointSlice, Ingress, IngressClass
from trimtab.client.clock import Clock
from trimtab.components.ingress import COMPONENT, Proxy
from trimtab.components.ingress.certificates import is_issued
from trimtab.components.ingress.reconcile import DEFAULT_SECRET, PROBLEM
from trimtab.components.ingress.upkeep import ingress_class
from trimtab.runtime.contract import Case, Scenario, Stage, contract
from trimtab.runtime.settings import Settings
from trimtab.runtime.simulation import EPOCH

CLUSTER = "shop/web:80"
GRACE_S = 3600
"""So long that no drain is ever cut short here: every stop must be a clean one."""
LOOK_S = 0.375
LOOK_S_MAX = 5.0
"""The world looks less often while nothing happens."""
CA = engine_ca(EPOCH)
OTHER_CA = engine_ca(EPOCH)


def settings() -> Settings:
    return Settings(id="51de00", data="/nonexistent/data", run="/nonexistent/run")


def proxy(clock: Clock) -> Mapping[type, Any]:
    return {
        Proxy: SimulatedEnvoy(clock, settings(), refuses={"sds/shop.refused-brought.json": "Envoy does not like it"})
    }


def wanted(version: int) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name="release", namespace="shop"), data={"version": str(version)})


class World:
    """Plays Deployment, endpoint controller and node for pods `web-N`, where N is the wanted release."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.envoy: SimulatedEnvoy = stage.adapter(Proxy)  # type: ignore[type-abstract, assignment]
        self.seen_at: dict[str, float] = {}

    async def run(self) -> None:
        delay_s, before = LOOK_S, ""
        while True:
            release = await self.stage.get(ConfigMap, "release", "shop")
            pods = {p.name: p for p in await self.stage.list(Pod, "shop")}
            if release is not None:
                await self.deploy(int(release.data["version"]), pods)
            for one in pods.values():
                await self.run_pod(one, crashed=release is not None and release.data.get("crashed") == one.name)
            await self.publish(list(pods.values()), exists=release is not None)
            now = str([(p.name, p.metadata.resource_version) for p in pods.values()]) + str(release)
            delay_s = LOOK_S if now != before else min(delay_s * 1.5, LOOK_S_MAX)
            before = now
            await asyncio.sleep(delay_s)

    async def deploy(self, version: int, pods: Mapping[str, Pod]) -> None:
        name = f"web-{version}"
        if name not in pods:
            await self.stage.client.apply(pod(name, grace_s=GRACE_S), manager="deployment")
        elif attached(pods[name]):
            for old in pods.values():
                if old.name != name and old.metadata.deletion_timestamp is None:
                    await self.stage.delete(old)

    async def run_pod(self, one: Pod, *, crashed: bool) -> None:
        if one.metadata.deletion_timestamp is not None:
            gate = next((c.status for c in one.status.conditions if c.type == PROXIED), "False")
            if gate == "False":
                assert ip_of(one.name) + ":8080" not in self.envoy.sends_to(), (
                    f"{one.name} stopped while it gets requests"
                )
                await self.stage.client.delete(one, grace_period_s=0)
            return
        ready = not crashed and self.stage.clock.now().timestamp() > self.seen_at.setdefault(one.name, self.now()) + 1.0
        status = running_status(ip_of(one.name), ready=ready)
        known = next((c.status for c in one.status.conditions if c.type == "ContainersReady"), None)
        if known != ("True" if ready else "False"):
            body = from_wire(Pod, {"metadata": {"name": one.name, "namespace": "shop"}, "status": status})
            await self.stage.client.apply(body, manager="node", subresource="status")

    def now(self) -> float:
        return self.stage.clock.now().timestamp()

    async def publish(self, pods: list[Pod], *, exists: bool) -> None:
        before = await self.stage.get(EndpointSlice, "web-1", "shop")
        fresh = endpoint_slice([(p.name, p.metadata.uid, ip_of(p.name)) for p in pods])
        if exists and (before is None or before.endpoints != fresh.endpoints):
            await self.stage.client.apply(fresh, manager="endpoints")


def ip_of(name: str) -> str:
    return f"10.0.0.{name.rpartition('-')[2]}"


def attached(one: Pod) -> bool:
    return any(c.type == PROXIED and c.status == "True" for c in one.status.conditions)


async def world(stage: Stage) -> None:
    await World(stage).run()


async def remove_everything(stage: Stage) -> None:
    """The user deletes what there is; pods go as the node lets them."""
    for kind in (ConfigMap, Ingress, EndpointSlice, Pod, IngressClass):
        for obj in await stage.list(kind):
            if obj.namespace in ("shop", None):
                await stage.delete(obj)


def release(version: int, **more: str) -> Any:
    async def step(stage: Stage) -> None:
        made = wanted(version)
        made.data.update(more)
        await stage.apply(made)

    return step


async def kill_envoy(stage: Stage) -> None:
    envoy: SimulatedEnvoy = stage.adapter(Proxy)  # type: ignore[type-abstract, assignment]
    envoy.restart(stage.clock.random.random() * 5)


async def third_serves(stage: Stage) -> str | None:
    pods = await stage.list(Pod, "shop")
    if [p.name for p in pods] != ["web-3"] or not attached(pods[0]):
        return f"pods: {[(p.name, attached(p)) for p in pods]}"
    envoy: SimulatedEnvoy = stage.adapter(Proxy)  # type: ignore[type-abstract, assignment]
    if envoy.serves(CLUSTER) != {"10.0.0.3:8080"}:
        return f"the proxy serves {envoy.serves(CLUSTER)}"
    route = await stage.get(Ingress, "web", "shop")
    if route is None or [i.ip for i in route.status.load_balancer.ingress] != ["127.0.0.1"]:
        return "the Ingress has no address"
    if problem := route.metadata.annotations.get(PROBLEM):
        return problem
    for namespace, name in (("shop", "web-engine-tls"), ("trimtab-system", DEFAULT_SECRET)):
        secret = await stage.get(Secret, name, namespace)
        if secret is None or not is_issued(secret):
            return f"no certificate in {namespace}/{name}"
        if f"{namespace}/{name}" not in str(envoy.documents["lds.json"]):
            return f"{namespace}/{name} is not at the proxy"
    return None


ROLLOUT = Scenario(
    name="rollout",
    objects=(ingress_class(), ca_secret(CA), service(), ingress(), wanted(1)),
    steps=(release(2), kill_envoy, release(3, crashed="web-2"), release(3)),
    world=world,
    adapters=proxy,
    uninstall=remove_everything,
    goal=third_serves,
    ignore=(Secret, Service),
    kinds=(ConfigMap,),
)


async def problems_are_told(stage: Stage) -> str | None:
    said = {i.name: i.metadata.annotations.get(PROBLEM, "").partition(":")[0] for i in await stage.list(Ingress)}
    expected = {
        "good": "",
        "lonely": "ServiceMissing",
        "mismatch": "CertificateMismatch",
        "port": "PortMissing",
        "refused": "ProxyRefused",
        "taken": "PathTaken",
        "torn": "SecretInvalid",
        "later": "CertificateTaken",
        "other": "",
    }
    wrong = {name: (said.get(name), reason) for name, reason in expected.items() if said.get(name) != reason}
    if wrong:
        return f"(said, expected): {wrong}"
    good = await stage.get(Ingress, "good", "shop")
    return None if good and good.status.load_balancer.ingress else "the good Ingress has no address"


def _issued_for(host: str) -> Any:
    from trimtab.components.ingress.certificates import issue, pair_of

    return pair_of(asyncio.run(issue("shop", "x", [host], OTHER_CA, EPOCH)))


async def add_younger(stage: Stage) -> None:
    await stage.apply(ingress("taken", "good.example.com", tls=False))
    await stage.apply(ingress("later", "good.example.com", path="/later", secret="later-tls"))


async def mend(stage: Stage) -> None:
    """What was wrong and is mended is no longer said."""
    await stage.apply(ingress("other", "other.example.com", tls=False))


PROBLEMS = Scenario(
    name="problems",
    objects=(
        ingress_class(),
        ca_secret(CA),
        service(),
        tls_secret("brought", _issued_for("elsewhere.example.com")),
        tls_secret("torn", dataclasses.replace(_issued_for("torn.example.com"), chain="torn")),
        tls_secret("refused-brought", _issued_for("refused.example.com")),
        ingress("good", "good.example.com"),
        ingress("other", "other.example.com", tls=False, backend="nobody:80"),
        ingress("lonely", "lonely.example.com", tls=False, backend="nobody:80"),
        ingress("port", "port.example.com", tls=False, backend="web:81"),
        ingress("mismatch", "mismatch.example.com", secret="brought"),
        ingress("torn", "torn.example.com", secret="torn"),
        ingress("refused", "refused.example.com", secret="refused-brought"),
    ),
    steps=(add_younger, kill_envoy, mend),
    world=world,
    adapters=proxy,
    uninstall=remove_everything,
    goal=problems_are_told,
    ignore=(Secret, Service),
    kinds=(ConfigMap,),
)

JUDGED = dataclasses.replace(COMPONENT, services=())
SCENARIOS = [ROLLOUT, PROBLEMS]
CASES = contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case: Case) -> None:
    case.run()
