"""Where a pod fits, and the line that says why it does not."""

from __future__ import annotations

from typing import Any

from trimtab.api import Condition, ObjectMeta
from trimtab.api.core import Container, ContainerPort, Pod, ResourceRequirements, Toleration
from trimtab.api.nodes import Node, NodeSpec, NodeStatus, Taint
from trimtab.api.volumes import PersistentVolume, PersistentVolumeSpec
from trimtab.components.workloads.fit import MESSAGE_LENGTH_MAX, Picture, explain, obstacles, requests
from workload_pods import make_pod


def make_node(ready: str = "True", **spec: Any) -> Node:
    return Node(
        metadata=ObjectMeta(name="node-1", labels={"disk": "slow"}),
        spec=NodeSpec(**spec),
        status=NodeStatus(
            allocatable={"cpu": "2", "memory": "1Gi", "pods": "3"},
            conditions=[Condition(type="Ready", status=ready, message="containerd is away" if ready != "True" else "")],
        ),
    )


def asking(name: str = "new", cpu: str = "", memory: str = "", **pod: Any) -> Pod:
    wanted = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    container = Container(name="main", image="a", resources=ResourceRequirements(requests=wanted))
    pod.setdefault("node", None)
    return make_pod(name, containers=[container], **pod)


def why(pod: Pod, node: Node | None = None, *others: Pod, volumes: tuple[PersistentVolume, ...] = ()) -> list[str]:
    picture = Picture.of([node or make_node()], others)
    return obstacles(pod, picture.rooms["node-1"], volumes)


def test_fits() -> None:
    assert why(asking(cpu="2", memory="1Gi")) == []


def test_resources_are_counted_with_what_runs() -> None:
    running = asking("running", cpu="1500m", memory="600Mi", node="node-1")
    done = asking("done", cpu="1500m", node="node-1", phase="Succeeded")
    elsewhere = asking("elsewhere", cpu="1500m", node="node-2")
    assert why(asking(cpu="1", memory="500Mi"), None, running, done, elsewhere) == [
        "0.5 of 2 cpu free, asks 1",
        "424Mi of 1Gi memory free, asks 500Mi",
    ]
    assert why(asking(), None, *(asking(f"p{n}", node="node-1") for n in range(3))) == [
        "all 3 pods that it takes are there"
    ]


def test_a_pod_that_asks_for_nothing_fits_on_an_overfull_node() -> None:
    assert why(asking(), None, asking("greedy", cpu="5", node="node-1")) == []


def test_init_containers_count_as_the_hungriest_and_sidecars_all_the_time() -> None:
    def container(cpu: str, restart: str | None = None) -> Container:
        return Container(name=cpu, resources=ResourceRequirements(requests={"cpu": cpu}), restart_policy=restart)

    pod = make_pod(
        containers=[container("100m")],
        init_containers=[container("50m", "Always"), container("300m"), container("200m")],
    )
    assert requests(pod) == {"cpu": 350, "pods": 1}


def test_limits_stand_in_for_requests() -> None:
    resources = ResourceRequirements(limits={"cpu": "1", "memory": "1Mi"})
    assert requests(make_pod(containers=[Container(name="c", resources=resources)])) == {
        "cpu": 1000,
        "memory": 2**20,
        "pods": 1,
    }


def test_labels_taints_and_readiness_are_named() -> None:
    assert why(asking(node_selector={"disk": "fast"})) == ["lacks the label disk=fast of nodeSelector"]
    assert why(asking(node_selector={"kubernetes.io/hostname": "node-1"})) == []
    assert why(asking(), make_node(unschedulable=True)) == ["cordoned (unschedulable)"]
    assert why(asking(), make_node("False")) == ["not ready: containerd is away"]
    tainted = make_node(
        taints=[Taint(key="only", value="db", effect="NoSchedule"), Taint(key="soft", effect="PreferNoSchedule")]
    )
    assert why(asking(), tainted) == ["taint only=db:NoSchedule not tolerated"]
    for toleration in (
        Toleration(key="only", value="db", effect="NoSchedule"),
        Toleration(key="only", operator="Exists"),
        Toleration(operator="Exists"),
    ):
        assert why(asking(tolerations=[toleration]), tainted) == []
    assert why(asking(tolerations=[Toleration(key="only", value="web")]), tainted) != []


def test_a_taken_port_names_who_has_it() -> None:
    def with_port(name: str, node: str | None, host_ip: str | None = None) -> Pod:
        ports = [ContainerPort(container_port=80, host_port=8080, host_ip=host_ip)]
        return make_pod(name, node=node, containers=[Container(name="c", ports=ports)])

    assert why(with_port("new", None), None, with_port("old", "node-1")) == [
        "port 8080/TCP is taken by pod default/old"
    ]
    one, other = with_port("one", "node-1", "127.0.0.1"), with_port("other", None, "127.0.0.2")
    assert why(other, None, one) == []
    assert why(with_port("new", None), None, one) == ["port 8080/TCP is taken by pod default/one"]


def test_a_volume_elsewhere_is_named() -> None:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-2"]}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    volume = PersistentVolume(metadata=ObjectMeta(name="v"), spec=PersistentVolumeSpec(node_affinity=affinity))
    assert why(asking(), volumes=(volume,)) == ["volume v is on another node"]


def test_extended_resources_are_counted_as_any_other() -> None:
    pod = make_pod(
        "new", node=None, containers=[Container(name="c", resources=ResourceRequirements(requests={"x.org/gpu": 1}))]
    )
    assert why(pod) == ["0 of 0 x.org/gpu free, asks 1"]


def test_the_line_goes_through_the_nodes_and_ends() -> None:
    assert explain({}) == "no nodes available to schedule pods: is the node agent running?"
    assert explain({"b": ["cordoned (unschedulable)"], "a": ["2 of 4 cpu free, asks 3", "not ready"]}) == (
        "0/2 nodes are available: node a: 2 of 4 cpu free, asks 3, not ready; node b: cordoned (unschedulable)."
    )
    many = explain({f"node-{n:03}": ["not ready"] for n in range(100)})
    assert len(many) < MESSAGE_LENGTH_MAX + 40
    assert many.endswith(" more nodes.")
