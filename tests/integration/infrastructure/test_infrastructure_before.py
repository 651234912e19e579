"""What is said on a whole engine before anything is done: writes refused in the provider's words, dry runs, `trimtab plan`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine_under_test import wait_for
from infrastructure_engine import CloudEngine, cloud_engine, server

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
