"""What a node's silence and its end mean, as taints and in words."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from trimtab.api import Condition, ObjectMeta
from trimtab.api.cluster import Lease, LeaseSpec
from trimtab.api.core import Pod
from trimtab.api.nodes import FENCED_PODS, NODE_DESTROYED, Node, NodeSpec, NodeStatus, Taint, fenced
from trimtab.api.volumes import PersistentVolume
from trimtab.components.workloads import binding
from trimtab.components.workloads.fencing import overdue
from trimtab.components.workloads.node_life import Renewals, grace_s, proven_dead, state_taints

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MINE = Taint(key="shop", effect="NoSchedule", value="yes")


def node(*taints: Taint, ready: str = "True") -> Node:
    status = NodeStatus(conditions=[Condition(type="Ready", status=ready, reason="", message="")])
    return Node(metadata=ObjectMeta(name="node-2"), spec=NodeSpec(taints=list(taints)), status=status)


def test_a_silent_node_gets_both_taints_and_keeps_those_of_others() -> None:
    taints = state_taints(node(MINE), silent=True)

    assert [(t.key, t.effect) for t in taints] == [
        ("shop", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    ]
    assert state_taints(node(*taints), silent=False) == [MINE]


def test_a_node_that_says_itself_that_it_is_not_ready_is_tainted_so() -> None:
    keys = {t.key for t in state_taints(node(ready="False"), silent=False)}

    assert keys == {"node.kubernetes.io/not-ready"}


def renewed(at: datetime) -> Lease:
    return Lease(metadata=ObjectMeta(name="node-2", uid="l"), spec=LeaseSpec(renew_time=at))


def test_silence_is_what_was_watched_and_not_what_the_clock_says() -> None:
    renewals = Renewals()
    hour = timedelta(hours=1)

    assert renewals.quiet_s(None, 0, was_silent=False) == 0.0
    assert renewals.quiet_s(renewed(NOW - hour), 100, was_silent=False) == 0.0, "a lease from before we began"
    assert renewals.quiet_s(renewed(NOW - hour), 141, was_silent=False) == 41.0
    assert renewals.quiet_s(renewed(NOW + hour), 142, was_silent=True) == 0.0, (
        "renewed, on a clock that was set forward"
    )
    assert renewals.quiet_s(renewed(NOW - hour), 150, was_silent=False) == 0.0, "and back again"


def test_a_node_that_was_silent_before_we_began_stays_so_until_it_renews() -> None:
    renewals = Renewals()

    assert renewals.quiet_s(renewed(NOW), 5, was_silent=True) == math.inf
    assert renewals.quiet_s(renewed(NOW), 50, was_silent=True) == math.inf
    assert renewals.quiet_s(renewed(NOW + timedelta(seconds=10)), 60, was_silent=True) == 0.0


def test_only_the_taint_is_proof() -> None:
    dead = Taint(key="node.kubernetes.io/out-of-service", effect="NoExecute", value="destroyed")

    assert proven_dead(node(*state_taints(node(), silent=True))) is None
    assert proven_dead(node(MINE, dead)) == dead


def test_a_volume_says_with_which_node_it_died_and_what_to_do() -> None:
    volume = PersistentVolume(metadata=ObjectMeta(name="pvc-1", annotations={binding.DIED_WITH: "node-2"}))

    assert binding.died_text(volume) == (
        "volume pvc-1 died with node node-2: its data is gone; restore a backup, or delete the claim and the pod to begin "
        "with an empty volume"
    )
    assert binding.died_text(PersistentVolume(metadata=ObjectMeta(name="pvc-1"))) is None


def test_a_lease_says_itself_how_long_it_lasts() -> None:
    assert grace_s(Lease(metadata=ObjectMeta(name="node-2"), spec=LeaseSpec(lease_duration_seconds=4))) == 4.0
    assert grace_s(Lease(metadata=ObjectMeta(name="node-2"))) == 40.0


def test_the_pods_of_a_node_that_was_fenced_do_not_run() -> None:
    ended = node()
    ended.metadata.annotations[FENCED_PODS] = "u-1,u-2"
    before, after = Pod(metadata=ObjectMeta(name="a", uid="u-2")), Pod(metadata=ObjectMeta(name="a", uid="u-3"))

    assert (fenced(before, ended), fenced(after, ended), fenced(before, node())) == (True, False, False)


def test_a_node_that_was_destroyed_by_other_means_counts_as_destroyed() -> None:
    gone = node()
    gone.metadata.annotations[NODE_DESTROYED] = "true"

    assert proven_dead(gone) == Taint(key="node.kubernetes.io/out-of-service", effect="NoExecute", value="destroyed")


def test_a_deletion_is_overdue_some_time_after_the_pods_own_grace() -> None:
    leaving = Pod(metadata=ObjectMeta(name="a", deletion_timestamp=NOW))

    assert (overdue(leaving, NOW), overdue(Pod(metadata=ObjectMeta(name="a")), NOW)) == (5.0, None)


def test_a_node_that_runs_short_is_tainted_for_newcomers() -> None:
    short = node(MINE)
    short.status.conditions += [
        Condition(type="DiskPressure", status="True", reason="", message=""),
        Condition(type="MemoryPressure", status="False", reason="", message=""),
    ]

    taints = state_taints(short, silent=False)

    assert [(t.key, t.effect) for t in taints] == [
        ("shop", "NoSchedule"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ]
    assert state_taints(node(*taints), silent=False) == [MINE]
