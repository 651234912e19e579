"""One pod a node, and an update that takes no more at a time than may be missing."""

from __future__ import annotations

from typing import Any

from trimtab.api import ObjectMeta
from trimtab.api.core import Pod, PodSpec, PodTemplateSpec
from trimtab.api.nodes import Node, NodeSpec, Taint
from trimtab.api.workloads import DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet
from trimtab.components.workloads.daemonset import Wanted, plan, wanted
from trimtab.components.workloads.revisions import REVISION_LABEL
from workload_pods import NOW, make_pod

NODES = Wanted(("a", "b", "c"), "new")


def on(node: str, revision: str = "new", *, ready: bool = True, **pod: Any) -> Pod:
    pod.setdefault("name", f"pod-{node}")
    return make_pod(ready_for_s=9 if ready else None, node=node, labels={REVISION_LABEL: revision}, **pod)


def step(want: Wanted, *pods: Pod) -> tuple[list[str], list[str]]:
    out = plan(want, pods, NOW)
    return out.create, [pod.name for pod in out.delete]


def test_every_node_gets_one() -> None:
    assert step(NODES) == (["a", "b", "c"], [])
    assert step(NODES, on("a"), on("b"), on("c")) == ([], [])
    assert step(NODES, on("a"), on("b"), on("c"), on("b", ready=False, name="extra")) == ([], ["extra"])


def test_a_node_that_is_not_meant_loses_its_pod() -> None:
    assert step(NODES, on("a"), on("b"), on("c"), on("x")) == ([], ["pod-x"])


def test_a_failed_pod_is_made_again_once_it_is_gone() -> None:
    assert step(NODES, on("a", phase="Failed", ready=False), on("b"), on("c")) == ([], ["pod-a"])
    assert step(NODES, on("a", deleting=True), on("b"), on("c")) == ([], [])


def test_an_update_takes_one_at_a_time() -> None:
    assert step(NODES, on("a", "old"), on("b", "old"), on("c", "old")) == ([], ["pod-a"])
    assert step(NODES, on("a", ready=False), on("b", "old"), on("c", "old")) == ([], [])
    assert step(NODES, on("a"), on("b", "old"), on("c", "old")) == ([], ["pod-b"])
    assert step(NODES, on("a"), on("b", "old", ready=False), on("c", "old")) == ([], ["pod-b"])
    two = Wanted(("a", "b", "c"), "new", unavailable=2)
    assert step(two, on("a", "old"), on("b", "old"), on("c", "old")) == ([], ["pod-a", "pod-b"])


def test_on_delete_updates_nothing_by_itself() -> None:
    manual = Wanted(("a",), "new", rolling=False)
    assert step(manual, on("a", "old")) == ([], [])


def test_nodes_are_chosen_by_selector_and_taints_whatever_their_state() -> None:
    def node(name: str, *taints: Taint, **labels: str) -> Node:
        return Node(metadata=ObjectMeta(name=name, labels=labels), spec=NodeSpec(taints=list(taints)))

    share = RollingUpdateDaemonSet(max_unavailable="50%")
    subject = DaemonSet(
        spec=DaemonSetSpec(
            template=PodTemplateSpec(spec=PodSpec(node_selector={"disk": "fast"})),
            update_strategy=DaemonSetUpdateStrategy(rolling_update=share),
        )
    )
    nodes = [
        node("fast", disk="fast"),
        node("slow", disk="slow"),
        node("down", Taint(key="node.kubernetes.io/not-ready", effect="NoExecute"), disk="fast"),
        node("private", Taint(key="only", effect="NoSchedule"), disk="fast"),
        node("spare", disk="fast"),
    ]
    want = wanted(subject, nodes, "r")
    assert want.nodes == ("fast", "down", "spare")
    assert want.unavailable == 2
