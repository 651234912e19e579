"""kill -9 at every step of making, changing, making anew, taking over and deleting: nothing is leaked, nothing is doubled, and all ends as it should."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mortal_world import COLLECTIONS, MANNERS, UNSEEABLE, Manner, MortalWorld, Order
from trimtab.api import ObjectMeta
from trimtab.api.core import Secret
from trimtab.components.infrastructure.kinds import Ephemeral, PolicySpec

POLICY = PolicySpec(replace="auto")
TOKEN = Ephemeral(type="cloud_token", field="token", config={"scope": "pins", "ttl": 2})
LONG_RUNS = 1000
SEEDS = 4
STEPS_MAX = 60
SERVER = "cloud_server"
UNHEARD_MAX = 0.3
"""Of the operations on what nothing can look for so many may ask a person, and two more."""
STEPS = {"create": 15, "adopt": 12, "change": 10, "pin": 10, "drift": 10, "replace": 18, "lost": 15, "delete": 12}
"""How many there are, about."""
CLOUD_FAULTS = ("lost", "broken", "busy", "stale", "late", "half", "gone", "hidden", "kept")
"""gone: one answer of 404, to whatever is asked. hidden: a storm of them to all that reads one thing. (What no list contradicts is taken to
be gone when two answers, a second apart, say so: of those kinds it is one answer.) kept: a deletion is answered 404, and nothing is deleted."""
LISTED = ("cloud_server", "cloud_network", "cloud_cluster")

Goal = Callable[[], Awaitable[bool]]
Act = Callable[[], Awaitable[None]]


class Subject:
    """One object, and what is done to it."""

    def __init__(self, world: MortalWorld, resource: str, name: str) -> None:
        self.world, self.resource, self.name = world, resource, name
        self.wanted: dict[str, Any] = {"name": name, **({"region": "eu"} if resource == SERVER else {})}
        self.policy = POLICY
        self.more: dict[str, Any] = {}
        """Of its spec."""

    async def good(self) -> bool:
        good = await self.world.good(self.resource, self.name)
        if good and "ephemeral" in self.more:
            assert self.there["pin"] in {one.text for one in self.world.cloud.tokens.values()}
        return good

    async def over(self) -> bool:
        return await self.world.over(self.resource, self.name)

    async def declared(self, **more: Any) -> None:
        self.wanted |= more
        await self.world.declare(self.resource, self.name, self.wanted, interval="1h", policy=self.policy, **self.more)

    async def had_anew(self) -> None:
        """With a field whose value is opened, sent and closed."""
        self.more = {"ephemeral": {"pin": TOKEN}}
        await self.declared()

    async def pinned(self, pin: str) -> None:
        """A field that is only written, from a Secret of which nobody tells that it changed but its watch."""
        key = Secret(metadata=ObjectMeta(name=f"pin-{self.name}", namespace="default"), string_data={"pin": pin})
        await self.world.make(key)
        await self.declared(pinSecretRef={"name": key.name, "key": "pin"})

    async def adopted(self) -> None:
        """Is made by somebody else, and taken over."""
        faults, self.world.cloud.faults = self.world.cloud.faults, {}
        login = f"Bearer {self.world.cloud.token}"
        status, there = self.world.cloud.serve("POST", f"/{COLLECTIONS[self.resource]}", login, self.wanted)
        assert status == 201
        self.world.cloud.faults = faults
        self.policy = PolicySpec(replace="auto", adopt=f"id:{there['id']}")
        await self.declared()

    async def lost(self) -> None:
        """Somebody deletes it in the cloud; a change makes us look at once."""
        self.world.cloud.remove(COLLECTIONS[self.resource], self.there["id"])
        await self.looked_at()

    async def drifted(self) -> None:
        field = {"cloud_network": "range", "cloud_key": "text"}.get(self.resource, "size")
        field = "nodes" if self.resource == "cloud_cluster" else field
        if field in self.wanted:
            other = 9 if field == "nodes" else "hacked"
            self.world.cloud.change(COLLECTIONS[self.resource], self.there["id"], **{field: other})
        await self.looked_at()

    async def looked_at(self) -> None:
        found = await self.world.get(self.resource, self.name)
        assert found is not None
        minutes = 61 + int(found.metadata.generation)
        await self.world.declare(self.resource, self.name, self.wanted, interval=f"{minutes}m", policy=self.policy)

    async def deleted(self) -> None:
        found = await self.world.get(self.resource, self.name)
        assert found is not None
        await self.world.client.delete(found)

    @property
    def there(self) -> dict[str, Any]:
        """It, in the cloud."""
        (one,) = [one for one in self.world.cloud.all(COLLECTIONS[self.resource]) if one["name"] == self.name]
        return one


async def operation(subject: Subject, order: Order, act: Act, goal: Goal, what: str, *more: Order) -> bool:
    """Done, and killed by this order; then again by each of the others; then left alone until the goal. Whether the first killed."""
    world = subject.world
    await world.living(order)
    await act()
    died = await world.through_armed(goal, what)
    for again in more:
        if died:
            await world.through(again, goal, f"{what}, killed again")
    world.cloud.faults = {}
    await world.through(Order(), goal, f"{what}, after {order.steps[-1:]} {order.manner}, left alone")
    await world.check(subject.resource)
    return died


def manner_of(n: int) -> Manner:
    return MANNERS[n % 3]


async def every_step(world: MortalWorld, name: str, begin: str, act: str, goal: str = "good") -> list[str]:
    """Killed at each step of one kind of operation, on a server of its own each time; the steps of one that nobody disturbed."""
    for n in range(1, STEPS_MAX):
        one = Subject(world, SERVER, f"{name}-{n}")
        if begin:
            await getattr(one, begin)(**({"size": "small"} if begin == "declared" else {}))
            await world.through(Order(), one.good, f"{name} {n} begins")
        do = getattr(one, act)
        given: dict[str, Any] = {"change": {"size": f"x{n}"}, "replace": {"region": f"x{n}"}}.get(name, {})
        if name == "pin":
            given = {"pin": f"p{n}"}
        order = Order(n, manner_of(n))
        died = await operation(one, order, lambda: do(**given), getattr(one, goal), f"{name}, step {n}")  # noqa: B023
        if goal == "good":
            assert {k: v for k, v in one.there.items() if k in given} == given
            await one.deleted()
            await world.through(Order(), one.over, f"{name} {n} ends")
        assert world.cloud.all("servers") == []
        if not died:
            assert world.deaths >= n - 1
            return order.steps
    raise AssertionError(f"{name}: no end after {STEPS_MAX} steps")


MAKING = {"PATCH servers", "POST effects", "PATCH effects", "PATCH secrets", "plan", "list_", "apply", "read"}


@pytest.mark.parametrize(
    ("name", "begin", "act", "goal", "steps"),
    [
        ("create", "", "declared", "good", MAKING),
        ("change", "declared", "declared", "good", {"PATCH secrets", "plan", "apply", "read", "PATCH servers status"}),
        ("replace", "declared", "declared", "good", {"PATCH secrets", "plan", "apply", "list_", "PATCH servers status"}),
        ("lost", "declared", "lost", "good", {"PATCH secrets", "plan", "apply", "list_", "PATCH servers status"}),
        ("pin", "declared", "pinned", "good", {"PATCH secrets", "plan", "apply", "read", "PATCH servers status"}),
        ("adopt", "", "adopted", "good", {"POST effects", "import_", "read", "PATCH secrets", "PATCH servers status"}),
        ("delete", "declared", "deleted", "over", {"read", "apply", "PATCH secrets", "DELETE effects", "DELETE secrets"}),
    ],
)  # fmt: skip
async def test_killed_at_every_step(
    world: MortalWorld, name: str, begin: str, act: str, goal: str, steps: set[str]
) -> None:
    began = time.monotonic()
    done = await every_step(world, name, begin, act, goal)
    assert steps <= set(done), done
    assert Counter(done)["apply"] == {"replace": 2, "adopt": 0}.get(name, 1)
    assert world.persons == []
    print(f"\n{name}: {len(done)} steps, {world.deaths} deaths, {time.monotonic() - began:.0f} s: {done}")


async def test_killed_between_open_and_close_what_was_had_runs_out(world: MortalWorld) -> None:
    """Whoever is killed closes nothing, and nobody renews it."""
    steps = await every_step(world, "ephemeral", "", "had_anew")
    assert steps.index("open_ephemeral") < steps.index("apply") < steps.index("close_ephemeral")
    assert world.persons == []
    # Each of them was made once, and killed once at most.
    assert len(steps) <= len(world.cloud.tokens) <= 2 * len(steps) + 1
    await world.until(lambda: not world.cloud.live_tokens(), "all of them ran out")


async def test_killed_again_while_it_recovers(world: MortalWorld) -> None:
    """Of a creation whose answer was never heard: each step of looking for it, from the start of the process and of the provider on."""
    undisturbed, first = Order(), Subject(world, SERVER, "again-0")
    await world.at_rest()
    await world.living(undisturbed)
    await first.declared()
    await world.through_armed(first.good, "a creation that nobody disturbs")
    made = undisturbed.steps.index("apply") + 1
    for n in range(1, STEPS_MAX):
        one = Subject(world, SERVER, f"again-{n}")
        await world.at_rest()
        await world.living(Order(made, "after"))
        await one.declared()
        assert await world.through_armed(one.good, f"again {n} begins")
        order = Order(n, manner_of(n))
        died = await world.through(order, one.good, f"again, step {n}")
        await world.through(Order(), one.good, f"again {n}, left alone")
        await world.check(SERVER)
        await one.deleted()
        await world.through(Order(), one.over, f"again {n} ends")
        if not died:
            break
    assert {"start", "list_", "import_identity", "PATCH secrets", "PATCH servers status"} <= set(order.steps), (
        order.steps
    )
    assert "apply" not in order.steps
    assert world.persons == []


def drawn(world: MortalWorld, rng: random.Random, what: str, resource: str) -> tuple[Order, ...]:
    """A death, of the controllers or of the provider, sometimes another while it recovers, and a fault of the cloud's at the same time."""
    victim: Any = "provider" if rng.random() < 0.3 else "controllers"
    first = Order(rng.randint(1, STEPS[what]), rng.choice(MANNERS), victim, rng.uniform(0, 0.03))
    again = [Order(rng.randint(1, 14), rng.choice(MANNERS), "controllers", rng.uniform(0, 0.03))]
    fault = rng.choice(["", *CLOUD_FAULTS]) if rng.random() < 0.6 else ""
    if fault == "gone" and (what not in ("adopt", "drift", "pin", "change") or resource == "cloud_network"):
        fault = "hidden"  # a provider that is answered 404 when it deletes says that it is deleted
    world.cloud.faults = {fault: rng.randint(1, 12) if fault == "hidden" and resource in LISTED else 1} if fault else {}
    return first, *(again if rng.random() < 0.3 else [])


async def a_life(world: MortalWorld, rng: random.Random, resource: str, name: str) -> tuple[list[str], int]:
    """Made or taken over, changed in one or two ways, and deleted, with a death in each; what was done, and how often something was killed."""
    killed = 0
    one = Subject(world, resource, name)
    big: dict[str, Any] = {
        "cloud_network": {"range": "10.9.0.0/16"},
        "cloud_cluster": {"nodes": 3},
        "cloud_key": {"text": "changed"},
    }.get(resource, {"size": "big"})
    ways: dict[str, Act] = {
        "change": lambda: one.declared(**big),
        "lost": one.lost,
        "drift": one.drifted,
    }
    if resource == SERVER:
        ways |= {"replace": lambda: one.declared(region="us"), "pin": lambda: one.pinned(str(rng.random()))}
    first = ("adopt", one.adopted) if rng.random() < 0.2 else ("create", one.declared)
    steps = [first, *rng.sample(sorted(ways.items()), rng.choice((1, 2))), ("delete", one.deleted)]
    for what, act in steps:
        goal = one.over if what == "delete" else one.good
        order, *more = drawn(world, rng, what, resource)
        await operation(one, order, act, goal, f"{resource} {name} {what}", *more)
        killed += sum(each.carried_out for each in (order, *more))
        if rng.random() < 0.05:
            await world.restart_api()
    return [what for what, _ in steps], killed


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_killed_a_thousand_times(world: MortalWorld, seed: int) -> None:
    rng = random.Random(seed)
    began = time.monotonic()
    done: Counter[str] = Counter()
    killed = 0
    runs: Counter[str] = Counter()
    persons: Counter[str] = Counter()
    while killed < LONG_RUNS / SEEDS:
        # One in ten is of a kind that nothing can look for, which a provider has few of.
        resource = UNSEEABLE if rng.random() < 0.1 else rng.choice(sorted(COLLECTIONS.keys() - {UNSEEABLE}))
        before = len(world.persons)
        steps, deaths = await a_life(world, rng, resource, f"one-{done.total()}")
        done.update(steps)
        killed += deaths
        runs[resource] += len(steps)
        persons[resource] += len(world.persons) - before
    print(
        f"\nseed {seed}: {done.total()} operations {dict(done)}, {killed} kills, {world.deaths} of the controllers, {time.monotonic() - began:.0f} s; "
        f"of {dict(runs)} people were asked {dict(+persons)}"
    )
    assert persons.total() == persons[UNSEEABLE], world.persons
    assert persons[UNSEEABLE] <= UNHEARD_MAX * runs[UNSEEABLE] + 2, world.persons
