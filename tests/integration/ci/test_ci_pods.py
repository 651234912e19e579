"""Steps as pods of an engine: what a step gives in the sandbox it gives there, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci_world import World
from ci_world import world as a_world
from engine_under_test import EngineUnderTest, wait_for
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.definition.graph import Graph
from trimtab.ci.runs.ports import EngineFault, Job, Laid, Outcome, Stop
from trimtab.cli.ci import main
from trimtab.cli.ci.on import place
from trimtab.components.pipelines.pods.executor import Pods
from trimtab.content import ContentStore, parse_digest, parse_reference
from trimtab.secrets import sops
from trimtab.secrets.recipients import Rules, new_key

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

KINDS = "jobs,pods,secrets,networkpolicies"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    made = EngineUnderTest(tmp_path_factory.mktemp("ci-pods") / "data")
    made.start()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def world() -> Iterator[World]:
    with a_world(nobody=False) as made:
        yield made


@pytest.fixture(scope="module")
def known() -> dict[str, bool]:
    """What the module's first step has found out of the engine."""
    return {}


@pytest.fixture
def pods(world: World, engine: EngineUnderTest, known: dict[str, bool]) -> Iterator[Pods]:
    made = Pods(world.state, place(str(engine.data), Graph("ci", {})))
    made.enforces_policies = known.get("policies", False)
    yield made
    known["policies"] = made.enforces_policies
    nothing_left(engine)


def nothing_left(engine: EngineUnderTest) -> None:
    def left() -> list[str]:
        found = engine.json("get", KINDS)
        return [one["metadata"]["name"] for one in found["items"] if one["metadata"]["name"].startswith("ci-")]

    wait_for(lambda: not left(), 60, lambda: f"all of the steps to go: {left()}")


def run(pods: Pods, job: Job, stop: Stop | None = None) -> tuple[Outcome, str]:
    said: list[bytes] = []
    outcome = pods.execute(job, said.append, stop or Stop())
    return outcome, b"".join(said).decode(errors="replace")


def tree_of(world: World, tmp_path: Path, files: dict[str, str]) -> str:
    top = tmp_path / f"tree-{len(files)}-{next(iter(files)).replace('/', '-')}"
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return Blobs(str(world.state)).capture(str(top))[0]


def test_a_pod_gives_what_the_sandbox_gives(world: World, pods: Pods, tmp_path: Path) -> None:
    files = {"run.sh": "echo from run", "deep/a.txt": "a", "deep/b.txt": "b"}
    job: dict[str, Any] = {
        "inputs": [
            Laid("/w/in", tree_of(world, tmp_path, files)),
            Laid("/w/in/deep", tree_of(world, tmp_path, {"b.txt": "c"})),
        ],
        "cwd": "/w",
        "env": {"GREETING": 'it\'s $(HOME) "here"\nand there'},
        "outputs": {"out": "/w/out", "one": "/w/out/one"},
    }
    commands = (
        'sh in/run.sh; cat in/deep/a.txt in/deep/b.txt; echo "$GREETING"; echo to stderr >&2; pwd; id -u',
        "mkdir -p out/empty; echo 1 > out/one; chmod 755 out/one; ln -s one out/link; ln out/one out/hard; printf '\\0bin' > out/bin",
    )

    here, said_here = world.run(world.job(*commands, **job))
    there, said_there = run(pods, world.job(*commands, **job))

    assert here.succeeded, said_here
    assert there.succeeded, said_there
    assert said_there == said_here
    assert there.outputs == here.outputs
    assert there.kept is None
    assert there.rss_bytes > 0


@pytest.mark.long
def test_nothing_but_what_is_declared_is_in_the_environment_and_the_network(world: World, pods: Pods) -> None:
    outcome, said = run(pods, world.job("env; nc -w 1 1.1.1.1 80 </dev/null || echo closed", env={"A": "b"}))

    assert outcome.succeeded
    names = {line.partition("=")[0] for line in said.splitlines() if "=" in line}
    assert names <= {"A", "HOME", "PATH", "PWD", "SHLVL"}
    assert said.splitlines()[-1] == "closed"


@pytest.mark.long
def test_a_failed_command_ends_the_step_and_its_report_comes_back(world: World, pods: Pods) -> None:
    job = world.job("echo '<testsuite/>' > r.xml; sleep 1000 &", "exit 7", "echo never")
    job.action["runs"][0]["junit"] = "/work/r.xml"

    outcome, said = run(pods, job)

    assert (outcome.ended, outcome.exit, outcome.failed_run) == ("exit", 7, 1)
    assert outcome.reports == {"/work/r.xml": b"<testsuite/>\n"}
    assert said == "trimtab: still running when the command ended, and ended with it: sleep\n"


@pytest.mark.long
def test_another_user_owns_what_is_laid_for_it(world: World, pods: Pods, tmp_path: Path) -> None:
    laid = [Laid("/w/in", tree_of(world, tmp_path, {"a": "a"}))]
    job = world.job("id -u; id -g; echo $HOME; touch /w/in/new; echo x > /w/made", cwd="/w", user="app", inputs=laid)
    numbered = world.job("id -u; touch mine", cwd="/w", user="4321")

    assert run(pods, job)[1].split() == ["1000", "1000", "/home/app"]
    assert run(pods, numbered)[1].split() == ["4321"]
    with pytest.raises(EngineFault, match=r"the image has no user 'nobody' in /etc/passwd; name one that it has"):
        run(pods, world.job("true", user="nobody"))


def test_services_are_reached_by_name_and_get_their_secrets(world: World, pods: Pods, tmp_path: Path) -> None:
    files = [Laid("/srv", tree_of(world, tmp_path, {"answer": "forty-two"}))]
    served = world.job(
        entrypoint=["sh", "-c", "nc -ll -p 7000 -e cat /srv/answer"], ready=":7000", runs=[], inputs=files
    )
    slow = world.job(
        entrypoint=["/bin/sh", "-c", 'sleep 0.5; echo "$KEY" > /tmp/key; nc -ll -p 7001 -e cat /tmp/key'],
        ready="test -e /tmp/key",
        runs=[],
        secrets={"KEY": "s3cret $HOME"},
    )
    job = world.job(
        "nc a 7000 </dev/null; echo; nc b 7001 </dev/null; echo $OWN",
        services={"a": served, "b": slow},
        secrets={"OWN": "1 2"},
    )

    outcome, said = run(pods, job)

    assert outcome.succeeded, outcome
    assert said == "forty-two\ns3cret $HOME\n1 2\n"


@pytest.mark.long
def test_a_service_that_ends_first_fails_the_step_with_its_last_words(world: World, pods: Pods) -> None:
    broken = world.job(entrypoint=["/bin/sh", "-c", "echo no database >&2; exit 3"], ready=":7000", runs=[])

    outcome, _ = run(pods, world.job("echo never", services={"db": broken}))

    assert outcome.ended == "service"
    assert outcome.said == "service db ended with status 3 before it was ready; it said last: no database"


@pytest.mark.long
def test_a_cache_volume_goes_on_between_pods_and_sandbox(world: World, pods: Pods) -> None:
    caches = [{"path": "/c", "key": "pods"}]

    assert run(pods, world.job("echo once >> /c/log", caches=caches))[0].succeeded
    assert world.run(world.job("echo twice >> /c/log", caches=caches))[0].succeeded
    assert run(pods, world.job("cat /c/log", caches=caches))[1] == "once\ntwice\n"


@pytest.mark.long
def test_an_output_that_is_missing_and_a_hostile_name(world: World, pods: Pods) -> None:
    outcome, _ = run(pods, world.job("true", outputs={"o": "/work/none"}))
    assert (outcome.ended, outcome.said) == ("output", "the output o is not there: no command made /work/none")

    named, _ = run(
        pods, world.job(r"mkdir o; touch 'o/a b' 'o/..c' 'o/-rf'; ln -s /etc o/etc", outputs={"o": "/work/o"})
    )
    names = [name for name, *_ in Blobs(str(world.state)).entries(named.outputs["o"])]
    assert names == ["-rf", "..c", "a b", "etc"]


@pytest.mark.long
def test_too_much_memory_is_told_as_that(world: World, pods: Pods) -> None:
    outcome, _ = run(pods, world.job("exec dd if=/dev/zero of=/dev/null bs=400M count=3", memory_bytes=64 << 20))

    assert outcome.ended == "memory"
    assert outcome.said == "it took more memory than its limit, 64 MiB"


def test_a_step_that_is_to_end_ends(world: World, pods: Pods) -> None:
    stop = Stop()
    said: list[bytes] = []

    def write(data: bytes) -> None:
        said.append(data)
        stop.ask("timeout")

    outcome = pods.execute(world.job("echo on; sleep 1000"), write, stop)

    assert (outcome.ended, said) == ("timeout", [b"on\n"])


@pytest.mark.long
def test_an_image_without_programs_runs_what_is_laid_into_it(world: World, pods: Pods, tmp_path: Path) -> None:
    busybox = tmp_path / "bin" / "busybox"
    busybox.parent.mkdir()
    busybox.write_bytes(Path("/bin/busybox").read_bytes())
    busybox.chmod(0o755)
    tree, _ = Blobs(str(world.state)).capture(str(tmp_path / "bin"))
    job = world.job(cwd="/", inputs=[Laid("/b", tree)], runs=[{"argv": ["/b/busybox", "echo", "alone"]}])

    outcome, said = run(pods, Job(job.step, job.action, "", job.inputs, job.directory))

    assert (outcome.exit, said) == (0, "alone\n")


def test_a_step_with_a_cluster_is_refused(world: World, pods: Pods) -> None:
    with pytest.raises(
        EngineFault, match=r"step1: a step with a cluster of its own runs here, not as a pod; leave --on out"
    ):
        run(pods, world.job("true", cluster={"release": "1"}))


RUNNER = """
import sys
sys.path.insert(0, {support!r})
from pathlib import Path
from ci_world import World
from trimtab.ci.definition.graph import Graph
from trimtab.ci.runs.ports import Stop
from trimtab.cli.ci import main
from trimtab.cli.ci.on import place
from trimtab.components.pipelines.pods.executor import Pods
world = World(Path({state!r}), nobody=False)
def write(data):
    sys.stdout.write(data.decode())
    sys.stdout.flush()
job = world.job("echo on; sleep 1000", secrets={{"A": "b"}})
Pods(world.state, place({data!r}, Graph("ci", {{}}))).execute(job, write, Stop())
"""


@pytest.mark.long
def test_a_runner_that_is_killed_leaves_nothing(world: World, engine: EngineUnderTest) -> None:
    support = str(Path(__file__).parents[2] / "support")
    program = textwrap.dedent(RUNNER.format(support=support, state=str(world.state), data=str(engine.data)))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGKILL)
    nothing_left(engine)


SHIP = """
from trimtab.ci import image, pipeline, secret, src, step

base = image("busybox:1").workdir("/work")

@step
def build():
    return base.add(src("app/**")).run("mkdir out; cat app/* > out/all").output("out")

@step
def unit():
    return (base.add(build(), to="out").secret_env("TOKEN", secret("s.yaml#token"))
            .run('echo "token $TOKEN"; ! grep -q broken out/all'))

@pipeline
def ci():
    return unit()
"""


@pytest.fixture
def project(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    where = tmp_path / "project"
    (where / "app").mkdir(parents=True)
    (where / "ship.py").write_text(SHIP)
    (where / "app" / "a.txt").write_text("one\n")
    recipient = new_key(tmp_path / "keys")
    sops.save(where / "s.yaml", sops.encrypt("token: hunter2-and-more\n", "yaml", Rules([recipient])))
    digest = parse_digest(world.image)
    ContentStore(world.state).tag(parse_reference(f"busybox@{digest}").tagged, digest)
    (where / "trimtab.lock").write_text(f'{{"version": 1, "images": {{"busybox:1": "{digest}"}}}}')
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(world.state))
    return where


def test_a_pipeline_of_pods_shares_its_results_with_the_sandbox(
    project: Path, engine: EngineUnderTest, capsys: pytest.CaptureFixture[str]
) -> None:
    def ci(*arguments: str) -> tuple[int, str]:
        status = main([*arguments[:1], "-C", str(project), *arguments[1:]])
        streams = capsys.readouterr()
        return status, streams.out + streams.err

    status, said = ci("run", "--on", str(engine.data), "-v")
    assert status == 0, said
    assert "token ***" in said
    assert "hunter2" not in said
    status, said = ci("run")
    assert status == 0
    assert "2 steps, 2 unchanged" in said, "what pods have made the sandbox finds"

    (project / "app" / "a.txt").write_text("broken\n")
    status, said = ci("run", "--on", str(engine.data))
    assert status == 1
    gone = f"its state went with its pod in {engine.data}; `trimtab ci run unit` does the same here, and keeps it"
    assert f"  enter it:    {gone}" in said.splitlines()
    assert ci("shell", "last/unit") == (3, f"trimtab: unit: {gone}\n")
    nothing_left(engine)
