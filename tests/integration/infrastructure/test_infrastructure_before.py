"""What is said on a whole engine before anything is done: writes refused in the provider's words, dry runs, `trimtab plan`; what exists
written as a manifest, and another version of a provider tried on every object."""

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


def test_what_the_provider_does_not_take_is_refused_in_its_words(world: CloudEngine) -> None:
    said = world.apply(server("moon", region="moon"), check=False)
    assert said.returncode == 1
    assert (
        'Server.cloud.tf.trimtab.dev "moon" is invalid: spec.forProvider.region: There is no region moon: Regions are eu and us.'
        in said.stderr
    )
    assert world.get("Server", "moon") is None


def test_a_dry_run_says_what_would_be_done_and_does_nothing(world: CloudEngine) -> None:
    before = list(world.cloud.log)
    text = json.dumps(server("dry", size="large"))
    said = world.engine.run("apply", "--dry-run", "-f", "-", input=text)
    assert "warning: plan:   + Server default/dry: create" in said.stderr
    assert 'warning: plan:     + size: "large"' in said.stderr
    assert "warning: plan:     + address: (known after apply)" in said.stderr
    assert world.get("Server", "dry") is None
    assert world.cloud.log == before


def test_what_must_not_be_deleted_is_kept_when_it_is_asked(world: CloudEngine) -> None:
    world.apply(server("kept", spec={"policy": {"delete": "deny"}}))
    world.until("Server", "kept")
    said = world.engine.run("delete", "Server", "kept", "-n", "default", check=False)
    assert said.returncode == 1
    assert (
        'servers.cloud.tf.trimtab.dev "kept" is forbidden: spec.policy.delete is deny, which keeps the resource and this object: '
        "set it to delete or to orphan first" in said.stderr
    )
    found = world.get("Server", "kept")
    assert found is not None
    assert "deletionTimestamp" not in found["metadata"]
    world.apply(server("kept"))
    world.engine.run("delete", "Server", "kept", "-n", "default")
    wait_for(lambda: not [one for one in world.cloud.all("servers") if one["name"] == "kept"], 60, "it is deleted")


def test_what_cannot_be_asked_is_let_in_with_a_warning(world: CloudEngine) -> None:
    said = world.apply(server("early", spec={"providerRef": {"name": "later"}}))
    assert (
        "warning: the provider was not asked whether it takes this: there is no ProviderConfig later in namespace default"
        in said.stderr
    )
    assert world.get("Server", "early") is not None
    world.engine.run("delete", "Server", "early", "-n", "default")


def network(name: str, **fields: Any) -> dict[str, Any]:
    return server(name) | {"kind": "Network", "spec": {"forProvider": {"name": name} | fields, "interval": "1s"}}


def _plan(world: CloudEngine, *objects: dict[str, Any], more: tuple[str, ...] = ()) -> tuple[int, str]:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    said = world.engine.run("plan", "-f", "-", *more, input=text, check=False)
    return said.returncode, said.stdout + said.stderr


def test_a_whole_directory_is_planned_before_it_is_applied(world: CloudEngine) -> None:
    reference = {"field": "network", "source": {"kind": "Network", "name": "main", "field": "id"}}
    web = server("web", spec={"references": [reference]}, passwordSecretRef={"name": "root", "key": "password"})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "root"}, "stringData": {"password": "hush"}}
    objects = [web, network("main"), secret]
    status, text = _plan(world, *objects)
    assert status == 2
    assert "hush" not in text
    assert text.index("+ Secret default/root: create") < text.index("+ Network default/main: create")
    assert text.index("+ Network default/main: create") < text.index("+ Server default/web: create")
    assert "    + network: (known after apply)\n    + passwordSecretRef: (sensitive)\n" in text
    assert text.endswith("Plan: 3 to create.\n")
    assert world.get("Network", "main") is None

    world.apply(*objects)
    world.until("Server", "web")
    assert _plan(world, *objects) == (0, "No changes; 3 are as they should be.\n")

    world.cloud.change("servers", world.cloud.all("servers")[0]["id"], size="huge")
    web["spec"]["policy"] = {"replace": "approve"}
    web["spec"]["forProvider"] |= {"size": "large", "region": "us"}
    web["spec"]["pause"] = False
    status, text = _plan(world, web)
    assert status == 2
    assert "-/+ Server default/web: replace\n" in text
    assert '    ~ region: "eu" -> "us"  # forces replacement, spec\n' in text
    last = text.rstrip().splitlines()[-3]
    assert "kubectl annotate --overwrite servers.cloud.tf.trimtab.dev web -n default trimtab.dev/approve=" in last

    # The digest that the plan names is the one that approves it.
    world.apply(web)
    web["metadata"]["annotations"] = {"trimtab.dev/approve": last.rpartition("=")[2]}
    world.apply(web)
    wait_for(lambda: [one["region"] for one in world.cloud.all("servers")] == ["us"], 60, "it is replaced")
    world.engine.run("delete", "Server", "web", "-n", "default")
    world.engine.run("delete", "Network", "main", "-n", "default")


def test_what_cannot_be_planned_fails_and_says_why(world: CloudEngine) -> None:
    status, text = _plan(
        world, server("moon", region="moon"), {"apiVersion": "x.dev/v1", "kind": "Y", "metadata": {"name": "y"}}
    )
    assert status == 1
    assert "! Y y: cannot be planned\n      the server has no kind Y in x.dev/v1: is its CRD installed?" in text
    assert "spec.forProvider.region: There is no region moon: Regions are eu and us." in text
    assert text.endswith("No changes; 2 cannot be planned.\n")
    status, text = _plan(world, server("lost", spec={"providerRef": {"name": "nowhere"}}))
    assert (status, "there is no ProviderConfig nowhere in namespace default" in text) == (1, True)
    config = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ProviderConfig", "metadata": {"name": "nowhere"}}
    status, text = _plan(
        world, config | {"spec": {"provider": "cloud"}}, server("lost", spec={"providerRef": {"name": "nowhere"}})
    )
    assert status == 2
    assert "ProviderConfig nowhere is made together with it: its provider can be asked then" in text


def test_without_files_the_next_reconcile_of_everything_is_planned(world: CloudEngine) -> None:
    world.apply(server("held", spec={"policy": {"apply": "never"}}), server("rest", spec={"pause": True}))
    world.until("Server", "held", "Synced", "False", "ApplyNever")
    said = world.engine.run("plan", "-A", "-o", "json", check=False)
    assert said.returncode == 2
    told = {one["name"]: one for one in json.loads(said.stdout)["objects"]}
    assert (told["held"]["action"], told["held"]["reason"]) == ("create", "ApplyNever")
    assert told["held"]["digest"] == world.get("Server", "held")["status"]["plan"]["digest"]  # type: ignore[index]
    assert (told["rest"]["action"], told["rest"]["message"]) == ("none", "spec.pause is true")
    empty = world.engine.run("plan", "-n", "kube-system", check=False)
    assert (empty.returncode, empty.stdout) == (0, "No changes.\n")
    world.engine.run("delete", "Server", "held", "rest", "-n", "default")


def _warnings(said: Any) -> list[str]:
    return [line for line in said.stderr.splitlines() if line.startswith("warning:")]


def test_what_changes_nothing_of_the_spec_asks_nobody(world: CloudEngine) -> None:
    world.apply(server("same"))
    world.until("Server", "same")
    labelled = server("same")
    labelled["metadata"]["labels"] = {"team": "shop"}
    labelled["spec"]["providerRef"] = {"name": "default"}
    assert _warnings(world.apply(labelled)) == []
    world.engine.run("delete", "Server", "same", "-n", "default")


# Import and upgrade


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

    other = _upgrade(world, "2.0.0", "next")
    assert (other.returncode, "cloud 2.0.0 was installed before with another program" in other.stderr) == (1, True)
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
