"""Steps of a pipeline as pods of a Kubernetes that somebody else made: with its kubelet, its garbage collector, its registry."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci_world import World
from ci_world import world as a_world
from cluster_process import ClusterProcess
from engine_under_test import wait_for
from trimtab.ci.runs.ports import EngineFault, Job, Outcome

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1800)]

KINDS = "jobs,pods,secrets,networkpolicies"


@pytest.fixture
def world() -> Iterator[World]:
    with a_world(nobody=False) as made:
        yield made


@dataclass
class Runner:
    """Runs steps as pods in a process of its own, which trusts the cluster's registry from its beginning."""

    cluster: ClusterProcess
    world: World

    def environment(self) -> dict[str, str]:
        more = {"KUBECONFIG": str(self.cluster.kubeconfig()), "TRIMTAB_CI_REGISTRY": f"{self.cluster.registry}/team"}
        return {**self.cluster.environment(), **more, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}

    def begin(self, job: Job) -> subprocess.Popen[bytes]:
        """What the step prints is its output; how it ended comes last, pickled, after a NUL."""
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        pickle.dump((self.world.state, job), process.stdin)
        process.stdin.close()
        return process

    def run(self, job: Job) -> tuple[Outcome, str]:
        with self.begin(job) as process:
            assert process.stdout is not None
            said, _, ended = process.stdout.read().partition(b"\0")
        outcome = pickle.loads(ended)
        if isinstance(outcome, EngineFault):
            raise outcome
        return outcome, said.decode(errors="replace")


PROGRAM = """
import pickle, sys
from trimtab.ci.definition.graph import Graph
from trimtab.ci.runs.ports import EngineFault, Stop
from trimtab.cli.ci.on import place
from trimtab.components.pipelines.pods.executor import Pods
state, job = pickle.load(sys.stdin.buffer)
def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
try:
    ended = Pods(state, place("real", Graph("ci", {}))).execute(job, write, Stop())
except EngineFault as err:
    ended = err
write(b"\\0" + pickle.dumps(ended))
"""


@pytest.fixture
def pods(cluster: ClusterProcess, world: World) -> Iterator[Runner]:
    yield Runner(cluster, world)
    nothing_left(cluster)


def nothing_left(cluster: ClusterProcess) -> None:
    def left() -> list[str]:
        names = (one["metadata"]["name"] for one in cluster.get(KINDS)["items"])
        return [name for name in names if name.startswith("ci-")]

    wait_for(lambda: not left(), 120, lambda: f"all of the steps to go: {left()}")


def test_a_step_with_a_service_and_secrets_leaves_what_it_does_in_the_sandbox(world: World, pods: Runner) -> None:
    echo = ["/bin/sh", "-c", 'echo "$KEY" > /tmp/key; nc -ll -p 7001 -e cat /tmp/key']
    commands = (
        "id -u; nc db 7001 </dev/null; echo $OWN",
        "mkdir -p o/d; echo x > o/d/x; ln -s d/x o/l; echo '<t/>' > r.xml",
    )

    def job() -> Job:
        service = world.job(entrypoint=echo, ready=":7001", runs=[], secrets={"KEY": "k $HOME"}, net="allow")
        made = world.job(
            *commands,
            net="allow",
            user="app",
            outputs={"o": "/work/o"},
            services={"db": service},
            secrets={"OWN": "own"},
        )
        made.action["runs"][1]["junit"] = "/work/r.xml"
        return made

    here, said_here = world.run(job())
    there, said_there = pods.run(job())

    assert here.succeeded, said_here
    assert there.succeeded, (there, said_there)
    assert said_there == said_here == "1000\nk $HOME\nown\n"
    assert (there.outputs, there.reports) == (here.outputs, here.reports)


def test_how_a_step_ends_is_told(world: World, pods: Runner) -> None:
    failed, _ = pods.run(world.job("true", "exit 7", net="allow"))
    assert (failed.ended, failed.exit, failed.failed_run) == ("exit", 7, 1)

    greedy, _ = pods.run(
        world.job("exec dd if=/dev/zero of=/dev/null bs=400M count=3", net="allow", memory_bytes=64 << 20)
    )
    assert (greedy.ended, greedy.said) == ("memory", "it took more memory than its limit, 64 MiB")

    dead = world.job(entrypoint=["/bin/sh", "-c", "echo no database >&2; exit 3"], ready=":7000", runs=[], net="allow")
    waiting, _ = pods.run(world.job("echo never", net="allow", services={"db": dead}))
    assert waiting.said == "service db ended with status 3 before it was ready; it said last: no database"


def test_a_cluster_that_enforces_no_policy_is_refused(world: World, pods: Runner) -> None:
    with pytest.raises(
        EngineFault, match=r"step1: the cluster real enforces no NetworkPolicy, so the step would have a network"
    ):
        pods.run(world.job("true"))


def test_a_runner_that_is_killed_leaves_nothing(world: World, pods: Runner, cluster: ClusterProcess) -> None:
    with pods.begin(world.job("echo on; sleep 1000", secrets={"A": "b"}, net="allow")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGKILL)
    nothing_left(cluster)
