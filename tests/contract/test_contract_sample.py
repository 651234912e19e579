"""The contract kit on the sample component: a right one passes, and each classical bug is caught, with a text that helps."""

from __future__ import annotations

import dataclasses

import pytest

from sample_component import SCENARIO, component
from simulated_api import make_api
from trimtab.runtime.contract import Broken, Case, check_conditions, contract, rehearse
from trimtab.runtime.faults import NO_FAULTS, Rates
from trimtab.runtime.rehearsal import Beginning


@pytest.mark.parametrize("case", contract(component(), [SCENARIO], make_api), ids=str)
def test_contract(case: Case) -> None:
    case.run()


@pytest.mark.parametrize(
    ("bug", "says"),
    [
        ("undeclared read", "sample.publish reads Ingress: add it to reads=[...] of the reconciler"),
        ("forgotten effect", "done outside and not undone by the component: register"),
        ("flip-flop", "NonConvergent: wrote 15 times in a row while nothing else changed: ConfigMap default/one-"),
        ("mutation", "Site default/one was changed in the cache by a reconciler: copy what you read"),
        ("restless", "it does not come to rest; the last writes are PATCH /api/v1/namespaces/default/configmaps/one-"),
        ("undeclared field", "sample.publish writes data.b of Secret: writes=[...] allows only data.a"),
    ],
)
def test_a_bug_shows_without_faults(bug: str, says: str) -> None:
    with pytest.raises(Broken) as caught:
        rehearse(component(bug), SCENARIO, make_api)

    assert says in str(caught.value)


def test_an_effect_that_cannot_find_itself_is_done_twice_after_a_crash() -> None:
    calm = rehearse(component("blind effect"), SCENARIO, make_api)
    done = calm.effect_steps.index("register: done") + 1

    with pytest.raises(Broken, match="2 names are registered instead of one"):
        rehearse(component("blind effect"), SCENARIO, make_api, crash_at_effect=done, expected=calm.found)


def test_an_undo_that_does_nothing_leaks() -> None:
    with pytest.raises(Broken, match="left in the outside world after everything was deleted: address-1"):
        rehearse(component("lazy undo"), SCENARIO, make_api)


def test_a_reason_without_a_text_is_named() -> None:
    calm = rehearse(component("undocumented reason"), SCENARIO, make_api)

    with pytest.raises(Broken, match=r"sets condition reasons without a text: Mystery; add them to conditions=\{...\}"):
        check_conditions(component(), calm.reasons)


def run(bug: str, name: str) -> None:
    """One case of the kit, by its name, on the component with a bug."""
    case = next(case for case in contract(component(bug), [SCENARIO], make_api) if case.name == name)
    case.run()


def test_what_only_a_process_remembers_does_not_survive_a_restore() -> None:
    calm = rehearse(component("memory"), SCENARIO, make_api, long=True)
    assert calm.late is not None

    with pytest.raises(Broken, match=r"ends in another state than without faults:\n.*ConfigMap.*one-index"):
        rehearse(
            component("memory"), SCENARIO, make_api, expected=calm.found, beginning=Beginning(calm.late, calm.late)
        )


def test_chance_from_elsewhere_than_the_clock_is_told() -> None:
    with pytest.raises(Broken, match="publish: seed 7 is not the same run twice"):
        run("chance", "publish-same-seed-same-run")


def test_a_lost_world_outside_is_noticed() -> None:
    """Without its zone the restored component believes its records: the scenario has to say what is still there."""
    case = next(
        case
        for case in contract(component(), [dataclasses.replace(SCENARIO, carry=None)], make_api)
        if case.name == "publish-restored"
    )
    with pytest.raises(Broken, match="0 names are registered instead of one"):
        case.run()


def test_the_same_seed_is_the_same_run() -> None:
    def told(seed: int) -> list[tuple[object, ...]]:
        rehearsal = rehearse(component(), SCENARIO, make_api, seed=seed, rates=Rates(), keep_journal=True)
        return rehearsal.journal.database.execute("SELECT at, actor, verb, object, message FROM entries").fetchall()

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_a_run_without_faults_writes_no_more_than_it_must() -> None:
    calm = rehearse(component(), SCENARIO, make_api, rates=NO_FAULTS)

    # finalizer, intent, outcome, 2 pages, status; 2 pages, 1 sweep; then 2 sweeps, undo (2), finalizer.
    assert len(calm.life.writes()) == 14
