"""A whole engine that composes: the controllers as their own user publish the kind, run the function shut in, and make what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from composing_world import LAB
from engine_under_test import wait_for
from infrastructure_engine import CloudEngine, cloud_engine
from wheels import wheel

EXAMPLE = Path(__file__).parents[3] / "examples" / "lab"

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


CAMPUS = """
from dataclasses import dataclass
from trimtab.compose import Claim, Composed, Manifest, Observed, Status, definition

@dataclass
class Campus:
    labs: list[str]

@dataclass
class Known:
    first: str

@definition(group="acme.example", status=Known)
def compose(xr: Claim[Campus], observed: Observed) -> Composed:
    labs = [Manifest(name, "acme.example/v1alpha1", "Lab", {"spec": {"region": "eu"}}) for name in xr.spec.labs]
    addresses = observed[xr.spec.labs[0]].at("addresses", [])
    return [*labs, Status(Known(addresses[0] if addresses else ""))]
"""


def _lab(name: str, **spec: Any) -> dict[str, Any]:
    return {**CLAIM, "metadata": {"name": name, "namespace": "default"}, "spec": {"region": "eu", **spec}}


def _says(world: CloudEngine, kind: str, name: str, type: str, reason: str) -> str:
    """The message of a condition once it has this reason."""

    def met() -> dict[str, Any] | None:
        one = world.condition(kind, name, type)
        return one if one.get("reason") == reason else None

    found = wait_for(met, 60, lambda: f"{kind} {name}: {world.get(kind, name)}\n{world.engine.logs()}")
    return str(found["message"])


@pytest.mark.engine
def test_a_package_comes_into_a_running_engine_and_its_claims_follow(world: CloudEngine, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    files = {str(path.relative_to(EXAMPLE)): path.read_text() for path in (EXAMPLE / "acme_lab").glob("*.py")}
    first = wheel(tmp_path, "acme_lab", "1.0.0", files)
    tagged = files["acme_lab/__init__.py"].replace(
        "region=xr.spec.region,", 'region=xr.spec.region, tags={"by": "lab"},'
    )
    second = wheel(tmp_path, "acme_lab", "1.1.0", files | {"acme_lab/__init__.py": tagged})
    engine = world.engine

    def rendered(version: str) -> str:
        named = ("--package", f"acme-lab=={version}", "--function", "acme_lab:compose")
        return str(engine.run("composition", "render", *named).stdout)

    # What is declared before its package is there waits for it.
    assert (
        engine.run("composition", "install", "--path", str(first)).stdout == "acme-lab==1.0.0: installed, 1 package\n"
    )
    definition = rendered("1.0.0")
    engine.run("composition", "remove", "acme-lab==1.0.0")
    engine.run("apply", "-f", "-", input=definition)
    missing = "the package acme-lab==1.0.0 is not on this machine: trimtab composition install acme-lab==1.0.0"
    assert _says(world, "CompositeDefinition", "labs.acme.example", "Ready", "PackageMissing") == missing
    world.apply(_lab("one", hosts=2))
    assert _says(world, "Lab", "one", "Synced", "PackageMissing") == missing
    engine.run("composition", "install", "--path", str(first))
    world.until("Lab", "one")
    world.until("CompositeDefinition", "labs.acme.example")
    assert len(world.get("Lab", "one")["status"]["addresses"]) == 2  # type: ignore[index]
    assert set(world.get("Secret", "one-lab-connection")["data"]) == {"network", "first"}  # type: ignore[index]
    world.apply(_lab("two"))
    world.until("Lab", "two")

    # A field that stays.
    refused = world.apply(_lab("one", hosts=2, region="us"), check=False)
    assert "spec.region" in refused.stderr
    assert "it stays as it was made" in refused.stderr

    # All claims follow the definition; one whose package is not there changes nothing.
    servers = sorted(one["id"] for one in world.cloud.all("servers"))
    engine.run("apply", "-f", "-", input=definition.replace("acme-lab==1.0.0", "acme-lab==1.1.0"))
    for name in ("one", "two"):
        assert "acme-lab==1.1.0 is not on this machine" in _says(world, "Lab", name, "Synced", "PackageMissing")
        assert world.condition("Lab", name, "Ready")["status"] == "True"
    engine.run("composition", "install", "--path", str(second))
    wait_for(lambda: all(one.get("tags") == {"by": "lab"} for one in world.cloud.all("servers")), 60, engine.logs)
    for name in ("one", "two"):
        world.until("Lab", name)
    assert sorted(one["id"] for one in world.cloud.all("servers")) == servers

    # Claims of claims, and another definition of the same kind.
    many = {"type": "array", "items": {"type": "string"}, "required": True}
    campus = {"group": "acme.example", "names": {"kind": "Campus", "plural": "campuses"}, "fields": {"labs": many}}
    campus |= {"status": {"first": {"type": "string"}}, "compose": {"source": CAMPUS}}
    campus |= {"composes": [{"apiVersion": "acme.example/v1alpha1", "kind": "Lab"}]}
    world.apply({**DEFINITION, "metadata": {"name": "campuses.acme.example"}, "spec": campus})
    engine.run("apply", "-f", "-", input=engine.run("composition", "grant", "campuses.acme.example").stdout)
    world.until("CompositeDefinition", "campuses.acme.example")
    world.apply(
        {**CLAIM, "kind": "Campus", "metadata": {"name": "north", "namespace": "default"}, "spec": {"labs": ["a", "b"]}}
    )
    world.until("Campus", "north")
    assert world.get("Campus", "north")["status"]["first"]  # type: ignore[index]
    assert len(world.cloud.all("networks")) == 4
    other = {**DEFINITION["spec"], "names": {"kind": "Lab", "plural": "labz"}}
    world.apply({**DEFINITION, "metadata": {"name": "labz.acme.example"}, "spec": other})
    engine.run("apply", "-f", "-", input=engine.run("composition", "grant", "labz.acme.example").stdout)
    said = _says(world, "CompositeDefinition", "labz.acme.example", "Ready", "Invalid")
    assert said.startswith("the API refused it: ")
    assert 'spec.names: Invalid value: "Lab": already in use by labs.acme.example' in said
    engine.run("delete", "compositedefinition", "labz.acme.example")
    world.until("CompositeDefinition", "labs.acme.example")

    # All goes, in order: hosts before the networks in which they are.
    world.cloud.log.clear()
    engine.run("delete", "campus", "north")
    engine.run("delete", "lab", "one", "two")
    gone = [path.split("/")[1] for _, method, path in world.cloud.log if method == "DELETE"]
    assert sorted(gone) == ["networks"] * 4 + ["servers"] * 5
    assert world.cloud.all("networks") == []
    for name in ("campuses", "labs"):
        engine.run("delete", "compositedefinition", f"{name}.acme.example")
    assert engine.run("get", "crd", "-o", "name").stdout.count("acme.example") == 0
