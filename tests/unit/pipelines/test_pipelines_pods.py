"""Steps as pods, as far as nobody runs them: what the API is given, what comes back, what is refused before anything happens."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.definition.evaluate import evaluate, load
from trimtab.ci.definition.graph import Graph
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.runs.ports import EngineFault, Job, Laid
from trimtab.cli.ci.on import place
from trimtab.components.pipelines.pods import objects
from trimtab.components.pipelines.pods.archive import packed, taken
from trimtab.components.pipelines.pods.conversation import Conversation
from trimtab.components.pipelines.pods.image import StepImage
from trimtab.content import oci
from trimtab.content.digest import digest_of

SHIP = """
from trimtab.ci import cluster, image, pipeline, step

@step
def e2e():
    return image("busybox:1").with_cluster(cluster()).run("true")

@pipeline
def ci():
    return e2e()
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: prod, context: {cluster: c, namespace: builds}}]
"""


def part(container: str, **fields: Any) -> objects.Part:
    action = fields.pop("action", {"runs": []})
    job = Job("unit", action, "", (), Path("/nowhere"), **fields)
    image = StepImage(digest_of(b""), oci.Platform(architecture="arm64"), oci.Runtime())
    return objects.Part(container, job, "registry.example/x@sha256:1", image)


def test_the_pod_has_the_steps_limits_and_no_rights() -> None:
    step = part("step", memory_bytes=1 << 20, cpus=0.5, secrets={"TOKEN": "t"})
    service = part("service-0", action={"ready": ":5432", "runs": []}, secrets={"PASSWORD": "p"})

    job = objects.the_job("ci-1", "builds", {"step": step, "service-0": service}, {"service-0": "db"}, 60.0)

    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["activeDeadlineSeconds"] == 960
    assert pod["automountServiceAccountToken"] is False
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
    assert pod["hostAliases"] == [{"ip": "127.0.1.1", "hostnames": ["db"]}]
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "500m", "memory": "1048576"},
        "limits": {"memory": "1048576"},
    }
    [sidecar] = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["readinessProbe"]["tcpSocket"] == {"port": 5432}
    secret = objects.the_secret("ci-1", "builds", {"uid": "1"}, {"step": step, "service-0": service})
    assert secret is not None
    assert secret["data"] == {"TRIMTAB_STEP_0": "dA==", "TRIMTAB_SERVICE_0_0": "cA=="}
    assert [one["name"] for one in sidecar["env"]] == ["TRIMTAB_SERVICE_0_0"]
    assert "dA==" not in str(job)


def test_no_variable_of_ours_is_taken_for_one_of_kubernetes() -> None:
    command = objects.the_job("ci-1", "x", {"step": part("step")}, {}, 1.0)["spec"]["template"]["spec"]["containers"][0]
    assert "$(" not in command["command"][-1].replace("$$(", "")


class Said:
    """Messages as a connection has them."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = list(messages)

    def __aiter__(self) -> Said:
        return self

    async def __anext__(self) -> Said:
        if not self._messages:
            raise StopAsyncIteration
        self.data = self._messages.pop(0)
        return self


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_what_is_printed_ends_at_the_mark_in_pieces_of_any_size(size: int) -> None:
    printed = b"one\0trimtab-no\0two\0trimtab-mark\0"
    events = b"started 0\nended 0 3 sleep\nusage 0m1.50s 1m0.50s 4096 1\ndone\n"
    pieces = [b"\1" + printed[at : at + size] for at in range(0, len(printed), size)]
    pieces += [b"\2" + events[at : at + size] for at in range(0, len(events), size)]
    said: list[bytes] = []

    talk = Conversation(Said(*pieces), said.append, "trimtab-mark")  # type: ignore[arg-type]
    await talk.listen()

    told = b"trimtab: still running when the command ended, and ended with it: sleep\n"
    assert b"".join(said) == b"one\0trimtab-no\0two" + told
    assert (talk.done, talk.failed_run, talk.exit) == (True, 0, 3)
    assert (talk.cpu_s, talk.rss_bytes, talk.ooms) == (62.0, 4096, 1)


@pytest.mark.asyncio
async def test_what_is_printed_before_the_connection_breaks_is_not_lost() -> None:
    said: list[bytes] = []
    talk = Conversation(Said(b"\1so far\0trim"), said.append, "trimtab-mark")  # type: ignore[arg-type]
    await talk.listen()
    assert (b"".join(said), talk.done, talk.over) == (b"so far\0trim", False, True)


def test_a_tree_comes_back_as_it_went(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path / "ci"))
    top = tmp_path / "top"
    (top / "a" / "empty").mkdir(parents=True)
    (top / "a" / ("n" * 200)).write_bytes(b"x" * 3_000_000)
    (top / "run").write_text("x")
    (top / "run").chmod(0o755)
    (top / "link").symlink_to("/etc/passwd")
    tree, _ = blobs.capture(str(top))
    archive = tmp_path / "tar"
    with archive.open("wb") as file:
        packed(file, blobs, [Laid("/", tree)], {})

    assert taken(archive, blobs) == tree


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[tarfile.TarFile], None]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return lambda tar: tar.addfile(info, io.BytesIO())


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry("a/../../etc/x")], r"it names 'a/\.\./\.\./etc/x'"),
        ([entry("a", tarfile.SYMTYPE, "/etc"), entry("a/x")], "'a' is a file and a directory"),
        ([entry("a", tarfile.LNKTYPE, "../../etc/shadow")], "'..' is a file|is a link to nothing"),
    ],
)
def test_an_archive_leads_nowhere_else(
    tmp_path: Path, entries: list[Callable[[tarfile.TarFile], None]], why: str
) -> None:
    with tarfile.open(tmp_path / "tar", "w") as tar:
        for add in entries:
            add(tar)
    with pytest.raises(EngineFault, match=f"what came back of the pod is not whole: .*({why})"):
        taken(tmp_path / "tar", Blobs(str(tmp_path / "ci")))


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as tar:
        info = tarfile.TarInfo("a")
        info.size = 3000
        tar.addfile(info, io.BytesIO(b"x" * 3000))
    (tmp_path / "tar").write_bytes((tmp_path / "tar").read_bytes()[:2000])
    with pytest.raises(EngineFault, match="what came back of the pod is not whole"):
        taken(tmp_path / "tar", Blobs(str(tmp_path / "ci")))


def test_a_step_with_a_cluster_is_refused_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "ship.py").write_text(SHIP)
    definition = load(tmp_path / "ship.py")
    graph = evaluate(definition, definition.pipelines["ci"], {})
    with pytest.raises(
        DefinitionError, match="e2e has a cluster, which a pod cannot be given: run it without --on prod"
    ):
        place("prod", graph, {})


def test_a_cluster_needs_a_context_and_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    nothing = Graph("ci", {})
    with pytest.raises(EngineFault, match=r"--on other: .* no context is named 'other' \(there are: prod\)"):
        place("other", nothing, {})
    with pytest.raises(
        EngineFault, match="--on prod: set TRIMTAB_CI_REGISTRY to where the cluster may pull images from"
    ):
        place("prod", nothing, {})
    found = place("prod", nothing, {"TRIMTAB_CI_REGISTRY": "registry.example/team"})
    assert (found.name, found.namespace) == ("prod", "builds")
