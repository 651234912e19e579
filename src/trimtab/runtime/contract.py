"""The contract kit: what every component must pass, on every reconciler, from its scenarios.

    a  reads and writes only what it declared
    b  reaches the goal from any state under seeds of faults, ends where the run without faults ends, and then stands still
    c  a crash at any step of any effect leaks nothing and does nothing twice
    d  survives restarts (part of the seeds)
    e  everything deleted: nothing is left, neither in the API nor outside
    f  every condition reason that it sets has a text, and its README mentions it

`contract(...)` returns test cases for pytest:

    @pytest.mark.parametrize("case", contract(COMPONENT, SCENARIOS, make_api), ids=str)
    def test_contract(case): case.run()

A failing seed is told in the error; `TRIMTAB_SEED=n` runs that one alone. `TRIMTAB_SEEDS` says how many (default 1,000).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.runtime.component import Component
from trimtab.runtime.conditions import RUNTIME_CONDITIONS
from trimtab.runtime.faults import NO_FAULTS, Rates
from trimtab.runtime.rehearsal import Broken, Rehearsal
from trimtab.runtime.scenario import Api, MakeApi, Scenario, Stage
from trimtab.runtime.simulation import SimulatedClock, SimulationStuck, simulate

__all__ = ["Api", "Broken", "Case", "MakeApi", "Scenario", "Stage", "check_conditions", "contract", "rehearse"]

SEEDS_DEFAULT = 1000
BLOCKS = 10
"""Seeds are spread over so many test cases, for several workers to share."""
EFFECT_STEPS_MAX = 200
SIMULATED_S_MAX = 6 * 3600.0


@dataclass(frozen=True)
class Case:
    """One test case of the kit."""

    name: str
    run: Callable[[], None]

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
) -> list[Case]:
    """The test cases for `component`. `others` run beside it without being judged. Seeds are shared out among the
    scenarios, each of which also runs once without faults, for a long time."""
    kit = _Kit(component, others, make_api, rates or Rates())
    cases: list[Case] = []
    for scenario in scenarios:
        cases.append(Case(f"{scenario.name}-calm", _bind(kit.calm, scenario)))
        if any(reconciler.effects for reconciler in component.reconcilers):
            cases.append(Case(f"{scenario.name}-crash-at-each-effect-step", _bind(kit.crashes, scenario)))
    wanted = list(seeds())
    for block in range(min(BLOCKS, len(wanted))):
        share = wanted[block::BLOCKS]
        cases.append(Case(f"seeds-{block}", _bind_seeds(kit, scenarios, share)))
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
    """The README.md beside the component's code."""
    for reconciler in component.reconcilers:
        source = inspect.getsourcefile(reconciler.function)
        if source is not None:
            return Path(source).parent / "README.md"
    return None
