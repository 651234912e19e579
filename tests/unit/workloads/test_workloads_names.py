"""Names of pods: repeatable, invertible, and hardly ever used twice."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from trimtab.api import ObjectMeta
from trimtab.api.core import Container, ContainerPort, PodSpec, PodTemplateSpec, Probe
from trimtab.components.workloads.names import free_names, same_template, slot_name, slot_of, template_hash

bases = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=80)
slots = st.integers(0, 27**5 - 1)


@given(bases, st.uuids(), slots)
def test_a_slot_can_be_read_back_from_its_name(base: str, uid: object, slot: int) -> None:
    name = slot_name(base, str(uid), slot)
    assert slot_of(base, str(uid), name) == slot
    assert len(name) <= 63


@given(st.uuids(), st.sets(slots, max_size=50))
def test_different_slots_have_different_names(uid: object, numbers: set[int]) -> None:
    assert len({slot_name("web", str(uid), n) for n in numbers}) == len(numbers)


def test_new_names_repeat_until_something_is_there() -> None:
    first = list(islice(free_names("web", "u", []), 3))
    assert list(islice(free_names("web", "u", []), 3)) == first
    assert list(islice(free_names("web", "u", first[:1]), 2)) == first[1:]


def test_a_name_is_not_used_again_while_a_later_one_is() -> None:
    first, second, third = islice(free_names("web", "u", []), 3)
    assert next(free_names("web", "u", [second])) == third
    assert first not in list(islice(free_names("web", "u", [second]), 5))


def test_foreign_names_count_for_nothing() -> None:
    assert next(free_names("web", "u", ["web-0", "other", "web-aaaaa"])) == slot_name("web", "u", 0)


def _template(**container: object) -> PodTemplateSpec:
    return PodTemplateSpec(
        metadata=ObjectMeta(labels={"app": "web"}),
        spec=PodSpec(containers=[Container(name="main", image="a", **container)]),  # type: ignore[arg-type]
    )


def test_what_a_server_fills_in_makes_no_new_template() -> None:
    plain = _template(ports=[ContainerPort(container_port=80)], readiness_probe=Probe())
    filled = _template(
        ports=[ContainerPort(container_port=80, protocol="TCP")],
        readiness_probe=Probe(period_seconds=10, timeout_seconds=1, success_threshold=1, failure_threshold=3),
        termination_message_path="/dev/termination-log",
        termination_message_policy="File",
    )
    filled.spec.restart_policy = "Always"
    filled.spec.dns_policy = "ClusterFirst"
    filled.spec.termination_grace_period_seconds = 30
    filled.metadata.labels["pod-template-hash"] = "x"
    assert same_template(plain, filled)
    assert template_hash(plain) == template_hash(filled)


def test_what_a_user_changes_does() -> None:
    changed = _template()
    changed.metadata.annotations["kubectl.kubernetes.io/restartedAt"] = "now"
    assert not same_template(_template(), changed)
    assert not same_template(_template(), _template(command=["x"]))
    selecting = _template()
    selecting.spec.node_selector = {"restartPolicy": "Always"}
    assert not same_template(_template(), selecting)
    assert template_hash(_template(), 1) != template_hash(_template())
