"""Stories of pods that matter more than others, under the contract kit."""

from __future__ import annotations

from simulated_node import NODE
from trimtab.api import ObjectMeta
from trimtab.api.core import Pod, ResourceRequirements, Toleration
from trimtab.api.nodes import Node
from trimtab.api.scheduling import PriorityClass
from trimtab.components.workloads import pods as facts
from trimtab.runtime.contract import Scenario, Stage
from workload_stories import lonely_pod, node, step


def asking(name: str, cpu: str, **spec: object) -> Pod:
    pod = lonely_pod(name, **spec)
    pod.spec.containers[0].resources = ResourceRequirements(requests={"cpu": cpu})
    return pod


async def cheap_ones_run(stage: Stage) -> str | None:
    pods = [pod for pod in await stage.list(Pod) if facts.ready(pod)]
    return None if len(pods) == 2 else f"{len(pods)} pods run"


async def send_the_vip(stage: Stage) -> None:
    await stage.apply(asking("vip", "6", priority_class_name="vip"))


async def vip_runs(stage: Stage) -> str | None:
    pods = {pod.name: pod for pod in await stage.list(Pod)}
    vip = pods.get("vip")
    if vip is None or vip.spec.priority != 1000 or not facts.ready(vip):
        return f"vip does not run among {sorted(pods)}"
    return None if sorted(pods) == ["small", "vip"] else f"pods are {sorted(pods)}"


async def taint(stage: Stage) -> None:
    taints = [{"key": "out", "effect": "NoExecute"}]
    await stage.client.patch(Node(metadata=ObjectMeta(name=NODE)), {"spec": {"taints": taints}}, manager="user")


async def both_run(stage: Stage) -> str | None:
    pods = {pod.name for pod in await stage.list(Pod) if facts.ready(pod)}
    return None if pods >= {"bears", "flees"} else f"only {pods} run"


async def one_stays(stage: Stage) -> str | None:
    found = await stage.get(Node, NODE)
    assert found is not None
    if [taint.key for taint in found.spec.taints] != ["out"]:
        return f"taints are {found.spec.taints}"
    pods = [pod.name for pod in await stage.list(Pod)]
    return None if pods == ["bears"] else f"pods are {pods}"


PRIORITIES = [
    Scenario(
        "preemption",
        objects=[
            PriorityClass(metadata=ObjectMeta(name="vip"), value=1000),
            asking("small", "1"),
            asking("large", "5"),
        ],
        steps=[step(send_the_vip, cheap_ones_run)],
        goal=vip_runs,
        world=node,
    ),
    Scenario(
        "taint-eviction",
        objects=[
            lonely_pod("bears", tolerations=[Toleration(key="out", operator="Exists")]),
            lonely_pod(
                "flees",
                tolerations=[Toleration(key="out", operator="Exists", effect="NoExecute", toleration_seconds=20)],
            ),
        ],
        steps=[step(taint, both_run)],
        goal=one_stays,
        world=node,
    ),
]
