"""What a reconciler's author relies on, one promise a test, in simulated time on the real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from msgspec import field

from running import Running, running
from trimtab.api import Condition, Model, ObjectMeta, Ref, Resource, resource
from trimtab.api.core import ConfigMap, Namespace, Secret
from trimtab.runtime import Component, Context, Desired, FieldWrite, Owned, Requeue, Wait, Writes, reconciler
from trimtab.runtime.component import Outcome
from trimtab.runtime.faults import NO_FAULTS, Rates
from trimtab.runtime.ownership import ADOPT_ANNOTATION, OWNER_LABEL
from trimtab.runtime.simulation import SimulatedClock, simulate


class BoxSpec(Model):
    value: str = ""
    flag: bool = False


class BoxStatus(Model):
    seen: str = ""
    conditions: list[Condition] = []


@resource("controller.trimtab.dev/v1", "boxes", kind="Box")
class Box(Resource):
    spec: BoxSpec = field(default_factory=BoxSpec)
    status: BoxStatus = field(default_factory=BoxStatus)


def box(name: str = "a", value: str = "1", **meta: Any) -> Box:
    return Box(metadata=ObjectMeta(name=name, namespace="default", **meta), spec=BoxSpec(value=value))


def config(name: str, value: str = "", namespace: str | None = None, **meta: Any) -> ConfigMap:
    return ConfigMap(
        metadata=ObjectMeta(name=name, namespace=namespace, **meta), data={"value": value} if value else {}
    )


def component(function: Callable[[Box, Context], Awaitable[Outcome]], **declared: Any) -> Component:
    made = reconciler(Box, name="pack", **declared)(function)
    return Component(name="boxes", summary="", kinds=(Box,), reconcilers=(made,))


def in_simulation(made: Component, story: Callable[[Running], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def main(clock: SimulatedClock) -> None:
        async with running(clock, made, **settings) as here:
            await story(here)

    simulate(main)


def test_desired_objects_are_made_owned_kept_and_swept() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        return Desired(objects=[config(f"{subject.name}-{name}", "x") for name in subject.spec.value.split()])

    async def story(here: Running) -> None:
        await here.apply(box(value="one two"))
        await here.settle()
        assert await here.names(ConfigMap) == ["a-one", "a-two", "kube-root-ca.crt"][: len(await here.names(ConfigMap))]
        made = await here.get(ConfigMap, "a-one")
        subject = await here.get(Box, "a")
        assert made is not None
        assert subject is not None
        assert made.metadata.labels[OWNER_LABEL] == subject.metadata.uid
        assert [(r.kind, r.uid, r.controller) for r in made.metadata.owner_references] == [
            ("Box", subject.metadata.uid, True)
        ]

        # Somebody deletes one and changes the other: both come back.
        await here.client.delete(made)
        await here.client.patch(Ref("v1", "ConfigMap", "default", "a-two"), {"data": {"value": "y"}}, manager="user")
        await here.settle()
        healed = await here.get(ConfigMap, "a-two")
        assert healed is not None
        assert healed.data == {"value": "x"}
        assert await here.get(ConfigMap, "a-one") is not None

        # No longer wanted: gone.
        await here.apply(box(value="two"))
        await here.settle()
        assert await here.get(ConfigMap, "a-one") is None
        assert await here.get(ConfigMap, "a-two") is not None

        # At rest nothing is written, not even after a resync.
        before = here.writes()
        await here.settle(1500)
        assert here.writes() == before

        await here.client.delete(subject)
        await here.settle(10)
        assert await here.get(ConfigMap, "a-two") is None

    in_simulation(component(pack, owns=[ConfigMap]), story)


def test_what_was_read_brings_the_subject_back() -> None:
    runs: list[str] = []

    async def pack(subject: Box, ctx: Context) -> Outcome:
        runs.append(subject.name)
        secret = await ctx.get(Secret, subject.spec.value)
        spaces = await ctx.list(Namespace, labels={"team": subject.name})
        return Desired(status={"seen": f"{secret.data if secret else None} {[n.name for n in spaces]}"})

    async def story(here: Running) -> None:
        await here.apply(box("a", value="s1"))
        await here.apply(box("b", value="s2"))
        await here.settle()
        runs.clear()

        await here.apply(Secret(metadata=ObjectMeta(name="s2", namespace="default"), data={"k": "dg=="}))
        await here.settle()
        assert set(runs) == {"b"}
        runs.clear()

        await here.apply(Namespace(metadata=ObjectMeta(name="new", labels={"team": "a"})))
        await here.settle()
        assert set(runs) == {"a"}
        seen = await here.get(Box, "a")
        assert seen is not None
        assert seen.status.seen == "None ['new']"
        runs.clear()

        await here.apply(Secret(metadata=ObjectMeta(name="unrelated", namespace="default"), data={"k": "dg=="}))
        await here.settle()
        assert runs == []

    in_simulation(component(pack, reads=[Secret, Namespace]), story)


def test_an_object_of_somebody_else_is_not_taken() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        return Desired(objects=[config("shared", subject.name)])

    async def story(here: Running) -> None:
        await here.apply(config("shared", "mine", namespace="default"))
        await here.apply(box("a"))
        await here.settle()

        assert await here.condition(box("a"), "Stalled") == (
            "True",
            "ObjectHeld",
            "ConfigMap default/shared exists already and belongs to somebody else (it has no owner label); delete or "
            'rename it, or hand it over with the annotation trimtab.dev/adopt: "true"',
        )
        untouched = await here.get(ConfigMap, "shared")
        assert untouched is not None
        assert untouched.data == {"value": "mine"}

        # Handed over: taken at once, and the complaint goes.
        await here.apply(config("shared", "mine", namespace="default", annotations={ADOPT_ANNOTATION: "true"}))
        await here.settle()
        taken = await here.get(ConfigMap, "shared")
        assert taken is not None
        assert taken.data == {"value": "a"}
        assert await here.condition(box("a"), "Stalled") is None

        # Another subject of the same reconciler cannot have it either.
        await here.apply(box("b"))
        await here.settle()
        held = await here.condition(box("b"), "Stalled")
        assert held is not None
        assert held[1] == "ObjectHeld"
        assert "belongs to Box a" in held[2]

    in_simulation(component(pack, owns=[ConfigMap]), story)


def test_two_who_want_one_name_at_the_same_moment() -> None:
    """Neither has it in its cache; the API decides, and one of them waits."""

    async def pack(subject: Box, ctx: Context) -> Outcome:
        return Desired(objects=[config("shared", subject.name)])

    async def story(here: Running) -> None:
        await asyncio.gather(here.apply(box("a")), here.apply(box("b")))
        await here.settle(200)
        stalled = [await here.condition(box(name), "Stalled") for name in ("a", "b")]
        assert sorted(s is None for s in stalled) == [False, True]

    in_simulation(component(pack, owns=[ConfigMap]), story)


def test_conditions_keep_their_transition_time_until_their_status_changes() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        status = "True" if subject.spec.value == "good" else "False"
        condition = {"type": "Ready", "status": status, "reason": "Looked", "message": subject.spec.value}
        return Desired(status={"conditions": [condition]})

    async def story(here: Running) -> None:
        async def ready() -> Condition:
            live = await here.get(Box, "a")
            assert live is not None
            return live.status.conditions[0]

        await here.apply(box(value="bad"))
        await here.settle(100)
        first = await ready()
        await here.apply(box(value="worse"))
        await here.settle(100)
        second = await ready()
        await here.apply(box(value="good"))
        await here.settle(100)
        third = await ready()

        assert (second.message, second.last_transition_time) == ("worse", first.last_transition_time)
        assert first.last_transition_time is not None
        assert third.last_transition_time is not None
        assert (third.last_transition_time - first.last_transition_time).total_seconds() == 200

    in_simulation(component(pack), story)


def test_only_declared_fields_of_others_are_written_and_nothing_else_changes_hands() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        target = Ref("v1", "Secret", "default", "theirs")
        return Desired(writes=[FieldWrite(target, {"data": {"ours": "MQ=="}})])

    async def story(here: Running) -> None:
        await here.apply(Secret(metadata=ObjectMeta(name="theirs", namespace="default"), data={"theirs": "Mg=="}))
        await here.apply(box())
        await here.settle()
        live = await here.raw(Secret, "theirs")
        assert live["data"] == {"ours": "MQ==", "theirs": "Mg=="}
        managed = {entry["manager"]: entry["fieldsV1"] for entry in live["metadata"]["managedFields"]}
        assert managed["trimtab-boxes-pack-fields"] == {"f:data": {"f:ours": {}}}

        # Without a target nothing is created.
        await here.client.delete(Ref("v1", "Secret", "default", "theirs"))
        await here.settle(20)
        assert await here.get(Secret, "theirs") is None
        stalled = await here.condition(box(), "Stalled")
        assert stalled is not None
        assert stalled[2] == "Secret default/theirs does not exist, so its fields cannot be written"

    in_simulation(component(pack, writes=[Writes(Secret, ("data.ours",))]), story)


def test_requeue_and_wait_are_values() -> None:
    runs: list[float] = []

    async def pack(subject: Box, ctx: Context) -> Outcome:
        runs.append(asyncio.get_running_loop().time())
        if await ctx.get(Secret, "go") is None:
            if len(runs) < 3:
                return Requeue(10, "not yet", status={"seen": "requeued"})
            return Wait(Ref("v1", "Secret", "default", "go"), "for the secret", status={"seen": "waiting"})
        return Desired(status={"seen": "done"})

    async def story(here: Running) -> None:
        async def seen() -> str:
            live = await here.get(Box, "a")
            assert live is not None
            return live.status.seen

        await here.apply(box())
        await here.settle(5)
        assert await seen() == "requeued"
        await here.settle(20)
        assert await seen() == "waiting"
        await here.apply(Secret(metadata=ObjectMeta(name="go", namespace="default")))
        await here.settle(1)
        assert await seen() == "done"

    in_simulation(component(pack, reads=[Secret]), story)


def test_failures_back_off_say_so_and_recover() -> None:
    runs: list[float] = []

    async def pack(subject: Box, ctx: Context) -> Outcome:
        runs.append(asyncio.get_running_loop().time())
        if subject.spec.value == "bad":
            raise ValueError("the box is bad")
        return Desired()

    async def story(here: Running) -> None:
        await here.apply(box(value="bad"))
        await here.settle(600)
        gaps = [b - a for a, b in pairwise(runs)]
        assert len(runs) < 25
        assert max(gaps) <= 60 * 1.25
        assert gaps[0] < 0.2
        assert await here.condition(box(), "Stalled") == ("True", "ReconcileError", "the box is bad")
        assert list(here.process.failing.values()) == ["the box is bad"]

        await here.apply(box(value="good"))
        await here.settle(1)
        assert await here.condition(box(), "Stalled") is None
        assert here.process.failing == {}

    in_simulation(component(pack), story)


def test_a_reconciler_that_flips_is_stopped_until_an_input_changes() -> None:
    runs: list[str] = []

    async def pack(subject: Box, ctx: Context) -> Outcome:
        runs.append(subject.spec.value)
        if subject.spec.value == "calm":
            return Desired(status={"seen": "calm"})
        return Desired(status={"seen": "odd" if subject.status.seen == "even" else "even"})

    async def story(here: Running) -> None:
        await here.apply(box(value="flip"))
        await here.settle(300)
        count = len(runs)
        assert count < 25
        why = await here.condition(box(), "NonConvergent")
        assert why is not None
        assert why[2] == "wrote 15 times in a row while nothing else changed: Box default/a (status.seen)"
        await here.settle(3000)
        assert len(runs) == count

        await here.apply(box(value="calm"))
        await here.settle(5)
        assert await here.condition(box(), "NonConvergent") is None

    in_simulation(component(pack), story)


def test_a_fight_over_a_field_is_stopped() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        return Desired(objects=[config("mine", "ours")])

    async def story(here: Running) -> None:
        await here.apply(box())
        await here.settle()
        target = Ref("v1", "ConfigMap", "default", "mine")
        for _ in range(40):
            await here.client.patch(target, {"data": {"value": "theirs"}}, manager="other")
            await here.settle(0.5)
        why = await here.condition(box(), "NonConvergent")
        assert why is not None
        assert "ConfigMap default/mine: data.value written 15 times" in why[2]
        assert "somebody undoes it" in why[2]

    in_simulation(component(pack, owns=[ConfigMap]), story)


def test_objects_in_another_namespace_go_with_their_subject() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        return Desired(objects=[config("far", "x", namespace="elsewhere")])

    async def story(here: Running) -> None:
        made = await here.apply(box())
        await here.settle()
        far = await here.get(ConfigMap, "far", "elsewhere")
        assert far is not None
        assert far.metadata.owner_references == []
        await here.client.delete(made)
        await here.settle(10)
        assert await here.get(ConfigMap, "far", "elsewhere") is None

    in_simulation(component(pack, owns=[ConfigMap]), story, namespaces=("elsewhere",))


def test_what_a_run_remembers_does_not_bring_it_back_however_it_is_heard_of() -> None:
    """Of a write the watch may tell before its answer comes."""
    runs: list[int] = []

    async def pack(subject: Box, ctx: Context) -> Outcome:
        runs.append(len(runs))
        meta = ObjectMeta(name=f"{subject.name}-memory", namespace="default")
        await ctx.save(Secret(metadata=meta, string_data={"runs": str(len(runs))}))
        return Requeue(15.0)

    async def story(here: Running) -> None:
        here.transport.rates = replace(NO_FAULTS, latency_s_max=0.5)
        await here.apply(box())
        await here.settle(60)
        assert 3 <= len(runs) <= 6

    in_simulation(component(pack, owns=[Owned(Secret, retain=True, quiet=True)]), story)


def test_words_that_are_others_each_time_do_not_bring_a_heedless_run_back() -> None:
    """As of a cloud that puts the number of the request into every error; also where the run reads its subject again."""
    runs: list[str] = []

    async def pack(subject: Box, ctx: Context) -> Outcome:
        runs.append(subject.spec.value)
        await ctx.get(Box, subject.name)
        return Requeue(15.0, status={"seen": f"request {len(runs)} was refused"})

    async def story(here: Running) -> None:
        here.transport.rates = replace(NO_FAULTS, latency_s_max=0.5)
        await here.apply(box())
        await here.settle(60)
        assert 3 <= len(runs) <= 7
        before = len(runs)
        await here.apply(box(value="2"))
        await here.settle(5)
        assert runs[before] == "2", "what others write brings it back at once"

    in_simulation(component(pack, heedless=True), story)


def test_what_is_retained_outlives_its_subject_and_is_taken_over_again() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        return Desired(objects=[config(f"{subject.name}-data", subject.spec.value)])

    async def story(here: Running) -> None:
        made = await here.apply(box(value="1"))
        await here.settle()
        first = await here.get(ConfigMap, "a-data")
        assert first is not None
        assert first.metadata.owner_references == []
        await here.client.delete(made)
        await here.settle(100)
        again = await here.apply(box(value="2"))
        await here.settle()
        second = await here.get(ConfigMap, "a-data")
        assert second is not None
        assert second.metadata.uid == first.metadata.uid
        assert second.data == {"value": "2"}
        assert second.metadata.labels[OWNER_LABEL] == again.metadata.uid

    in_simulation(component(pack, owns=[Owned(ConfigMap, retain=True)]), story)


def test_one_worker_a_key_and_several_keys_at_once() -> None:
    active: list[str] = []
    most = {"together": 0}

    async def pack(subject: Box, ctx: Context) -> Outcome:
        assert subject.name not in active
        active.append(subject.name)
        most["together"] = max(most["together"], len(active))
        await asyncio.sleep(1)
        active.remove(subject.name)
        return Desired()

    async def story(here: Running) -> None:
        for i in range(8):
            await here.apply(box(f"b{i}"))
        for value in "23456":
            await here.apply(box("b0", value=value))
            await here.settle(0.3)
        await here.settle(10)
        assert most["together"] == 3

    in_simulation(component(pack, workers=3), story)


def test_a_subject_that_has_served_its_time_is_deleted() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        return Desired(delete_subject=subject.spec.value == "over")

    async def story(here: Running) -> None:
        await here.apply(box(value="over"))
        await here.settle()
        assert await here.get(Box, "a") is None

    in_simulation(component(pack), story)


def test_selected_subjects_only() -> None:
    runs: list[str] = []

    async def pack(subject: Box, ctx: Context) -> Outcome:
        runs.append(subject.name)
        return Desired()

    async def story(here: Running) -> None:
        await here.apply(box("a", value="yes"))
        await here.apply(box("b", value="no"))
        await here.settle()
        assert set(runs) == {"a"}

    in_simulation(component(pack, selects=lambda subject: subject.spec.value == "yes"), story)


def test_a_name_is_needed() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        return Desired(objects=[config("")])

    async def story(here: Running) -> None:
        await here.apply(box())
        await here.settle(5)
        stalled = await here.condition(box(), "Stalled")
        assert stalled is not None
        assert stalled[2] == "boxes.pack returned a ConfigMap without a name; derive one from the subject's"

    in_simulation(component(pack, owns=[ConfigMap]), story)


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Desired(objects=[config("x")]), "boxes.pack creates ConfigMap: add it to owns=[...] of the reconciler"),
        (
            Desired(writes=[FieldWrite(Ref("v1", "Secret", "default", "x"), {"data": {"a": "b"}})]),
            "boxes.pack writes fields of Secret: add it to writes=[Writes(...)]",
        ),
        (Wait(Ref("v1", "Secret", "default", "x")), "boxes.pack reads Secret: add it to reads=[...] of the reconciler"),
    ],
)
def test_what_is_not_declared_is_refused(outcome: Outcome, says: str) -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        return outcome

    async def story(here: Running) -> None:
        await here.apply(box())
        await here.settle()
        assert await here.condition(box(), "Stalled") == ("True", "Undeclared", says)

    in_simulation(component(pack), story)


def test_an_effect_needs_its_declaration() -> None:
    async def nothing() -> None:
        return None

    async def pack(subject: Box, ctx: Context) -> Outcome:
        await ctx.effect("x", find=nothing, do=nothing)
        return Desired()

    async def story(here: Running) -> None:
        await here.apply(box())
        await here.settle()
        stalled = await here.condition(box(), "Stalled")
        assert stalled is not None
        assert stalled[2] == "boxes.pack calls ctx.effect: declare effects=True on the reconciler"

    in_simulation(component(pack), story)


def test_every_write_carries_its_cause() -> None:
    async def pack(subject: Box, ctx: Context) -> Outcome:
        secret = await ctx.get(Secret, "key")
        return Desired(objects=[config("made", secret.data["v"] if secret else "none")])

    async def story(here: Running) -> None:
        await here.settle()
        await here.apply(box())
        await here.settle()
        await here.apply(Secret(metadata=ObjectMeta(name="key", namespace="default"), data={"v": "MQ=="}))
        await here.settle()
        last = [e for e in here.journal.timeline() if str(e.object) == "ConfigMap default/made"][-1]
        assert (last.verb, last.actor, last.message) == ("changed", "trimtab-boxes-pack", "data.value")
        assert str(last.cause) == "Secret default/key"
        assert str(last.subject) == "Box default/a"

        # A user's change is there too, under the user's name, and `why` walks from the one to the other.
        why = here.journal.why(Ref("v1", "ConfigMap", "default", "made"))[0]
        assert [(str(r.entry.object), r.entry.verb, r.entry.actor) for r in why.reasons] == [
            ("Secret default/key", "created", "user"),
            ("Box default/a", "created", "user"),
        ]

    in_simulation(component(pack, owns=[ConfigMap], reads=[Secret]), story)


def test_a_write_whose_answer_is_lost_is_not_taken_for_undone() -> None:
    """Said, then said otherwise with the answer lost, then wanted as at first: it must be said again."""

    async def pack(subject: Box, ctx: Context) -> Outcome:
        if subject.spec.value == "2":
            # Carried out, but nobody hears of it; meanwhile the user wants the first value again.
            here[0].transport.rates = Rates(lost_after=1.0, latency_s_max=0, watch_late=0)
            await here[0].apply(box(value="1"))
        return Desired(status={"seen": subject.spec.value})

    here: list[Running] = []

    async def story(running: Running) -> None:
        here.append(running)
        await running.apply(box(value="1"))
        await running.settle()
        await running.apply(box(value="2"))
        await running.settle(0.5)
        found = await running.get(Box, "a")
        assert found is not None
        assert found.status.seen == "2"

        running.transport.rates = NO_FAULTS
        await running.settle(60)
        found = await running.get(Box, "a")
        assert found is not None
        assert found.status.seen == "1"

    in_simulation(component(pack), story)
