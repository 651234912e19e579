"""Of several nodes that fit, which one a pod gets because of its volumes."""

from __future__ import annotations

from trimtab.api import Condition, ObjectMeta
from trimtab.api.core import Container, Pod, PodSpec
from trimtab.api.nodes import Node, NodeStatus
from trimtab.components.workloads.scheduler import Claims, choose, picture_for


def node(name: str) -> Node:
    amounts = {"cpu": "8", "memory": "16Gi", "pods": "110"}
    ready = Condition(type="Ready", status="True")
    return Node(metadata=ObjectMeta(name=name), status=NodeStatus(allocatable=amounts, conditions=[ready]))


def test_a_pod_goes_where_its_volume_is_attached_already() -> None:
    pod = Pod(metadata=ObjectMeta(name="db-0", uid="p"), spec=PodSpec(containers=[Container(name="main", image="x")]))
    picture = picture_for(pod, [node("a"), node("b"), node("c")], [], [])

    assert choose(pod, picture, Claims()) == "a"
    assert choose(pod, picture, Claims(attached={"b"})) == "b"
    assert choose(pod, picture, Claims(attached={"gone"})) == "a"
