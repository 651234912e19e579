"""kill -9 at every step of `trimtab provider install, enable, disable, upgrade, import, remove`: what is half done is never used, hurts nobody,
and is whole, or gone, after the same command or its opposite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import wait_for
from infrastructure_engine import READS, CloudEngine, cloud_engine, provider_program, server
from mortal_command import Commands, Done, commands

pytestmark = pytest.mark.engine

MANNERS = ("before", "after", "under way")
STEPS_MAX = 40
KILLED = -9
READING = [part for path in READS for part in ("--read", path)]


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with cloud_engine(enabled=("cloud_server",)) as made:
        yield made


@pytest.fixture(scope="module")
def mortal(world: CloudEngine) -> Iterator[Commands]:
    settings = json.loads((world.engine.data / "engine.json").read_text())
    with commands(world.engine.data, Path(settings["run"])) as made:
        yield made


def every_step(do: Callable[[int, str], Done], then: Callable[[int], None]) -> list[str]:
    """Killed at the first step, at the second ..., each time healed by `then`; the steps of the one that came to its end."""
    for n in range(1, STEPS_MAX):
        done = do(n, MANNERS[n % 3])
        assert done.status in (0, KILLED), done
        then(n)
        if done.status == 0:
            assert n > len(done.steps)
            return done.steps
    raise AssertionError(f"no end after {STEPS_MAX} steps: {done.steps}")


def providers(mortal: Commands) -> dict[str, Any]:
    """By name."""
    rows = json.loads(mortal.run("provider", "list", "-o", "json").said)
    return {one["name"]: one for one in rows}


def whole(world: CloudEngine, mortal: Commands) -> dict[str, Any]:
    """The Providers, by name: each of one whole program, of which there are no others that can be used."""
    shelf = world.engine.data / "providers"
    for folder in shelf.iterdir():
        if not folder.name.startswith("."):
            assert hashlib.sha256((folder / "terraform-provider").read_bytes()).hexdigest() == folder.name
            assert (folder / "terraform-provider").stat().st_mode & 0o777 == 0o755
    found = providers(mortal)
    for one in found.values():
        assert (shelf / one["checksum"].removeprefix("sha256:") / "schema.msgpack").exists()
    return found


def served(mortal: Commands) -> set[str]:
    """Kinds of the provider that the API serves."""
    found = mortal.run("get", "crd", "-o", "json").said
    return {one["spec"]["names"]["kind"] for one in json.loads(found)["items"] if "cloud.tf" in one["spec"]["group"]}


def test_install_and_remove(world: CloudEngine, mortal: Commands) -> None:
    program = provider_program(world.folder, "keys")  # another one than the engine's
    arguments = ("provider", "install", "trimtab/other@1.0.0", "--path", str(program), *READING)
    shelf = world.engine.data / "providers"

    def installed(n: int) -> None:
        whole(world, mortal)
        done = mortal.run(*arguments)
        assert done.status == 0, done
        assert whole(world, mortal)["other"]["version"] == "1.0.0"
        assert [one.name for one in shelf.iterdir() if one.name.startswith(".")] == []
        assert not list((mortal._run / "installing").iterdir())
        removed = mortal.run("provider", "remove", "other")
        assert removed.status == 0, removed

    steps = every_step(lambda n, manner: mortal.run(*arguments, at=n, manner=manner), installed)
    assert {"os.mkdir", "open", "os.chmod", "os.rename", "subprocess.Popen", "PATCH providers"} <= set(steps), steps

    def removed(n: int) -> None:
        there = "other" in providers(mortal)  # whatever of its program is
        done = mortal.run("provider", "remove", "other")
        assert done.status == (0 if there else 1), done
        assert "other" not in whole(world, mortal)
        assert len([*shelf.iterdir()]) == 1
        assert mortal.run(*arguments).status == 0

    assert mortal.run(*arguments).status == 0
    steps = every_step(lambda n, manner: mortal.run("provider", "remove", "other", at=n, manner=manner), removed)
    assert {"DELETE clusterroles", "os.rmdir", "DELETE providers"} <= set(steps), steps

    # The engine's own program under another name stays when that is removed.
    same = ("provider", "install", "trimtab/other@1.0.0", "--path", str(provider_program(world.folder)), *READING)
    mortal.run("provider", "remove", "other")
    assert mortal.run(*same).status == 0
    assert mortal.run("provider", "remove", "other").status == 0
    assert set(whole(world, mortal)) == {"cloud"}


def test_enable_and_disable(world: CloudEngine, mortal: Commands) -> None:
    enable = ("provider", "enable", "cloud", "cloud_network", "cloud_bucket")
    disable = ("provider", "disable", "cloud", "cloud_network", "cloud_bucket")
    both = {"Network", "Bucket"}

    def enabled(n: int) -> None:
        if n % 2:  # the way on
            assert mortal.run(*enable).status == 0
            assert {"cloud_network", "cloud_bucket"} <= set(whole(world, mortal)["cloud"]["kinds"])
            assert served(mortal) >= both
        for one in ("cloud_network", "cloud_bucket"):  # the way back
            mortal.run("provider", "disable", "cloud", one)
        assert whole(world, mortal)["cloud"]["kinds"] == ["cloud_server"]
        wait_for(lambda: served(mortal) == {"Server"}, 60, "the kinds are gone")

    steps = every_step(lambda n, manner: mortal.run(*enable, at=n, manner=manner), enabled)
    assert {"PATCH clusterroles", "PATCH customresourcedefinitions", "PATCH providers"} <= set(steps), steps

    def disabled(n: int) -> None:
        for one in ("cloud_network", "cloud_bucket"):
            done = mortal.run("provider", "disable", "cloud", one)
            assert done.status == 0 or "is not enabled" in done.said
        assert whole(world, mortal)["cloud"]["kinds"] == ["cloud_server"]
        wait_for(lambda: served(mortal) == {"Server"}, 60, "the kinds are gone")
        assert mortal.run(*enable).status == 0

    assert mortal.run(*enable).status == 0
    steps = every_step(lambda n, manner: mortal.run(*disable, at=n, manner=manner), disabled)
    assert steps == ["PATCH providers", *["DELETE customresourcedefinitions"] * 2]
    mortal.run(*disable)


def test_upgrade_and_import(world: CloudEngine, mortal: Commands) -> None:
    world.apply(server("web", protected=True))
    world.until("Server", "web")
    (before,) = world.cloud.all("servers")
    posted = len([one for one in world.cloud.log if one[1] in ("POST", "PUT", "DELETE")])
    programs = {"2.0.0": provider_program(world.folder, "pins"), "1.0.0": provider_program(world.folder)}

    def fields() -> set[str]:
        found = json.loads(mortal.run("get", "crd", "servers.cloud.tf.trimtab.dev", "-o", "json").said)
        spec = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        return set(spec["properties"]["forProvider"]["properties"])

    def upgrade(version: str, at: int = 0, manner: str = "before") -> Done:
        path = ("--path", str(programs[version]), *READING)
        return mortal.run("provider", "upgrade", f"cloud@{version}", *path, "--accept", at=at, manner=manner)

    def upgraded(n: int) -> None:
        assert whole(world, mortal)["cloud"]["version"] in programs
        for version in ("2.0.0", "1.0.0") if n % 2 else ("1.0.0",):  # the way on, and the way back
            done = upgrade(version)
            assert done.status == 0, done
            assert whole(world, mortal)["cloud"]["version"] == version
            assert ("pinSecretRef" in fields()) == (version == "2.0.0")

    steps = every_step(lambda n, manner: upgrade("2.0.0", n, manner), upgraded)
    assert steps.count("PATCH providers") == 2
    assert {"POST default", "PATCH customresourcedefinitions"} <= set(steps), steps
    assert steps.index("PATCH customresourcedefinitions") > steps.index("POST default")
    assert posted == len([one for one in world.cloud.log if one[1] in ("POST", "PUT", "DELETE")])
    assert world.cloud.all("servers") == [before]

    there: list[str] = []

    def imported(n: int) -> None:
        done = mortal.run("provider", "import", "cloud", "cloud_server", there[-1], "-o", "apply")
        assert done.status == 0, done
        world.until("Server", f"found-{len(there)}")
        assert sorted(one["id"] for one in world.cloud.all("servers")) == sorted([before["id"], *there])

    def take(n: int, manner: str) -> Done:
        given = {"name": f"found-{n}", "region": "eu"}
        there.append(world.cloud.serve("POST", "/servers", "Bearer secret", given)[1]["id"])
        return mortal.run("provider", "import", "cloud", "cloud_server", there[-1], "-o", "apply", at=n, manner=manner)

    steps = every_step(take, imported)
    assert steps == ["POST default", "PATCH servers"]
