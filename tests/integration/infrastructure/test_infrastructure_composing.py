"""A whole engine that composes: the controllers as their own user publish the kind, run the function shut in, and make what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from composing_world import LAB
from engine_under_test import wait_for
from infrastructure_engine import CloudEngine, cloud_engine

DEFINITION = {
    "apiVersion": "trimtab.dev/v1alpha1",
    "kind": "CompositeDefinition",
    "metadata": {"name": "labs.acme.example"},
    "spec": {
        "group": "acme.example",
        "names": {"kind": "Lab"},
        "fields": {"region": {"type": "string", "required": True}, "hosts": {"type": "integer", "default": 1}},
        "status": {"addresses": {"type": "array", "items": {"type": "string"}}},
        "compose": {"source": LAB},
    },
}
CLAIM = {
    "apiVersion": "acme.example/v1alpha1",
    "kind": "Lab",
    "metadata": {"name": "lab", "namespace": "default"},
    "spec": {"region": "eu"},
}


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with cloud_engine(enabled=("cloud_network", "cloud_server")) as one:
        yield one


def _plan(world: CloudEngine, *objects: dict[str, Any]) -> Any:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    return world.engine.run("plan", "-f", "-", check=False, input=text)


@pytest.mark.engine
def test_an_engine_composes(world: CloudEngine) -> None:
    world.apply(DEFINITION)  # as an earlier version took it: nobody granted it anything
    said = world.until("CompositeDefinition", "labs.acme.example", status="False", reason="NotGranted")["message"]
    command = "trimtab composition grant labs.acme.example | kubectl apply -f -"
    assert said.endswith(f"as an administrator, {command}")
    granted = world.engine.run("composition", "grant", "labs.acme.example").stdout
    world.engine.run("apply", "-f", "-", input=granted)
    world.until("CompositeDefinition", "labs.acme.example")
    named = (world.get("CompositeDefinition", "labs.acme.example") or {})["spec"]["composes"]
    assert [one["kind"] for one in named] == ["Network", "Server"]
    held = json.loads(world.engine.run("get", "clusterrole", "system:trimtab:controllers", "-o", "json").stdout)[
        "rules"
    ]
    assert not {"escalate", "bind", "impersonate"} & {verb for rule in held for verb in rule["verbs"]}
    for kind in ("clusterroles", "customresourcedefinitions"):
        verbs = {
            verb
            for rule in held
            for verb in rule["verbs"]
            if kind in rule["resources"] and not rule.get("resourceNames")
        }
        assert verbs <= {"get", "list", "watch"}, kind
    planned = _plan(world, CLAIM)
    assert planned.returncode == 2, planned
    assert "+ Lab default/lab: create" in planned.stdout
    assert "+ Network default/lab-net: create" in planned.stdout
    assert "    + network: (known after apply)\n" in planned.stdout
    assert planned.stdout.endswith("Plan: 3 to create.\n")
    world.apply(CLAIM)
    world.until("Lab", "lab")
    assert _plan(world, CLAIM).stdout == "No changes; 3 are as they should be.\n"
    fewer = _plan(world, {**CLAIM, "spec": {"region": "eu", "hosts": 0}})
    assert "  - Server default/lab-host-0: delete" in fewer.stdout
    assert fewer.stdout.endswith("Plan: 1 to update, 1 to delete; 1 is as it should be.\n")
    assert len(world.cloud.all("servers")) == 1
    why = world.engine.run("why", "network/lab-net", "-n", "default").stdout
    assert "Lab default/lab" in why
    said = world.engine.run("timeline", check=False)
    assert "makes net (Network), host-0 (Server)" in said.stdout, said

    refused = world.apply({**CLAIM, "spec": {"region": 3}}, check=False)
    assert 'spec.region: Invalid value: "integer"' in refused.stderr
    refused = world.apply({**CLAIM, "spec": {"hosts": 3}}, check=False)
    assert "spec.region: Required value" in refused.stderr

    world.engine.run("delete", "compositedefinition", "labs.acme.example", "--no-wait")
    left = world.until("CompositeDefinition", "labs.acme.example", status="False", reason="ClaimsLeft")
    assert left["message"] == "there is one claim of it, which would be deleted with it: default/lab: delete them first"
    world.engine.run("delete", "lab", "lab", "--no-wait")
    wait_for(lambda: not world.cloud.all("networks"), 60, lambda: f"{world.get('Lab', 'lab')}")
    wait_for(
        lambda: world.engine.run("get", "crd", "labs.acme.example", check=False).returncode != 0, 60, world.engine.logs
    )
