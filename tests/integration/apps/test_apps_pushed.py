"""`git push` to a real engine: the commit's pipeline runs, the App gets the image that it made, and every link of that is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from passable import passable_directory
from pushes import PushedProject
from trimtab.content.signing import SigningKey

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

HOST = "pushed.localhost"
SHIP = """
from trimtab.ci import image, pipeline, publish, src, step
from trimtab.ship import App, Image, Process

app = App(
    "pushed",
    image=Image(packages=["busybox"], files=["www"], python=False),
    processes={"web": Process("busybox httpd -f -p 8000 -h /app/www", port=8000, health="/index.html")},
    domains=["pushed.localhost"],
)
base = image(debian=["busybox"])

@step
def unit():
    return base.workdir("/w").add(src("www/**")).run("grep -q edition www/index.html")

@step
def released():
    return base.workdir("/app").user("1000").add(src("www/**"))

@pipeline
def ci():
    return unit().then(publish(released(), "trimtab.local/pushed"))
"""


@pytest.fixture(scope="module")
def project(running: EngineUnderTest) -> Iterator[PushedProject]:
    """The App runs, and a Pipeline waits for pushes."""
    with passable_directory() as top:
        yield shipped(running, top / "pushed")


def shipped(running: EngineUnderTest, directory: Path) -> PushedProject:
    (directory / "www").mkdir(parents=True)
    (directory / "ship.py").write_text(SHIP)
    write(directory, "first edition")
    running.run("up", str(directory), timeout_s=400)
    made = PushedProject(running, directory, "pushed")
    made.remote("--app", "pushed")
    return made


def write(directory: Path, text: str) -> None:
    (directory / "www" / "index.html").write_text(f"{text}\n")


def served(running: EngineUnderTest, text: str) -> None:
    def answer() -> bool:
        found = running.serves(HOST)
        return found is not None and text in found.text

    wait_for(answer, 120, f"{text!r} at https://{HOST}")


def told(chains: list[dict[str, Any]]) -> list[list[str]]:
    """Every way from a change back to where it began, as the objects that it leads by."""
    return [[f"{one['verb']} {one['object']}", *rest] for one in chains for rest in (told(one["reasons"]) or [[]])]


def test_a_push_is_served_and_why_leads_back_to_it(running: EngineUnderTest, project: PushedProject) -> None:
    write(project.directory, "second edition")
    run = project.push("The second edition")

    status = project.green(run)
    served(running, "second edition")

    [image] = status["images"]
    assert image["reference"].startswith("trimtab.local/pushed@sha256:")
    assert running.json("get", "app", "pushed")["spec"]["image"] == image["reference"]
    [change] = [one for one in running.json("why", "app/pushed")["changes"] if one["verb"] == "changed"]
    assert change["message"] == f"spec.image, {image['reference']} of {run}, commit {project.commit[:12]}"
    pushed = [f"status PipelineRun default/{run}", f"created PipelineRun default/{run}"]
    assert ["changed App default/pushed", *pushed] in told([change])
    rolled_out = told(running.json("why", "deployment/pushed-web")["changes"])
    back = ["changed Deployment default/pushed-web", "changed App default/pushed", *pushed]
    assert any(way[-len(back) :] == back for way in rolled_out), rolled_out
    said = running.run("why", "deployment/pushed-web").stdout
    assert f"push of main {project.commit[:12]} by system:admin: The second edition" in said
    assert image["reference"] in said


POLICY = """
apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: only-ours}
spec:
  images: [{glob: "trimtab.local/**"}]
  authorities: [{key: {data: %s}}]
"""


def require_signatures(running: EngineUnderTest, public_key: str) -> None:
    running.run("apply", "-f", "-", input=POLICY % json.dumps(public_key))


def test_what_the_engine_makes_is_signed_and_can_be_required_to_be(
    running: EngineUnderTest, project: PushedProject
) -> None:
    own = (running.data / "pki" / "images.pub").read_text()
    try:
        require_signatures(running, own)
        write(project.directory, "third edition")
        project.green(project.push("The third edition"))
        served(running, "third edition")
        running.run("up", str(project.directory), timeout_s=400)  # and what `up` makes

        require_signatures(running, SigningKey(SigningKey.new()).public)
        write(project.directory, "fourth edition")
        project.green(project.push("The fourth edition"))
        entry = running.wait_timeline("policy only-ours", timeout_s=120)
        assert "the engine made it, and none of the keys is its own (DATA/pki/images.pub)" in entry["message"]
        assert "third edition" in running.wait_serving(HOST).text, "what was good serves on"

        require_signatures(running, own)
        served(running, "fourth edition")
    finally:
        running.run("delete", "clusterimagepolicy", "only-ours")


@pytest.mark.long
def test_pushes_go_on_where_a_backup_was_restored(tmp_path: Path) -> None:
    place, key = str(tmp_path / "backups"), tmp_path / "key"
    with passable_directory() as top:
        with engine(top / "data") as first:
            project = shipped(first, top / "pushed")
            project.remote("--app", "pushed")
            write(project.directory, "second edition")
            run = project.push("The second edition")
            before = project.green(run)
            log, record = project.of_run(run, "log"), project.of_run(run, "record")
            first.run("backup", place)
            key.write_text((first.data / "backup" / "identity.txt").read_text())

        second = EngineUnderTest(top / "new", first.api_port, first.http_port, first.https_port, first.web_port)
        try:
            second.run("restore", place, "--key", str(key))
            second.start()
            project.running = second

            served(second, "second edition")
            assert second.json("get", "pipelinerun", run)["status"] == before
            assert (project.of_run(run, "log"), project.of_run(run, "record")) == (log, record)
            assert f"created PipelineRun default/{run}" in str(told(second.json("why", "app/pushed")["changes"]))
            assert project.git("ls-remote", "trimtab", "main").split()[0] == project.commit

            write(project.directory, "third edition")
            project.green(project.push("The third edition"))
            served(second, "third edition")
        finally:
            second.remove()
