"""Pressure in small: thresholds with grace and reclaim, conditions that stay, who goes first, a pod's own limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.api import OwnerReference, from_wire
from trimtab.api.core import Pod
from trimtab.components.node import node_config
from trimtab.components.node.decide import EVICTED, Eviction, Seen, StopContainer, StopSandbox, TearDown, decide
from trimtab.components.node.eviction import (
    DISK,
    MEMORY,
    PIDS,
    Guard,
    Level,
    LocalUsage,
    PodUsage,
    limits_storage,
    overuse,
    ranked,
    refusal,
    why,
)
from trimtab.components.node.node_config import GIB, MIB, Amount, BadNodeConfig, NodeConfig, Threshold
from trimtab.components.node.sandboxes import ContainerView, Sandbox
from trimtab.components.node.status import pod_status

NOW = datetime(2030, 1, 1, tzinfo=UTC)
FREE = "nodefs.available"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def pod(name: str = "web", *, owner: str = "", **spec: Any) -> Pod:
    made = from_wire(Pod, {"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": spec})
    if not spec.get("containers"):
        made.spec.containers = from_wire(Pod, {"spec": {"containers": [{"name": "main"}]}}).spec.containers
    if owner:
        made.metadata.owner_references = [OwnerReference(api_version="apps/v1", kind=owner, name="x", uid="x")]
    return made


def asking(name: str, priority: int = 0, owner: str = "", **requests: str) -> Pod:
    named = {key.replace("_", "-"): value for key, value in requests.items()}
    containers = [{"name": "main", "resources": {"requests": named}}]
    return pod(name, owner=owner, containers=containers, priority=priority)


class TestThresholds:
    def look(self, guard: Guard, seconds: float, free_mib: int) -> tuple[int, bool]:
        """How many thresholds are due, and whether the condition stands."""
        verdict = guard.look({FREE: Level(free_mib * MIB, 1000 * MIB)}, at(seconds))
        return len(verdict.due), DISK in verdict.conditions

    def test_a_hard_one_is_due_at_once_and_its_condition_stays_a_while(self) -> None:
        guard = Guard(NodeConfig((Threshold(FREE, Amount(0.1)),), transition_s=300))

        assert self.look(guard, 0, 100) == (0, False)
        assert self.look(guard, 10, 99) == (1, True)
        assert self.look(guard, 20, 500) == (0, True)
        assert self.look(guard, 309, 500) == (0, True)
        assert self.look(guard, 310, 500) == (0, False)

    def test_a_soft_one_is_due_when_it_lasts(self) -> None:
        guard = Guard(NodeConfig((Threshold(FREE, Amount(0.1), grace_s=30),)))

        assert self.look(guard, 0, 50) == (0, True)
        assert self.look(guard, 29, 50) == (0, True)
        assert self.look(guard, 30, 50) == (1, True)
        assert self.look(guard, 40, 100) == (0, True)
        assert self.look(guard, 50, 50) == (0, True), "its grace begins anew"

    def test_once_crossed_more_must_be_free_than_the_threshold_says(self) -> None:
        guard = Guard(NodeConfig((Threshold(FREE, Amount(0.1)),), reclaim={FREE: Amount(bound=50 * MIB)}))

        assert self.look(guard, 0, 120) == (0, False)
        assert self.look(guard, 1, 90) == (1, True)
        assert self.look(guard, 2, 149) == (1, True)
        assert self.look(guard, 3, 150) == (0, True)

    def test_memory_is_looked_after_first(self) -> None:
        guard = Guard(NodeConfig())
        levels = {
            "pid.available": Level(0, 100),
            FREE: Level(0, 100),
            "memory.available": Level(0, 100 * GIB),
            "nodefs.inodesFree": Level(100, 100),
        }

        verdict = guard.look(levels, NOW)

        assert [t.signal for t in verdict.due] == ["memory.available", FREE, "pid.available"]
        assert verdict.conditions == {MEMORY, DISK, PIDS}

    @given(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
    def test_what_is_due_is_met_and_what_is_met_has_its_condition(self, levels: list[int]) -> None:
        config = NodeConfig((Threshold(FREE, Amount(0.1)), Threshold(FREE, Amount(0.3), 20)), transition_s=30)
        guard = Guard(config)
        for number, free in enumerate(levels):
            verdict = guard.look({FREE: Level(free, 1000)}, at(10 * number))
            assert set(verdict.due) <= set(verdict.met)
            assert not verdict.met or verdict.conditions == {DISK}
            assert (free < 100) == (config.thresholds[0] in verdict.due)

    def test_a_share_of_a_large_disk_is_bounded(self) -> None:
        assert Amount(0.05, 5 * GIB).of(20 * GIB) == GIB
        assert Amount(0.05, 5 * GIB).of(2000 * GIB) == 5 * GIB


class TestWhoGoesFirst:
    def order(self, signal: str, *usages: PodUsage) -> list[str]:
        return [usage.pod.name for usage in ranked(signal, usages)]

    def test_more_than_asked_for_then_priority_then_how_much(self) -> None:
        found = self.order(
            "memory.available",
            PodUsage(asking("within", memory="100Mi"), memory=90 * MIB),
            PodUsage(asking("important", 1000, memory="10Mi"), memory=500 * MIB),
            PodUsage(asking("beyond", memory="100Mi"), memory=150 * MIB),
            PodUsage(asking("far-beyond"), memory=80 * MIB),
        )

        assert found == ["far-beyond", "beyond", "important", "within"]

    def test_critical_ones_never_and_those_of_the_node_last(self) -> None:
        found = self.order(
            FREE,
            PodUsage(asking("critical", 2_000_000_000), disk=GIB),
            PodUsage(asking("agent", owner="DaemonSet"), disk=GIB),
            PodUsage(asking("web"), disk=1),
        )

        assert found == ["web", "agent"]

    def test_disk_counts_what_was_asked_of_it(self) -> None:
        modest = PodUsage(asking("modest", ephemeral_storage="1Gi"), disk=900 * MIB)

        assert self.order(FREE, modest, PodUsage(asking("small"), disk=5 * MIB)) == ["small", "modest"]
        assert self.order("nodefs.inodesFree", modest, PodUsage(asking("files"), inodes=9)) == ["files", "modest"]

    def test_process_ids_by_priority_and_number(self) -> None:
        bomb, other = PodUsage(asking("bomb"), pids=900), PodUsage(asking("calm"), pids=2)

        assert self.order("pid.available", other, bomb) == ["bomb", "calm"]

    def test_the_message_has_the_numbers(self) -> None:
        threshold, level = Threshold(FREE, Amount(0.1)), Level(39 * MIB, 600 * MIB)

        assert why(threshold, level, PodUsage(asking("a", ephemeral_storage="20Mi"), disk=130 * MIB)) == (
            "The node was low on resource: ephemeral-storage. Threshold quantity: 60Mi, available: 39Mi. "
            "The pod was using 130Mi, request is 20Mi."
        )
        inodes = Threshold("nodefs.inodesFree", Amount(0.05))
        assert why(inodes, Level(3, 1000), PodUsage(asking("a"), inodes=700)) == (
            "The node was low on resource: inodes. Threshold quantity: 50, available: 3. The pod was using 700."
        )


@pytest.mark.parametrize(
    ("one", "conditions", "quality", "said"),
    [
        (pod(), set(), "BestEffort", None),
        (pod(), {DISK}, "Guaranteed", "The node had condition: [DiskPressure]."),
        (pod(), {MEMORY}, "BestEffort", "The node had condition: [MemoryPressure]."),
        (pod(), {MEMORY}, "Burstable", None),
        (pod(), {MEMORY, DISK}, "Burstable", "The node had condition: [DiskPressure MemoryPressure]."),
        (pod(priority=2_000_001_000), {DISK}, "BestEffort", None),
        (pod(owner="DaemonSet"), {DISK}, "BestEffort", None),
    ],
)
def test_who_may_not_start(one: Pod, conditions: set[str], quality: str, said: str | None) -> None:
    assert refusal(one, frozenset(conditions), quality) == said


def limited(*limits: str | None, **volumes: str | None) -> Pod:
    containers: list[dict[str, Any]] = [
        {"name": f"c{n}", "resources": {"limits": {"ephemeral-storage": limit} if limit else {}}}
        for n, limit in enumerate(limits)
    ]
    named = [{"name": name, "emptyDir": {"sizeLimit": size} if size else {}} for name, size in volumes.items()]
    return pod(containers=containers, volumes=named)


@pytest.mark.parametrize(
    ("one", "containers", "volumes", "said"),
    [
        (limited("10Mi"), {"c0": 9}, {}, None),
        (
            limited("10Mi", None),
            {"c0": 11, "c1": 99},
            {},
            'Container c0 exceeded its local ephemeral storage limit "10Mi".',
        ),
        (
            limited("10Mi", "10Mi", d=None),
            {"c0": 5, "c1": 5},
            {"d": 11},
            "Pod ephemeral local storage usage exceeds the total limit of containers 20Mi.",
        ),
        (limited(None, d="5Mi"), {"c0": 99}, {"d": 6}, 'Usage of EmptyDir volume "d" exceeds the limit "5Mi".'),
        (limited(None, d=None), {"c0": 99}, {"d": 99}, None),
    ],
)
def test_limits_of_a_pods_own(one: Pod, containers: dict[str, int], volumes: dict[str, int], said: str | None) -> None:
    sized = [{name: mib * MIB for name, mib in part.items()} for part in (containers, volumes)]

    assert overuse(one, LocalUsage(*sized)) == said
    assert limits_storage(one) or said is None


class TestTheEndOfAnEvictedPod:
    sandbox = Sandbox("s", "web", "web", "shop", 0, True, NOW, "10.0.0.9")

    def seen(self, state: Any, **more: Any) -> Seen:
        view = ContainerView("c", "s", "web", "main", 0, state, NOW, started_at=NOW, finished_at=NOW, exit_code=137)
        return Seen(sandboxes=(self.sandbox,), containers={"main": (view,)}, **more)

    def test_its_containers_are_stopped_without_waiting(self) -> None:
        plan = decide(pod(), self.seen("running", evicted=Eviction("too much")), NOW)

        [action] = plan.actions
        assert isinstance(action, StopContainer)
        assert action.grace_s == 0

    def test_then_it_has_failed_and_says_why(self) -> None:
        seen = self.seen("exited", evicted=Eviction("too much"))
        plan = decide(pod(), seen, NOW)

        status = pod_status(pod(), seen, NOW, host_ip="10.0.0.1")

        assert plan.actions == (StopSandbox("s"),)
        assert (status["phase"], status["reason"], status["message"]) == ("Failed", EVICTED, "too much")
        assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
        assert status["conditions"][-1] == {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "TerminationByKubelet",
            "message": "too much",
        }

    def test_then_nothing_of_it_stays_and_it_still_says_why(self) -> None:
        gone = pod()
        gone.status.phase, gone.status.reason, gone.status.message = "Failed", EVICTED, "too much"

        assert decide(gone, self.seen("exited", remains=True), NOW).actions == (TearDown(),)
        assert decide(gone, Seen(), NOW).actions == ()
        status = pod_status(gone, Seen(), NOW, host_ip="10.0.0.1")
        assert (status["phase"], status["reason"], status["message"]) == ("Failed", EVICTED, "too much")

    def test_an_ended_pod_stays_until_the_node_needs_the_room(self) -> None:
        ended = pod()
        ended.status.phase = "Succeeded"
        stopped = Sandbox("s", "web", "web", "shop", 0, False, NOW)

        assert decide(ended, Seen(sandboxes=(stopped,)), NOW).actions == ()
        assert decide(ended, Seen(sandboxes=(stopped,), unwanted=True, remains=True), NOW).actions == (TearDown(),)


class TestConfiguration:
    def test_fields_of_the_kubelets(self) -> None:
        config = node_config.parse(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "evictionHard": {"memory.available": "200Mi", "nodefs.available": "10%"},
                "evictionSoft": {"memory.available": "1Gi"},
                "evictionSoftGracePeriod": {"memory.available": "1m30s"},
                "evictionMinimumReclaim": {"nodefs.available": "500Mi"},
                "evictionPressureTransitionPeriod": "30s",
                "imageGCHighThresholdPercent": 90,
                "imageGCLowThresholdPercent": 70,
                "imageMinimumGCAge": "1m",
                "podPidsLimit": 100,
                "containerLogMaxSize": "1Mi",
                "containerLogMaxFiles": 5,
                "evictionMaxPodGracePeriod": 60,
            }
        )

        by_signal = {(t.signal, t.grace_s): t.least for t in config.thresholds}
        assert by_signal["memory.available", 0.0] == Amount(bound=200 * MIB)
        assert by_signal["nodefs.available", 0.0] == Amount(0.1)
        assert by_signal["memory.available", 90.0] == Amount(bound=GIB)
        assert by_signal["pid.available", 0.0] == Amount(0.1), "what is not named keeps its default"
        assert config.reclaim == {"nodefs.available": Amount(bound=500 * MIB)}
        assert (config.transition_s, config.image_age_s, config.pids_max) == (30, 60, 100)
        assert (config.log_bytes_max, config.log_files_max, config.soft_grace_s_max) == (MIB, 5, 60)
        assert (round(config.image_high.share or 0, 6), round(config.image_low.share or 0, 6)) == (0.1, 0.3)

    @pytest.mark.parametrize(
        ("given_", "line"),
        [
            ({"maxPods": 5}, "maxPods: nothing acts on this field; leave it out"),
            (
                {"evictionHard": {"disk": "5%"}},
                "evictionHard.disk: unknown signal; there are memory.available, nodefs.available, nodefs.inodesFree, "
                "imagefs.available, imagefs.inodesFree, pid.available",
            ),
            (
                {"evictionHard": {"memory.available": "lots"}},
                'evictionHard.memory.available: "lots" is not a quantity; write a number with an optional suffix, for '
                "example 500m, 2 or 1.5Gi",
            ),
            (
                {"evictionHard": {"memory.available": "-5Mi"}},
                "evictionHard.memory.available: -5Mi must not be negative",
            ),
            (
                {"evictionHard": {"memory.available": "120%"}},
                "evictionHard.memory.available: 120% must be from 0% to 100%",
            ),
            (
                {"evictionSoft": {"memory.available": "1Gi"}},
                "evictionSoftGracePeriod: memory.available is missing: how long may it last?",
            ),
            (
                {"imageGCHighThresholdPercent": 50, "imageGCLowThresholdPercent": 60},
                "imageGCLowThresholdPercent: must not be above imageGCHighThresholdPercent",
            ),
            ({"podPidsLimit": 1}, "podPidsLimit: 1 must be a whole number from 16 to 4194304"),
            ({"imageMinimumGCAge": "soon"}, "imageMinimumGCAge: soon is no duration; write one like 1m30s"),
        ],
    )
    def test_what_is_refused(self, given_: dict[str, Any], line: str) -> None:
        with pytest.raises(BadNodeConfig) as refused:
            node_config.parse(given_)

        assert str(refused.value) == line

    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "kubelet.yaml"
        path.write_text("kind: KubeletConfiguration\npodPidsLimit: 64\n")
        other = tmp_path / "other.yaml"
        other.write_text("kind: Pod\n")
        broken = tmp_path / "broken.yaml"
        broken.write_text("a: [")

        assert node_config.read(path)["podPidsLimit"] == 64
        for bad, said in (
            (other, "this is no KubeletConfiguration"),
            (broken, "this is no YAML"),
            (tmp_path / "x", "No such"),
        ):
            with pytest.raises(BadNodeConfig, match=said):
                node_config.read(bad)
