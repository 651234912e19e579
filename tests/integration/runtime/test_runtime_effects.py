"""Effects: done once, found after a crash, undone in reverse, never forgotten; and the end of a subject."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from msgspec import field

from running import Running, running
from trimtab.api import Condition, Model, ObjectMeta, Ref, Resource, resource
from trimtab.api.core import ConfigMap, Namespace
from trimtab.runtime import Component, Context, Desired, Owned, reconciler
from trimtab.runtime.component import Outcome
from trimtab.runtime.effects import Effect
from trimtab.runtime.simulation import SimulatedClock, simulate
from trimtab.runtime.switch_off import switch_off


class JarSpec(Model):
    names: list[str] = []


class JarStatus(Model):
    conditions: list[Condition] = []


@resource("effects.trimtab.dev/v1", "jars")
class Jar(Resource):
    spec: JarSpec = field(default_factory=JarSpec)
    status: JarStatus = field(default_factory=JarStatus)


class World:
    """Things outside, in the order in which they were done and undone."""

    def __init__(self) -> None:
        self.things: dict[str, int] = {}
        self.log: list[str] = []
        self.fails: set[str] = set()

    async def make(self, name: str) -> dict[str, int]:
        self.log.append(f"make {name}")
        if f"before {name}" in self.fails:
            raise ConnectionError("not reached")
        self.things[name] = self.things.get(name, 0) + 1
        if f"after {name}" in self.fails:
            self.fails.discard(f"after {name}")
            raise ConnectionError("no answer")
        return {"count": self.things[name]}

    async def find(self, name: str) -> dict[str, int] | None:
        return {"count": self.things[name]} if name in self.things else None

    async def unmake(self, name: str) -> None:
        self.log.append(f"unmake {name}")
        if f"undo {name}" in self.fails:
            raise ConnectionError("not reached")
        self.things.pop(name, None)


async def act(ctx: Context, world: World, name: str) -> Any:
    async def undo(outcome: Any) -> None:
        await world.unmake(name)

    return await ctx.effect(name, find=lambda: world.find(name), do=lambda: world.make(name), undo=undo)


async def fill(jar: Jar, ctx: Context) -> Outcome:
    world = ctx.adapter(World)
    if not ctx.deleting:
        for key in await ctx.done():
            if key not in jar.spec.names:

                async def undo(outcome: Any, key: str = key) -> None:
                    await world.unmake(key)

                await ctx.undo(key, undo)
    for name in jar.spec.names:
        await act(ctx, world, name)
    made = ConfigMap(metadata=ObjectMeta(name=f"{jar.name}-made"))
    return Desired(objects=[made])


def component(function: Callable[[Jar, Context], Awaitable[Outcome]] = fill) -> Component:
    made = reconciler(Jar, name="fill", owns=[Owned(ConfigMap)], effects=True)(function)
    return Component(name="jars", summary="", kinds=(Jar,), reconcilers=(made,))


def jar(*names: str, namespace: str = "default") -> Jar:
    return Jar(metadata=ObjectMeta(name="j", namespace=namespace), spec=JarSpec(names=list(names)))


def in_simulation(
    story: Callable[[Running, World], Coroutine[Any, Any, None]],
    function: Callable[[Jar, Context], Awaitable[Outcome]] = fill,
    **settings: Any,
) -> None:
    async def main(clock: SimulatedClock) -> None:
        world = World()
        async with running(clock, component(function), adapters={World: world}, **settings) as here:
            await story(here, world)

    simulate(main)


def test_done_once_recorded_and_undone_in_reverse_after_the_dependants() -> None:
    async def story(here: Running, world: World) -> None:
        made = await here.apply(jar("a", "b", "c"))
        await here.settle(1500)
        assert world.log == ["make a", "make b", "make c"]
        records = (await here.client.list(Effect, "default")).items
        assert sorted((r.spec.key, r.phase, r.outcome, r.spec.subject["name"]) for r in records) == [
            ("a", "Done", '{"count":1}', "j"),
            ("b", "Done", '{"count":1}', "j"),
            ("c", "Done", '{"count":1}', "j"),
        ]
        subject = await here.get(Jar, "j")
        assert subject is not None
        assert subject.metadata.finalizers == ["trimtab.dev/jars-fill"]

        # A dependant that takes its time keeps the effects alive.
        target = Ref("v1", "ConfigMap", "default", "j-made")
        await here.client.patch(target, {"metadata": {"finalizers": ["test.dev/slow"]}}, manager="user")
        await here.client.delete(made)
        await here.settle(30)
        assert world.log[3:] == []
        await here.client.patch(target, {"metadata": {"finalizers": None}}, manager="user")
        await here.settle(5)

        assert world.log[3:] == ["unmake c", "unmake b", "unmake a"]
        assert (await here.client.list(Effect, "default")).items == []
        assert await here.get(Jar, "j") is None

    in_simulation(story)


def test_a_deed_whose_answer_was_lost_is_found_not_repeated() -> None:
    async def story(here: Running, world: World) -> None:
        world.fails.add("after a")
        await here.apply(jar("a"))
        await here.settle(10)
        assert world.log == ["make a"]
        assert world.things == {"a": 1}
        assert any(e.message == "a: found done" for e in here.journal.timeline())

    in_simulation(story)


def test_a_deed_that_fails_is_tried_again_and_nothing_of_it_is_left_when_the_subject_goes() -> None:
    async def story(here: Running, world: World) -> None:
        world.fails.add("before a")
        made = await here.apply(jar("a", "b"))
        await here.settle(30)
        assert len(world.log) > 3
        assert set(world.log) == {"make a"}
        await here.client.delete(made)
        await here.settle(30)
        assert "unmake a" not in world.log, "it never happened"
        assert await here.get(Jar, "j") is None
        assert (await here.client.list(Effect, "default")).items == []

    in_simulation(story)


def test_an_undo_that_fails_keeps_the_subject_until_it_works() -> None:
    async def story(here: Running, world: World) -> None:
        made = await here.apply(jar("a", "b"))
        await here.settle()
        world.fails.add("undo a")
        await here.client.delete(made)
        await here.settle(60)
        assert world.things == {"a": 1}
        assert await here.get(Jar, "j") is not None
        world.fails.clear()
        await here.settle(60)
        assert world.things == {}
        assert world.log.count("unmake b") == 1
        assert await here.get(Jar, "j") is None

    in_simulation(story)


def test_an_effect_no_longer_wanted_is_undone_while_the_subject_lives() -> None:
    async def story(here: Running, world: World) -> None:
        await here.apply(jar("a", "b"))
        await here.settle()
        await here.apply(jar("b", "c"))
        await here.settle()
        assert world.log == ["make a", "make b", "unmake a", "make c"]
        records = (await here.client.list(Effect, "default")).items
        assert sorted(r.spec.key for r in records) == ["b", "c"]

    in_simulation(story)


def test_deleting_the_whole_namespace_forgets_nothing() -> None:
    async def story(here: Running, world: World) -> None:
        await here.apply(jar("a", "b", namespace="team"))
        await here.settle()
        assert world.things == {"a": 1, "b": 1}
        await here.client.delete(Ref("v1", "Namespace", None, "team"))
        await here.settle(120)
        assert world.things == {}
        assert await here.get(Namespace, "team") is None

    in_simulation(story, namespaces=("team",))


def test_an_effect_that_the_component_forgot_keeps_the_subject_and_says_so() -> None:
    async def forgetful(subject: Jar, ctx: Context) -> Outcome:
        if not ctx.deleting:
            await act(ctx, ctx.adapter(World), "a")
        return Desired()

    async def story(here: Running, world: World) -> None:
        made = await here.apply(jar())
        await here.settle()
        await here.client.delete(made)
        await here.settle(30)
        assert await here.condition(made, "Stalled") == (
            "True",
            "EffectsLeft",
            "cannot finish deleting: done outside and not undone by the component: a. Undo it by hand, then remove the "
            "finalizer of the Effect",
        )

    in_simulation(story, forgetful)


def test_a_component_that_is_switched_off_holds_nobody() -> None:
    async def story(here: Running, world: World) -> None:
        made = await here.apply(jar("a"))
        await here.settle()
        here.process.controllers.clear()
        here._task.cancel()

        left = await switch_off(here.client, component())

        assert left == ["jars.fill: effect 'a' of j was not undone"]
        await here.client.delete(made)
        assert await here.get(Jar, "j") is None

    in_simulation(story)
