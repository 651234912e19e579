"""How even shards are, and how soon a flake is found: generated suites and runs, the ledger and the split as they are.

    python benchmarks/ci_tests.py [--suites N] [--worlds N]

balance  200 suites: a first run by names alone, a second by the times that the first has measured (each run's times differ from the
         last one's by up to 10 %): the busiest shard over the mean. Suites of which one test takes longer than a shard's part are
         told apart: nobody can split those evenly.
flakes   20 tests that fail one time in ten among 200 steady ones and 20 that somebody breaks for some days; one retry; 20 runs:
         how many of the 20 are found, and how many of the 220 others are called flaky
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping

from trimtab.ci.results.junit import Outcome, TestResult
from trimtab.ci.results.ledger import Ledger
from trimtab.ci.results.split import loads

BALANCE, RECALL = 1.10, 0.95
RUNS = 20
RATE = 0.1
NOISE = 0.1
BURN_IN = (0, 10, 20)


def suite(chance: random.Random) -> dict[str, float]:
    """Seconds by test: files of one to forty tests, most of them short, some very long."""
    times: dict[str, float] = {}
    for file in range(chance.randint(8, 60)):
        slow = chance.lognormvariate(0, 0.5)
        for test in range(chance.randint(1, 40)):
            times[f"tests/test_{file}.py::test_{test}"] = min(chance.lognormvariate(-1.5, 1.2) * slow, 30.0)
    return times


def now(times: Mapping[str, float], chance: random.Random) -> dict[str, float]:
    return {test: took * chance.uniform(1 - NOISE, 1 + NOISE) for test, took in times.items()}


def balance(suites: int) -> None:
    print(f"busiest shard over the mean, {suites} generated suites")
    print(f"{'shards':>6} {'run':<24} {'median':>7} {'p95':>7} {'worst':>7} {'<= ' + format(BALANCE, '.2f'):>9}")
    for count in (2, 4, 8):
        by_name, by_time = [], []
        for seed in range(suites):
            chance = random.Random(seed)
            times = suite(chance)
            with tempfile.TemporaryDirectory() as directory:
                ledger = Ledger(directory)
                for number, ratios in enumerate((by_name, by_time)):
                    took = now(times, chance)
                    busy = loads(list(took), ledger.split("p", "unit", count), took, count)
                    if max(times.values()) <= sum(times.values()) / count:
                        ratios.append(max(busy) * count / sum(busy))
                    results = [TestResult(id, "passed", s, "", "", ()) for id, s in took.items()]
                    ledger.record("p", "unit", f"r{number}", "c", results, at=number)
                    ledger.settle("p", "unit", count)
                ledger.close()
        for what, ratios in (("first, by names alone", by_name), ("second, by times", by_time)):
            ratios.sort()
            within = sum(ratio <= BALANCE for ratio in ratios)
            p95 = ratios[int(len(ratios) * 0.95)]
            print(
                f"{count:>6} {what:<24} {statistics.median(ratios):>7.3f} {p95:>7.3f} {ratios[-1]:>7.3f}"
                f" {within:>4}/{len(ratios)}"
            )


def tries(chance: random.Random, passes: int, retries: int = 1) -> tuple[Outcome, ...]:
    """What the plugin of pytest does with a flaky test: until it has passed so often, or failed once more than is retried."""
    seen: list[Outcome] = []
    while seen.count("failed") <= retries and seen.count("passed") < passes:
        seen.append("failed" if chance.random() < RATE else "passed")
    return tuple(seen)


def flakes(worlds: int) -> None:
    print(f"tests that fail in one of ten runs: found within {RUNS} runs, one retry, {worlds} worlds of 20")
    for burn_in in BURN_IN:
        found = alarms = 0
        for seed in range(worlds):
            chance = random.Random(seed)
            broken = {i: chance.randrange(RUNS) for i in range(20)}
            with tempfile.TemporaryDirectory() as directory:
                ledger = Ledger(directory)
                for run in range(RUNS):
                    results = [TestResult(f"steady {i}", "passed", 1.0, "", "", ()) for i in range(200)]
                    for i, since in broken.items():
                        outcome: Outcome = "failed" if since <= run < since + 4 else "passed"
                        again: tuple[Outcome, ...] = (outcome, outcome) if outcome == "failed" else ()
                        results.append(TestResult(f"broken {i}", outcome, 1.0, "", "", again))
                    for i in range(20):
                        seen = tries(chance, 1 + burn_in if run == 0 else 1)
                        results.append(TestResult(f"flaky {i}", seen[-1], 1.0, "", "", seen if len(seen) > 1 else ()))
                    ledger.record("p", "unit", f"r{run}", f"content {run}", results, at=run)
                called = [one.test for one in ledger.flakes("p")]
                ledger.close()
            found += sum(name.startswith("flaky") for name in called)
            alarms += sum(not name.startswith("flaky") for name in called)
        recall, expected = found / (20 * worlds), 1 - (1 - RATE) ** (RUNS + burn_in)
        print(
            f"  burn_in={burn_in:<3} found {found}/{20 * worlds} = {recall:.1%} (1 - 0.9^{RUNS + burn_in} = {expected:.1%}),"
            f" called flaky and are not: {alarms}/{220 * worlds}{'' if recall < RECALL else f'; goal {RECALL:.0%} reached'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="How even shards are, and how soon a flake is found.")
    parser.add_argument("--suites", type=int, default=200)
    parser.add_argument("--worlds", type=int, default=50)
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}\n")
    balance(options.suites)
    print()
    flakes(options.worlds)


if __name__ == "__main__":
    main()
