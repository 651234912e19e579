"""What exists is written as a manifest and taken over; another version of a provider is tried on every object before it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from engine_under_test import wait_for
from infrastructure_engine import READS, CloudEngine, cloud_engine, provider_program, server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with cloud_engine() as made:
        yield made


def _upgrade(world: CloudEngine, version: str, *faults: str, more: tuple[str, ...] = ()) -> Any:
    reads = [part for path in READS for part in ("--read", path)]
    path = ["--path", str(provider_program(world.folder, *faults)), *reads] if faults else []
    return world.engine.run("provider", "upgrade", f"cloud@{version}", *path, *more, check=False)


def _version(world: CloudEngine) -> str:
    [one] = json.loads(world.engine.run("provider", "list", "-o", "json").stdout)
    return str(one["version"])


def test_what_exists_is_written_as_a_manifest_and_taken_over(world: CloudEngine) -> None:
    _, made = world.cloud.serve(
        "POST",
        "/servers",
        "Bearer secret",
        {"name": "Old One", "region": "eu", "tags": {"a": "b"}, "disk": [{"label": "root", "size": 20}]},
    )
    listed = world.engine.run("provider", "import", "cloud", "cloud_server")
    assert listed.stdout == f"{made['id']}  Old One\n"

    said = world.engine.run("provider", "import", "cloud", "cloud_server", made["id"])
    assert said.stderr == ""
    manifest = yaml.safe_load(said.stdout)
    assert manifest == {
        "apiVersion": "cloud.tf.trimtab.dev/v1",
        "kind": "Server",
        "metadata": {"name": "old-one", "namespace": "default"},
        "spec": {
            "forProvider": {
                "name": "Old One",
                "region": "eu",
                "size": "small",
                "tags": {"a": "b"},
                "disk": [{"label": "root", "size": 20}],
            },
            "policy": {"adopt": f"id:{made['id']}"},
        },
    }
    planned = world.engine.run("plan", "-f", "-", input=said.stdout, check=False)
    assert (planned.returncode, planned.stdout) == (0, "No changes; 1 is as it should be.\n")

    done = world.engine.run("provider", "import", "cloud", "cloud_server", made["id"], "--name", "mine", "-o", "apply")
    assert done.stdout == f"Server default/mine takes over cloud_server {made['id']}\n"
    world.until("Server", "mine")
    assert [one["id"] for one in world.cloud.all("servers")] == [made["id"]]
    world.engine.run("delete", "Server", "mine", "-n", "default")
    wait_for(lambda: not world.cloud.all("servers"), 60, "it is deleted")


def test_what_cannot_be_imported_is_said(world: CloudEngine) -> None:
    def refused(*arguments: str) -> str:
        said = world.engine.run("provider", "import", "cloud", *arguments, check=False)
        assert said.returncode == 1
        return str(said.stderr).removeprefix("trimtab: ").strip()

    assert refused("cloud_server", "999") == "cloud_server 999: There is no cloud_server 999"
    assert refused("cloud_cluster") == (
        "cloud does not list cloud_cluster: give the ID of one, as the provider's documentation says"
    )
    assert (
        refused("cloud_moon", "1") == "cloud has no resource cloud_moon: trimtab provider kinds cloud lists what it has"
    )
    assert refused("cloud_server", "1", "--config", "other") == "there is no ProviderConfig other in namespace default"
    assert refused("cloud_bucket", "1", "-o", "apply") == (
        "cloud_bucket is not enabled: trimtab provider enable cloud cloud_bucket"
    )


def test_another_version_is_tried_on_every_object_before_it_runs(world: CloudEngine) -> None:
    world.apply(server("web"))
    world.until("Server", "web")

    again = world.install("restless", version="2.0.0", check=False)
    assert again.returncode == 1
    assert "cloud 1.0.0 is installed and keeps objects: trimtab provider upgrade" in again.stderr

    held = _upgrade(world, "2.0.0", "restless")
    assert held.returncode == 2, held.stderr
    assert '    ~ size: "small" -> (known after apply)  # provider' in held.stdout
    assert held.stdout.endswith("nothing was switched: 1.0.0 runs. With --accept 2.0.0 does, and does what is shown\n")
    assert _version(world) == "1.0.0"

    changed = _upgrade(world, "2.1.0", "next")
    assert changed.returncode == 2
    assert changed.stdout.startswith(
        "cloud_server:\n  ! protected: is gone\n    zone: is new\n    its state is of version 2, and was of 1\n"
        "No changes; 1 is as it should be.\n"
    )
    done = json.loads(_upgrade(world, "2.1.0", "next", more=("--accept", "-o", "json")).stdout)
    assert (done["from"], done["to"], done["switched"]) == ("1.0.0", "2.1.0", True)
    assert _version(world) == "2.1.0"
    world.apply(server("web", zone="a"))
    wait_for(lambda: world.cloud.all("servers")[0].get("zone") == "a", 60, "the new field is set by the new program")

    world.apply(server("web"))
    wait_for(lambda: not world.cloud.all("servers")[0].get("zone"), 60, "it is taken away again")
    world.until("Server", "web")

    # States that the new one has written the old one cannot read: it says so, and does not run.
    back = _upgrade(world, "1.0.0")
    assert back.returncode == 1
    assert "what is kept of it is of version 2 of cloud_server, and the provider that runs knows 1" in back.stdout
    assert _version(world) == "2.1.0"
    world.engine.run("delete", "Server", "web", "-n", "default")
    wait_for(lambda: not world.cloud.all("servers"), 60, "it is deleted")
    back = _upgrade(world, "1.0.0", more=("--accept",))
    assert back.returncode == 0, back.stdout + back.stderr
    assert back.stdout.endswith("cloud: 1.0.0 runs now, and 2.1.0 stays here\n")
    assert _upgrade(world, "1.0.0").stdout == "cloud 1.0.0 runs already\n"
