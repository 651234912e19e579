"""The contract kit: what every component must pass, on every reconciler, from its scenarios.

    a  reads and writes only what it declared
    b  reaches the goal from any state under seeds of faults, ends where the run without faults ends, and then stands still
    c  a crash at any step of any effect leaks nothing and does nothing twice
    d  survives restarts, its own and the API server's (part of the seeds)
    e  restored from a backup on a machine that has nothing else, it ends in the same state; from an older backup, too, while
       the world outside has gone on
    f  goes on from what earlier releases stored (`earlier`): the goal, rest, and in the end nothing left
    g  the same seed is the same run, to the microsecond
    h  everything deleted: nothing is left, neither in the API nor outside
    i  every condition reason that it sets has a text, and its README mentions it

`contract(...)` returns test cases for pytest:

    @pytest.mark.parametrize("case", contract(COMPONENT, SCENARIOS, make_api), ids=str)
    def test_contract(case): case.run()

A failing seed is told in the error; `TRIMTAB_SEED=n` runs that one alone. `TRIMTAB_SEEDS` says how many (default 1,000;
those after the first 200 are `Case.long`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trimtab.api import JSON
from trimtab.runtime.component import Component
from trimtab.runtime.conditions import RUNTIME_CONDITIONS
from trimtab.runtime.faults import NO_FAULTS, Rates
from trimtab.runtime.rehearsal import Beginning, Broken, Rehearsal, Snapshot
from trimtab.runtime.scenario import Api, MakeApi, Records, Scenario, Stage
from trimtab.runtime.simulation import SimulatedClock, SimulationStuck, simulate

__all__ = [
    "Api",
    "Broken",
    "Case",
    "MakeApi",
    "Scenario",
    "Stage",
    "check_conditions",
    "contract",
    "rehearse",
    "stored",
]

SEEDS_DEFAULT = 1000
OTHER_MACHINE_SEED = 1
"""Of rehearsals that begin with what another machine stored: with its seed they would give new objects the uids of old ones."""
SEEDS_QUICK = 200
"""So many of them run at every change; the others are `Case.long`."""
BLOCK = 100
"""Seeds of one test case, for several workers to share."""
EFFECT_STEPS_MAX = 200
SAME_SEED = 7
SIMULATED_S_MAX = 6 * 3600.0


@dataclass(frozen=True)
class Case:
    """One test case of the kit."""

    name: str
    run: Callable[[], None]
    long: bool = False
    """More of what other cases run already: for the long test run."""

    def __str__(self) -> str:
        return self.name


def seeds() -> Sequence[int]:
    """The seeds to run: `TRIMTAB_SEED` alone, or the first `TRIMTAB_SEEDS` (default 1,000)."""
    if one := os.environ.get("TRIMTAB_SEED"):
        return (int(one),)
    return range(int(os.environ.get("TRIMTAB_SEEDS", SEEDS_DEFAULT)))


def contract(
    component: Component,
    scenarios: Sequence[Scenario],
    make_api: MakeApi,
    *,
    others: Sequence[Component] = (),
    rates: Rates | None = None,
    earlier: Path | None = None,
) -> list[Case]:
    """The test cases for `component`. `others` run beside it without being judged. Seeds are shared out among the
    scenarios, each of which also runs once without faults, for a long time. `earlier` is a directory with what releases
    stored, RELEASE/COMPONENT.json, as `stored` makes them."""
    kit = _Kit(component, others, make_api, rates or Rates())
    cases: list[Case] = []
    for scenario in scenarios:
        cases.append(Case(f"{scenario.name}-calm", _bind(kit.calm, scenario)))
        cases.append(Case(f"{scenario.name}-restored", _bind(kit.restored, scenario)))
        if scenario.steps:
            cases.append(Case(f"{scenario.name}-restored-older", _bind(kit.restored_older, scenario)))
        cases.append(Case(f"{scenario.name}-same-seed-same-run", _bind(kit.same_run, scenario)))
        if any(reconciler.effects for reconciler in component.reconcilers):
            cases.append(Case(f"{scenario.name}-crash-at-each-effect-step", _bind(kit.crashes, scenario)))
    for release, data in _earlier(component, earlier):
        for scenario in scenarios:
            if (own := data["scenarios"].get(scenario.name)) is not None:
                records = {key: msgspec.json.encode(obj) for key, obj in (data["everywhere"] | own["records"]).items()}
                snapshot = Snapshot(own["at_s"], records)
                cases.append(Case(f"{scenario.name}-from-{release}", _bind_data(kit, scenario, snapshot)))
    wanted = list(seeds())
    for start in range(0, len(wanted), BLOCK):
        share = _bind_seeds(kit, scenarios, wanted[start : start + BLOCK])
        cases.append(Case(f"seeds-{start // BLOCK}", share, long=start >= SEEDS_QUICK))
    cases.append(Case("conditions", lambda: kit.conditions(scenarios)))
    return cases


def _bind(function: Callable[[Scenario], object], scenario: Scenario) -> Callable[[], None]:
    def run() -> None:
        function(scenario)

    return run


def _bind_seeds(kit: _Kit, scenarios: Sequence[Scenario], share: Sequence[int]) -> Callable[[], None]:
    def run() -> None:
        for seed in share:
            kit.seed(scenarios[seed % len(scenarios)], seed)

    return run


def _bind_data(kit: _Kit, scenario: Scenario, data: Snapshot) -> Callable[[], None]:
    def run() -> None:
        kit.upgraded(scenario, data)

    return run


def _earlier(component: Component, folder: Path | None) -> list[tuple[str, JSON]]:
    if folder is None:
        return []
    files = sorted(folder.glob(f"*/{component.name}.json"))
    return [(file.parent.name, msgspec.json.decode(file.read_bytes())) for file in files]


def stored(component: Component, scenarios: Sequence[Scenario], make_api: MakeApi) -> str:
    """What this release stores when each scenario has reached its goal, an object a line: {"everywhere": {key: object}, "scenarios":
    {name: {"at_s": .., "records": {key: object}}}}, where "everywhere" is what all of them store alike."""
    kit = _Kit(component, (), make_api, NO_FAULTS)
    told: dict[str, Snapshot] = {}
    for scenario in scenarios:
        late = kit.calm(scenario).late
        assert late is not None
        told[scenario.name] = late
    everywhere = dict(set.intersection(*(set(late.records.items()) for late in told.values())))

    def lines(records: Records) -> str:
        return ",\n".join(f"{msgspec.json.encode(key).decode()}: {records[key].decode()}" for key in sorted(records))

    of_each = [
        f'"{name}": {{"at_s": {late.at_s}, "records": {{\n{lines(dict(late.records.items() - everywhere.items()))}\n}}}}'
        for name, late in told.items()
    ]
    return f'{{"everywhere": {{\n{lines(everywhere)}\n}}, "scenarios": {{\n{",".join(of_each)}\n}}}}\n'


class _Kit:
    def __init__(self, component: Component, others: Sequence[Component], make_api: MakeApi, rates: Rates) -> None:
        self._component = component
        self._others = tuple(others)
        self._make_api = make_api
        self._rates = rates
        self._calm: dict[str, Rehearsal] = {}

    def calm(self, scenario: Scenario) -> Rehearsal:
        """Without faults: declared inputs and outputs only, the goal, stillness over two resyncs, nothing left."""
        if scenario.name not in self._calm:
            self._calm[scenario.name] = self._rehearse(scenario, 0, NO_FAULTS, long=True)
        return self._calm[scenario.name]

    def restored(self, scenario: Scenario) -> None:
        """The state at the goal, on an empty machine: nothing is missing, nothing is made anew that was there."""
        calm = self.calm(scenario)
        assert calm.late is not None
        self._rehearse(scenario, 0, NO_FAULTS, expected=calm.found, beginning=Beginning(calm.late, calm.late))

    def restored_older(self, scenario: Scenario) -> None:
        """A backup from before the user's steps, which are taken again; the world outside is ahead of it."""
        calm = self.calm(scenario)
        assert calm.early is not None
        assert calm.late is not None
        beginning = Beginning(calm.early, calm.late, steps=True)
        self._rehearse(scenario, OTHER_MACHINE_SEED, NO_FAULTS, expected=calm.found, beginning=beginning)

    def upgraded(self, scenario: Scenario, data: Snapshot) -> None:
        """What an earlier release stored, taken over by this one."""
        calm = self.calm(scenario)
        assert calm.late is not None
        self._rehearse(
            scenario,
            OTHER_MACHINE_SEED,
            NO_FAULTS,
            beginning=Beginning(data, calm.late if scenario.outside is None else data),
        )

    def same_run(self, scenario: Scenario) -> None:
        """Two runs with faults from one seed write the same journal."""
        first, second = (self._rehearse(scenario, SAME_SEED, self._rates, keep_journal=True).told() for _ in range(2))
        for one, other in zip(first, second, strict=False):
            if one != other:
                raise Broken(f"{scenario.name}: seed {SAME_SEED} is not the same run twice:\n    {one}\n    {other}")
        if len(first) != len(second):
            raise Broken(f"{scenario.name}: seed {SAME_SEED} made {len(first)} entries, then {len(second)}")

    def crashes(self, scenario: Scenario) -> None:
        """Dies at the first, second, ... step of effects, comes back, and ends in the same state."""
        calm = self.calm(scenario)
        steps = len(calm.effect_steps)
        if not steps:
            return
        if steps > EFFECT_STEPS_MAX:
            raise Broken(f"{scenario.name}: {steps} steps of effects; make the scenario smaller")
        for n in range(1, steps + 1):
            self._rehearse(scenario, 0, NO_FAULTS, crash_at_effect=n, expected=calm.found)

    def seed(self, scenario: Scenario, seed: int) -> None:
        self._rehearse(scenario, seed, self._rates, expected=self.calm(scenario).found)

    def conditions(self, scenarios: Sequence[Scenario]) -> None:
        set_reasons: set[str] = set()
        for scenario in scenarios:
            set_reasons |= self.calm(scenario).reasons
        check_conditions(self._component, set_reasons)

    def _rehearse(
        self,
        scenario: Scenario,
        seed: int,
        rates: Rates,
        *,
        crash_at_effect: int | None = None,
        expected: list[tuple[str, str]] | None = None,
        long: bool = False,
        keep_journal: bool = False,
        beginning: Beginning | None = None,
    ) -> Rehearsal:
        what = f"crash at effect step {crash_at_effect}" if crash_at_effect else f"seed {seed}"
        try:
            return rehearse(
                self._component,
                scenario,
                self._make_api,
                others=self._others,
                seed=seed,
                rates=rates,
                crash_at_effect=crash_at_effect,
                expected=expected,
                long=long,
                keep_journal=keep_journal,
                beginning=beginning,
            )
        except Broken as err:
            raise Broken(f"{self._component.name}: {what}: {err}") from err
        except SimulationStuck as err:
            raise Broken(f"{self._component.name}: {what}: {scenario.name}: {err}") from err


def rehearse(
    component: Component,
    scenario: Scenario,
    make_api: MakeApi,
    *,
    others: Sequence[Component] = (),
    seed: int = 0,
    rates: Rates = NO_FAULTS,
    crash_at_effect: int | None = None,
    expected: list[tuple[str, str]] | None = None,
    long: bool = False,
    keep_journal: bool = False,
    beginning: Beginning | None = None,
) -> Rehearsal:
    """Runs one scenario once in simulated time; the rehearsal holds what was found.

    Raises:
        Broken: it did not end as it must.
    """

    async def main(clock: SimulatedClock) -> Rehearsal:
        rehearsal = Rehearsal(
            component,
            others,
            scenario,
            clock,
            rates,
            crash_at_effect=crash_at_effect,
            expected=expected,
            long=long,
            keep_journal=keep_journal,
            beginning=beginning,
        )
        await rehearsal.run(make_api)
        return rehearsal

    return simulate(main, seed=seed, limit_s=SIMULATED_S_MAX)


def check_conditions(component: Component, reasons: set[str]) -> None:
    """Every reason that was set is declared with a text, and every declared one is explained in the README.

    Raises:
        Broken: naming the reasons.
    """
    undeclared = sorted(reasons - component.conditions.keys() - RUNTIME_CONDITIONS.keys())
    if undeclared:
        raise Broken(
            f"{component.name}: sets condition reasons without a text: {', '.join(undeclared)}; add them to conditions={{...}}"
        )
    readme = readme_of(component)
    text = readme.read_text() if readme is not None and readme.exists() else ""
    missing = sorted(reason for reason in component.conditions if reason not in text)
    if missing:
        raise Broken(f"{component.name}: {readme or 'README.md'} does not mention: {', '.join(missing)}")


def readme_of(component: Component) -> Path | None:
    """The README.md beside the component's code, or beside the room in which its first reconciler is."""
    for reconciler in component.reconcilers:
        source = inspect.getsourcefile(reconciler.function)
        if source is not None:
            return next(
                (folder / "README.md" for folder in Path(source).parents if (folder / "README.md").exists()), None
            )
    return None
