"""From a pipeline's files to an image at a real registry: bit for bit the same, signed, with how it came to be; and read by skopeo."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci_world import busybox_image
from registries import answering, docker_registry
from trimtab.cli.ci import main
from trimtab.content import ContentStore, Credentials, RegistryClient, parse_digest, parse_reference, signing
from trimtab.content.signing import PublicKeys, SigningKey
from trimtab.secrets import sops
from trimtab.secrets.recipients import Rules, new_key

SHIP = """
from trimtab.ci import image, pipeline, publish, secret, src, step

base = image("HOST/base/busybox:1").workdir("/w")

@step
def app():
    return base.add(src("app/**")).add(src("more/**"), to="/etc").env(A="1").user("1000").entrypoint("/bin/sh", "/w/app/run")

@pipeline
def ci(tags: str = "1 latest"):
    return publish(app(), "HOST/shop/app", tags=tags, sign=secret("s.yaml#key"))
"""


class World:
    """A project, a state, a registry."""

    def __init__(self, path: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.host = path, host
        self.key = SigningKey.new()
        self.project = path / "project"
        (self.project / "app").mkdir(parents=True)
        (self.project / "more").mkdir()
        (self.project / "ship.py").write_text(SHIP.replace("HOST", host))
        (self.project / "app/run").write_text("#!/bin/sh\necho hello\n")
        (self.project / "app/run").chmod(0o755)
        (self.project / "more/hosts.txt").write_text("one")
        recipient = new_key(path / "keys")
        sops.save(
            self.project / "s.yaml",
            sops.encrypt(
                "key: |\n" + "".join(f"  {line}\n" for line in self.key.splitlines()), "yaml", Rules([recipient])
            ),
        )
        monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(path / "keys"))
        monkeypatch.setenv("HOME", str(path))
        self.monkeypatch = monkeypatch
        self.use("state")

    def use(self, state: str) -> None:
        """Another machine."""
        self.monkeypatch.setenv("TRIMTAB_CI_DIR", str(self.path / state))

    def skopeo(self, *args: str) -> Any:
        done = subprocess.run(["skopeo", *args], capture_output=True, text=True, timeout=60, check=True)
        return json.loads(done.stdout)

    def inspect(self, tag: str) -> Any:
        return self.skopeo("inspect", "--tls-verify=false", f"docker://{self.host}/shop/app:{tag}")

    def run(self, capsys: pytest.CaptureFixture[str], *more: str, status: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["run", "-C", str(self.project), "-o", "json", *more]) == status, capsys.readouterr().err
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        return record


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with docker_registry(tmp_path / "registry") as host:
        asyncio.run(answering(host))
        asyncio.run(_push_base(tmp_path / "base", host))
        yield World(tmp_path, host, monkeypatch)


async def _push_base(path: Path, host: str) -> None:
    digest = busybox_image(path, env=["PATH=/bin"])
    async with RegistryClient(ContentStore(path), credentials=Credentials()) as client:
        await client.push(parse_digest(digest), f"{host}/base/busybox:1")


def states(record: dict[str, Any]) -> dict[str, str]:
    return {id: one["state"] for id, one in record["steps"].items()}


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="there is no skopeo on the PATH")
def test_an_image_goes_to_a_registry(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    record = world.run(capsys)

    publish = f"publish[{world.host}/shop/app]"
    assert states(record) == {"app": "succeeded", publish: "succeeded"}
    found = world.inspect("1")
    assert found["Digest"] == world.inspect("latest")["Digest"]
    config = world.skopeo("inspect", "--tls-verify=false", "--config", f"docker://{world.host}/shop/app:1")
    assert config["config"]["Entrypoint"] == ["/bin/sh", "/w/app/run"]
    assert (config["config"]["User"], config["config"]["WorkingDir"]) == ("1000:1000", "/w")
    assert {"A=1", "PATH=/bin"} <= set(config["config"]["Env"])
    layout = world.path / "layout"
    subprocess.run(
        ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{world.host}/shop/app:1", f"oci:{layout}:1"],
        check=True,
        timeout=60,
    )
    top = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"].removeprefix("sha256:")
    layer = json.loads((layout / "blobs/sha256" / top).read_text())["layers"][-1]["digest"].removeprefix("sha256:")
    listed = subprocess.run(
        ["tar", "-tvzf", str(layout / "blobs/sha256" / layer)], capture_output=True, text=True, check=True
    ).stdout
    assert "-rwxr-xr-x" in next(line for line in listed.splitlines() if line.endswith("w/app/run"))
    assert any(line.endswith("etc/more/hosts.txt") for line in listed.splitlines())


def test_the_same_files_are_the_same_image_on_another_machine(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    first = world.run(capsys)
    again = world.run(capsys)
    assert set(states(again).values()) == {"hit"}
    world.use("another state")

    second = world.run(capsys)

    assert [one["outputs"] for one in second["steps"].values()] == [one["outputs"] for one in first["steps"].values()]
    (world.project / "more/hosts.txt").write_text("two")
    third = world.run(capsys)
    assert third["steps"]["app"]["outputs"] != first["steps"]["app"]["outputs"]


async def _verified(world: World, digest: str) -> list[dict[str, Any]]:
    store = ContentStore(world.path / "reader")
    image = parse_reference(f"{world.host}/shop/app@{digest}")
    keys = PublicKeys([SigningKey(world.key).public])
    async with RegistryClient(store, credentials=Credentials()) as client:
        await signing.verify(client, store, image, keys)
        return await signing.statements(client, store, image, keys)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="there is no skopeo on the PATH")
def test_it_is_signed_and_says_how_it_came_to_be(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    record = world.run(capsys, "-p", "tags=1")

    (said,) = asyncio.run(_verified(world, world.inspect("1")["Digest"]))

    predicate = said["predicate"]
    assert predicate["runDetails"]["metadata"]["invocationId"] == record["id"]
    assert predicate["buildDefinition"]["externalParameters"]["parameters"] == {"pipeline": "ci", "tags": "1"}
    assert [one["uri"] for one in predicate["buildDefinition"]["resolvedDependencies"]] == [
        f"oci://{world.host}/base/busybox:1"
    ]
    assert "BEGIN PRIVATE KEY" not in json.dumps(record)


def test_the_digest_goes_into_git_and_makes_no_run(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(world.project), *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    ship = world.project / "ship.py"
    ship.write_text(ship.read_text().replace("tags=tags,", 'tags=tags, record="deploy.yaml",'))
    (world.project / "deploy.yaml").write_text(f"image: {world.host}/shop/app:1\n")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(world.path / "remote")], check=True)
    git("init", "-q", "-b", "main")
    git("config", "user.name", "ada")
    git("config", "user.email", "ada@example.org")
    git("remote", "add", "origin", str(world.path / "remote"))
    git("add", ".")
    git("commit", "-qm", "one")
    git("push", "-q", "origin", "main")

    world.run(capsys)

    recorded = (world.project / "deploy.yaml").read_text()
    assert re.fullmatch(rf"image: {world.host}/shop/app:1@sha256:[0-9a-f]{{64}}\n", recorded)
    tip = git("ls-remote", "origin", "main").split()[0]
    assert tip == git("rev-parse", "HEAD")
    capsys.readouterr()
    monkeypatch.setenv("GITHUB_EVENT_NAME", "push")
    assert main(["run", "-C", str(world.project)]) == 0
    assert capsys.readouterr().out == "a run has made this commit, so it makes none\n"
    monkeypatch.delenv("GITHUB_EVENT_NAME")
    world.run(capsys)
    assert git("ls-remote", "origin", "main").split()[0] == tip
    (world.project / "deploy.yaml").write_text("image: x\n")
    assert main(["run", "-C", str(world.project)]) == 3
    assert "record='deploy.yaml': it has changes that are not committed" in capsys.readouterr().err


def test_a_registry_that_is_gone_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run(capsys)
    ship = world.project / "ship.py"
    ship.write_text(ship.read_text().replace(f'"{world.host}/shop/app"', '"127.0.0.1:1/shop/app"'))

    record = world.run(capsys, status=1)

    failed = record["steps"]["publish[127.0.0.1:1/shop/app]"]
    assert "127.0.0.1:1" in failed["said"]
    assert failed["state"] == "failed"


def test_a_key_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key"]) == 0

    made = capsys.readouterr()
    assert SigningKey(made.out).public == made.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ('"HOST/shop/app"', '"HOST/shop/app:1"'),
            "publish(to='{host}/shop/app:1'): write HOST/NAME; tags go into tags=",
        ),
        (
            ('"HOST/shop/app"', '"trimtab.local/app"'),
            "takes this image by its digest, and signs it by its own key; leave tags= away",
        ),
        (
            ('.entrypoint("/bin/sh", "/w/app/run")', '.run("true")'),
            "publish() takes what a step gave that makes an image",
        ),
        (('.user("1000")', '.output("x")'), "app() runs nothing, so it makes an image, which has no output 'x'"),
    ],
)
def test_mistakes_are_told_at_their_line(
    world: World, capsys: pytest.CaptureFixture[str], change: tuple[str, str], said: str
) -> None:
    ship = world.project / "ship.py"
    ship.write_text(SHIP.replace(*change).replace("HOST", world.host))

    assert main(["run", "-C", str(world.project)]) == 2

    err = capsys.readouterr().err
    assert said.format(host=world.host) in err
    assert f"{ship}:" in err
