"""What other pods mean for a pod's place: affinity, spread, preemption, and which node scores best."""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.api import Condition, ObjectMeta
from trimtab.api.core import Container, Pod, ResourceRequirements, Toleration
from trimtab.api.labels import LabelSelector
from trimtab.api.nodes import Node, NodeSpec, NodeStatus, Taint
from trimtab.api.placement import Affinity, PodAffinity, PodAffinityTerm, TopologySpreadConstraint
from trimtab.api.scheduling import PodDisruptionBudget, PodDisruptionBudgetSpec
from trimtab.components.workloads import crowd, fit, preemption
from trimtab.components.workloads.departures import stays_s
from workload_pods import NOW, ago, make_pod

ZONE = "topology.kubernetes.io/zone"
HOST = "kubernetes.io/hostname"


def node(name: str, zone: str = "", cpu: str = "2") -> Node:
    return Node(
        metadata=ObjectMeta(name=name, labels={ZONE: zone} if zone else {}),
        status=NodeStatus(
            allocatable={"cpu": cpu, "memory": "1Gi"}, conditions=[Condition(type="Ready", status="True")]
        ),
        spec=NodeSpec(),
    )


def picture(*pods: Pod) -> fit.Picture:
    return fit.Picture.of([node("a", "east"), node("b", "west"), node("c")], pods, {"default": {}, "shop": {"x": "y"}})


def why(pod: Pod, seen: fit.Picture) -> dict[str, list[str]]:
    return {name: crowd.obstacles(pod, room, seen) for name, room in seen.rooms.items()}


def near(key: str = ZONE, app: str = "db", **term: Any) -> PodAffinity:
    selector = LabelSelector(match_labels={"app": app})
    return PodAffinity(required=[PodAffinityTerm(topology_key=key, label_selector=selector, **term)])


def test_affinity_keeps_to_the_domain_of_its_company() -> None:
    pod = make_pod("new", node=None, affinity=Affinity(pod_affinity=near()))
    assert why(pod, picture(make_pod("db", node="a", labels={"app": "db"}))) == {
        "a": [],
        "b": [f"pod affinity: no pod with app=db in {ZONE}=west"],
        "c": [f"lacks the label {ZONE} of the pod affinity"],
    }


def test_the_first_of_a_group_that_wants_its_own_company_may_go_anywhere() -> None:
    pod = make_pod("new", node=None, labels={"app": "db"}, affinity=Affinity(pod_affinity=near()))
    assert why(pod, picture())["a"] == []


def test_a_namespace_selector_looks_beyond_the_pods_own() -> None:
    elsewhere = make_pod("db", node="a", labels={"app": "db"})
    elsewhere.metadata.namespace = "shop"
    own = make_pod("new", node=None, affinity=Affinity(pod_affinity=near()))
    both = make_pod(
        "new",
        node=None,
        affinity=Affinity(pod_affinity=near(namespace_selector=LabelSelector(match_labels={"x": "y"}))),
    )
    assert why(own, picture(elsewhere))["a"] != []
    assert why(both, picture(elsewhere))["a"] == []


def test_anti_affinity_holds_both_ways() -> None:
    alone = Affinity(pod_anti_affinity=near(HOST))
    shy = make_pod("shy", node=None, labels={"app": "db"}, affinity=alone)
    assert why(shy, picture(make_pod("db", node="a", labels={"app": "db"})))["a"] == [
        f"pod anti-affinity: pod default/db is in {HOST}=a"
    ]
    plain = make_pod("plain", node=None, labels={"app": "db"})
    there = make_pod("there", node="a", affinity=alone)
    assert why(plain, picture(there))["a"] == ["pod default/there there has anti-affinity against it"]
    assert why(plain, picture(there))["b"] == []


def test_spread_counts_domains_and_says_the_numbers() -> None:
    constraint = TopologySpreadConstraint(
        max_skew=1,
        topology_key=ZONE,
        when_unsatisfiable="DoNotSchedule",
        label_selector=LabelSelector(match_labels={"app": "web"}),
    )
    pod = make_pod("new", node=None, labels={"app": "web"}, topology_spread_constraints=[constraint])
    seen = picture(make_pod("w1", node="a", labels={"app": "web"}))
    assert why(pod, seen)["a"] == [f"topology spread: {ZONE}=east would have 2 pods, the emptiest has 0, maxSkew 1"]
    assert why(pod, seen)["b"] == []
    three = msgspec.structs.replace(constraint, min_domains=3)
    pod = make_pod("new", node=None, labels={"app": "web"}, topology_spread_constraints=[three])
    both = picture(*(make_pod(f"w{name}", node=name, labels={"app": "web"}) for name in "ab"))
    assert why(pod, both)["b"] != []


def test_the_emptier_node_scores_higher() -> None:
    seen = picture(asking("big", "1500m", "a"))
    pod = asking("new", "100m", None)
    assert crowd.score(pod, seen.rooms["b"], seen) > crowd.score(pod, seen.rooms["a"], seen)


def asking(name: str, cpu: str, node: str | None, priority: int = 0, **pod: Any) -> Pod:
    container = Container(name="main", image="a", resources=ResourceRequirements(requests={"cpu": cpu}))
    return make_pod(name, node=node, containers=[container], priority=priority, **pod)


def victims(pod: Pod, seen: fit.Picture, *budgets: PodDisruptionBudget) -> tuple[str, list[str]] | None:
    def fits(name: str, hypothetical: fit.Picture) -> bool:
        return not fit.obstacles(pod, hypothetical.rooms[name], ())

    found = preemption.find(pod, seen, budgets, fits)
    return None if found is None else (found.node, [victim.name for victim in found.victims])


def test_the_fewest_that_matter_least_make_room() -> None:
    seen = picture(
        asking("a1", "1", "a", 5),
        asking("a2", "1", "a", 1),
        asking("b1", "2", "b", 3),
        asking("c1", "2", "c", 10),
    )
    assert victims(asking("vip", "1", None, 10), seen) == ("a", ["a2"])
    assert victims(asking("vip", "2", None, 10), seen) == ("b", ["b1"])
    assert victims(asking("plain", "1", None, 0), seen) is None
    assert victims(asking("huge", "3", None, 100), seen) is None


def test_a_budget_is_respected_where_another_node_will_do() -> None:
    seen = picture(
        asking("a1", "2", "a", 1, labels={"app": "zk"}), asking("b1", "2", "b", 5), asking("c1", "2", "c", 9)
    )
    budget = PodDisruptionBudget(
        metadata=ObjectMeta(name="zk", namespace="default"),
        spec=PodDisruptionBudgetSpec(selector=LabelSelector(match_labels={"app": "zk"})),
    )
    assert victims(asking("vip", "2", None, 9), seen) == ("a", ["a1"])
    assert victims(asking("vip", "2", None, 9), seen, budget) == ("b", ["b1"])


def test_a_pod_leaves_a_tainted_node_when_its_shortest_toleration_is_over() -> None:
    out = [Taint(key="out", effect="NoExecute", time_added=ago(20))]
    assert stays_s(make_pod(), out, NOW) == 0
    assert stays_s(make_pod(), [Taint(key="out", effect="NoSchedule")], NOW) is None
    for seconds, left in ((None, None), (30, 10), (10, 0), (-1, 0)):
        bearing = make_pod(tolerations=[Toleration(key="out", operator="Exists", toleration_seconds=seconds)])
        assert stays_s(bearing, out, NOW) == left


def test_a_pod_that_says_nothing_outlasts_its_node_for_five_minutes() -> None:
    away = [Taint(key="node.kubernetes.io/unreachable", effect="NoExecute", time_added=ago(100))]
    assert stays_s(make_pod(), away, NOW) == 200
