"""What a comparison finds in noise (next to nothing), and in a function that became slower: simulated deploys."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.components.profiling.queries.growth import Side, growth

PARTS = 3
SAMPLES = 1_500
THRESHOLD = 0.05


def program(source: np.random.Generator, slow_share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Stacks of a program of 300 functions: what each stack is likely to be, and which functions are in it. Function 0 is in stacks of
    `slow_share` of the time, function 1 in all."""
    stacks = np.r_[slow_share, (1 - slow_share) * source.dirichlet(np.full(200, 0.3))]
    inside = source.random((300, 201)) < 0.05
    inside[0], inside[1] = np.arange(201) == 0, True
    inside[2:, 0] = False
    return stacks, inside


def side(
    source: np.random.Generator, stacks: np.ndarray, inside: np.ndarray, samples: int, requests: float | None = None
) -> Side:
    parts = source.multinomial(samples // PARTS, stacks / stacks.sum(), size=PARTS).T
    if requests is not None:
        parts = source.poisson(np.outer(stacks, np.full(PARTS, samples / PARTS)))
    served = None if requests is None else np.full(PARTS, requests / PARTS)
    return Side(inside.astype(float) @ parts, parts.sum(0).astype(float), float(parts.sum()), served)


@pytest.mark.parametrize("requests", [None, 10_000.0])
def test_equal_profiles_raise_fewer_false_alarms_than_one_in_a_hundred(requests):
    source, deploys, alarms = np.random.default_rng(1), 600, 0
    for _ in range(deploys):
        stacks, inside = program(source)
        pair = [side(source, stacks, inside, SAMPLES, requests) for _ in range(2)]
        alarms += bool(growth(*pair, threshold=0.0))

    assert alarms / deploys < 0.01


def test_so_they_do_with_as_few_samples_as_are_taken_at_all():
    source, deploys, alarms = np.random.default_rng(2), 600, 0
    for _ in range(deploys):
        stacks, inside = program(source)
        alarms += bool(growth(side(source, stacks, inside, 200), side(source, stacks, inside, 200), threshold=0.0))

    assert alarms / deploys < 0.01


@pytest.mark.parametrize("requests", [None, 10_000.0])
def test_a_function_of_a_tenth_that_becomes_twice_as_slow_is_found_and_named_first(requests):
    source, deploys, found = np.random.default_rng(3), 200, 0
    for _ in range(deploys):
        stacks, inside = program(source)
        slower = stacks.copy()
        slower[0] *= 2
        before = side(source, stacks, inside, SAMPLES, requests)
        after = side(source, slower, inside, SAMPLES, requests)
        grown = growth(before, after, THRESHOLD)
        found += bool(grown) and grown[0][0] == 0

    assert found / deploys > 0.95


def test_of_a_new_function_it_is_said_that_it_was_not_there_before():
    source = np.random.default_rng(4)
    stacks, inside = program(source)
    without = stacks.copy()
    without[0] = 0

    ((number, before, after, least), *_) = growth(
        side(source, without, inside, SAMPLES), side(source, stacks, inside, SAMPLES), THRESHOLD
    )

    assert (number, before) == (0, 0.0)
    assert 0 < least < after < 0.2


def test_what_came_and_went_by_itself_is_not_the_deploys():
    """A job that runs for a third of the time, after as it might have before."""
    source = np.random.default_rng(5)
    stacks, inside = program(source, slow_share=0.0001)
    before, after = side(source, stacks, inside, 3_000), side(source, stacks, inside, 3_000)
    costs = after.costs.copy()
    costs[0, 1] += 600
    burst = Side(costs, after.whole + np.array([0, 600, 0]), 3_600.0)

    assert growth(before, burst, THRESHOLD) == []


def test_the_same_shares_at_twice_the_cost_for_a_request_are_a_growth_of_all():
    source = np.random.default_rng(6)
    stacks, inside = program(source)

    before = side(source, stacks, inside, 2_000, 10_000)
    after = side(source, stacks, inside, 4_000, 10_000)

    assert 1 in [number for number, *_ in growth(before, after, THRESHOLD)]
    assert (
        growth(
            Side(before.costs, before.whole, before.samples), Side(after.costs, after.whole, after.samples), THRESHOLD
        )
        == []
    )


def test_without_functions_nothing_grew():
    nothing = Side(np.zeros((0, 3)), np.zeros(3), 0.0)

    assert growth(nothing, nothing, THRESHOLD) == []
