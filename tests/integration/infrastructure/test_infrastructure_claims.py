"""Claims against a real API server, a cloud and functions in their own processes: composed, kept, pruned, and taken away in order."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from composing_world import COMPOSES, LAB, ComposingWorld, a_composing_world
from trimtab.api import ObjectMeta
from trimtab.api.cluster import ClusterRole, CustomResourceDefinition
from trimtab.api.core import Secret
from trimtab.components.infrastructure.composition.grants import roles
from trimtab.components.infrastructure.composition.kinds import ComposedKind, CompositeDefinition


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ComposingWorld]:
    async with a_composing_world(tmp_path) as one:
        yield one


async def test_the_life_of_a_claim(world: ComposingWorld) -> None:
    await world.define(LAB, connection={"address": "{{ host-0.address }}", "network": "{{ net.status.id }}"})
    await world.claim("lab", region="eu", hosts=2)
    await world.claim_says("lab", "AllReady", "Ready")
    lab = await world.raw("Lab", "lab")
    assert lab is not None
    assert [(r["name"], r["kind"], r["object"], r["ready"]) for r in lab["status"]["resources"]] == [
        ("net", "Network", "lab-net", True),
        ("host-0", "Server", "lab-host-0", True),
        ("host-1", "Server", "lab-host-1", True),
    ]
    (network,) = world.cloud.all("networks")
    assert {s["network"] for s in world.cloud.all("servers")} == {network["id"]}
    assert len(lab["status"]["addresses"]) == 2
    secret = await world.client.get(Secret, lab["status"]["connectionSecret"], "default")
    assert secret is not None
    assert base64.b64decode(secret.data["network"]).decode() == network["id"]
    assert base64.b64decode(secret.data["address"]).decode() in lab["status"]["addresses"]

    await world.claim("lab", region="eu", hosts=1)
    await world.until(lambda: len(world.cloud.all("servers")) == 1, "a host that is no longer wanted goes")
    assert len(world.cloud.all("networks")) == 1

    await world.drop("Lab", "lab")
    await world.until(lambda: not world.cloud.all("networks"), "the network goes")
    assert not world.cloud.all("servers"), "what refers to the network goes before it"

    async def gone() -> bool:
        return await world.raw("Lab", "lab") is None

    await world.until(gone, "the claim goes")


FOREIGN = [
    ComposedKind("example.org/v1", "Moon"),
    ComposedKind("cloud.tf.trimtab.dev/v1", "Moon"),
    ComposedKind("v1", "Namespace"),
]
CONFIG = """
from trimtab.compose import Manifest, Waiting
def compose(xr, observed):
    return [Manifest("config", "v1", "ConfigMap", {"data": {"region": xr.spec.region}})]
"""


async def test_a_function_that_fails_changes_nothing(world: ComposingWorld) -> None:
    await world.define(CONFIG)
    await world.claim("lab", region="eu")
    await world.claim_says("lab", "AllReady", "Ready")
    for source, reason, said in (
        ("def compose(xr, o): raise ValueError('no')", "FunctionFailed", "ValueError: no (lab.py:1)"),
        ("def compose(xr, o): return [{'apiVersion': 'example.org/v1', 'kind': 'Moon', 'metadata': {'name': 'm'}}]",
         "KindNotEnabled", "there is no kind Moon of example.org/v1 in this API"),
        ("def compose(xr, o): return [{'apiVersion': 'cloud.tf.trimtab.dev/v1', 'kind': 'Moon', 'metadata': {'name': 'm'}}]",
         "KindNotEnabled", "there is no kind Moon of cloud.tf.trimtab.dev/v1 in this API: trimtab provider enable cloud ..."),
        ("def compose(xr, o): return [{'apiVersion': 'v1', 'kind': 'Namespace', 'metadata': {'name': 'm'}}]",
         "KindNotEnabled", "Namespace of v1 has no namespace: claims are composed of what has one"),
        ("def compose(xr, o): return [{'apiVersion': 'v1', 'kind': 'Secret', 'metadata': {'name': 'm'}}]",
         "BadOutput", "m: a Secret cannot be composed, for a function knows no secrets: refer to one by name, or use spec.connection of the definition"),
    ):  # fmt: skip
        await world.define(source, ready=False, composes=[*COMPOSES, *FOREIGN])
        await world.claim_says("lab", reason, message=said)
        assert await world.raw("ConfigMap", "lab-config") is not None
    await world.define(CONFIG.replace("region", "zone").replace("xr.spec.zone", "xr.spec.region"))

    async def changed() -> bool:
        return (await world.raw("ConfigMap", "lab-config") or {})["data"] == {"zone": "eu"}

    await world.until(changed, "the next function that works is followed")


async def test_what_the_api_refuses_is_said_in_its_words(world: ComposingWorld) -> None:
    await world.define(CONFIG.replace('{"data": {"region": xr.spec.region}}', '{"data": {"hosts": xr.spec.hosts}}'))
    await world.claim("lab", region="eu")
    said = await world.claim_says("lab", "ApplyRefused")
    assert "data.hosts in body must be of type string" in said


@pytest.mark.long
async def test_nothing_of_others_is_taken(world: ComposingWorld) -> None:
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lab-config"}, "data": {"mine": "yes"}}
    path = "/api/v1/namespaces/default/configmaps"
    await world.client.wire.send("POST", path, {}, msgspec.json.encode(theirs))
    await world.define(CONFIG)
    await world.claim("lab", region="eu")
    said = await world.claim_says("lab", "ApplyRefused")
    assert said.startswith("ConfigMap default/lab-config exists already and belongs to somebody else")
    await world.drop("ConfigMap", "lab-config")
    await world.claim_says("lab", "AllReady", "Ready")
    await world.drop("Lab", "lab")

    async def gone() -> bool:
        return await world.raw("Lab", "lab") is None and await world.raw("ConfigMap", "lab-config") is None

    await world.until(gone, "the claim goes with what it made")


async def test_what_is_composed_is_kept_and_a_restart_loses_nothing(world: ComposingWorld) -> None:
    await world.define(LAB)
    await world.claim("lab", region="eu", hosts=2)
    await world.claim_says("lab", "AllReady", "Ready")
    await world.rest()
    await world.drop("Lab", "lab")
    await world.work()
    await world.until(lambda: not world.cloud.all("networks"), "a claim that is deleted meanwhile ends in order")
    assert not world.cloud.all("servers")

    async def gone() -> bool:
        return await world.raw("Lab", "lab") is None

    await world.until(gone, "the claim goes")
    await world.claim("lab", region="eu", hosts=1)
    await world.claim_says("lab", "AllReady", "Ready")
    (first,) = world.cloud.all("servers")
    await world.drop("Server", "lab-host-0")

    async def anew() -> bool:
        return [one["id"] for one in world.cloud.all("servers")] not in ([], [first["id"]])

    await world.until(anew, "what somebody deleted is made again")


JOB = """
from trimtab.compose import Manifest, Status, Waiting
def compose(xr, observed):
    pod = {"containers": [{"name": "a", "image": "x"}], "restartPolicy": "Never"}
    job = Manifest("job", "batch/v1", "Job", {"spec": {"template": {"spec": pod}}})
    if not observed["job"].ready:
        return [job, Status({"addresses": []}), Waiting("the job to end")]
    labels = {"app": "a"}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod | {"restartPolicy": "Always"}}}
    return [job, Manifest("web", "apps/v1", "Deployment", {"spec": spec}, after=[job])]
"""


@pytest.mark.long
async def test_ready_is_what_each_kind_means_by_it(world: ComposingWorld) -> None:
    await world.define(JOB)
    await world.claim("lab", region="eu")
    await world.claim_says("lab", "ResourceNotReady", "Ready", message="job (Job lab-job): running")

    async def status(kind: str, name: str, said: dict[str, Any]) -> None:
        found = await world.raw(kind, name)
        assert found is not None
        root = "/apis/batch/v1" if kind == "Job" else "/apis/apps/v1"
        path = f"{root}/namespaces/default/{kind.lower()}s/{name}/status"
        body = msgspec.json.encode({"status": said})
        await world.client.wire.send("PATCH", path, {}, body, "application/merge-patch+json")

    now = "2026-01-01T00:00:00Z"
    done = [
        {"type": t, "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
        for t in ("SuccessCriteriaMet", "Complete")
    ]
    await status("Job", "lab-job", {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": done})

    async def second() -> bool:
        return await world.raw("Deployment", "lab-web") is not None

    await world.until(second, "what waits for the job comes after it")
    said = "web (Deployment lab-web): its newest form was not looked at yet"
    await world.claim_says("lab", "ResourceNotReady", "Ready", message=said)
    counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1, "observedGeneration": 1}
    await status("Deployment", "lab-web", counts)
    await world.claim_says("lab", "AllReady", "Ready")


@pytest.mark.long
async def test_claims_are_composed_of_claims(world: ComposingWorld) -> None:
    await world.define(CONFIG)
    outer = "def compose(xr, o): return [{'apiVersion': 'acme.example/v1alpha1', 'kind': 'Lab', 'metadata': {'name': 'inner'}, 'spec': {'region': 'eu'}}]"
    inner = [ComposedKind("acme.example/v1alpha1", "Lab")]
    await world.define(outer, kind="Campus", fields={}, status={}, composes=inner)
    await world.claim("one", kind="Campus")
    await world.claim_says("one-inner", "AllReady", "Ready")
    await world.claim_says("one", "AllReady", "Ready", kind="Campus")
    assert await world.raw("ConfigMap", "one-inner-config") is not None


async def test_a_definition_that_cannot_be_is_said(world: ComposingWorld) -> None:
    for spec, said in (
        ({"fields": {"a": {"type": "text"}}}, "spec.fields.a: type: Invalid enum value 'text'"),
        ({"fields": {"a": {"type": "string", "minimum": 1}}}, "spec.fields.a: minimum does not go with the type string"),
        ({"fields": {"A": {"type": "string"}}}, "spec.fields.A: a field's name is camelCase: letters and digits, at most 63"),
        ({"fields": {"a": {"type": "array"}}}, "spec.fields.a: an array needs `items`: what its values are"),
        ({"fields": {"a": {"type": "integer", "default": "x"}}}, "spec.fields.a: the default 'x' is no integer"),
        ({"fields": {"a": {"type": "string", "required": True, "default": "x"}}}, "spec.fields.a: it is required and has a default; leave one out"),
        ({"fields": {"a": {"type": "string", "wanted": True}}}, "spec.fields.a: Object contains unknown field `wanted`"),
        ({"status": {"conditions": {"type": "string"}}}, "spec.status.conditions: every claim's status has it; call yours otherwise"),
        ({"compose": {"package": "acme==1"}}, "spec.compose: give either source or package"),
        ({"composes": [ComposedKind("v1", "Secret")]}, "spec.composes[0]: a Secret cannot be composed: refer to one by name, or use spec.connection"),
    ):  # fmt: skip
        await world.define(CONFIG, ready=False, **spec)
        assert await world.until(lambda: world.defined("labs.acme.example", "Invalid"), f"{spec}") == said
    made = await world.define("def composed(xr, o): pass", ready=False)
    said = await world.until(lambda: world.defined(made.name, "FunctionMissing"), "the function is missing")
    assert said == "lab.py has no function compose; it has composed: write def compose(xr, observed)"
    await world.define("", ready=False, compose={"package": "acme==1.0", "function": "acme:compose"})
    said = await world.until(lambda: world.defined(made.name, "PackageMissing"), "the package is missing")
    assert said == "the package acme==1.0 is not on this machine: trimtab composition install acme==1.0"


async def test_nothing_is_done_before_an_administrator_grants_it(world: ComposingWorld) -> None:
    one = [ComposedKind("v1", "ConfigMap")]
    made = await world.define(CONFIG, ready=False, granted=False, composes=one)
    said = await world.until(lambda: world.defined(made.name, "NotGranted"), "it says that it is not granted")
    command = "as an administrator, trimtab composition grant labs.acme.example | kubectl apply -f -"
    assert said == (
        "the controllers may not create customresourcedefinitions.apiextensions.k8s.io labs.acme.example (and 17 more): "
        + command
    )
    assert await world.client.get(CustomResourceDefinition, made.name) is None

    for role in roles(made):
        await world.make(role)
    await world.until(lambda: world.defined(made.name, "Served", made), "it is served once it is granted")
    await world.claim("lab", region="eu")
    await world.claim_says("lab", "AllReady", "Ready")

    # A kind more is named, and not granted: what there is stays.
    more = await world.define(
        CONFIG, ready=False, granted=False, composes=[*one, ComposedKind("apps/v1", "Deployment")]
    )
    said = await world.until(lambda: world.defined(made.name, "NotGranted"), "the new kind is not granted")
    assert said == f"the controllers may not get deployments.apps (and 5 more): {command}"
    assert await world.raw("ConfigMap", "lab-config") is not None
    for role in roles(more):
        await world.make(role)
    await world.until(lambda: world.defined(made.name, "Served", more), "it is served again")

    # The grant goes before the definition: it says so, and ends when it is back.
    await world.client.wire.delete(ClusterRole.resource_type, "trimtab:composition:labs.acme.example")
    await world.until(lambda: world.defined(made.name, "NotGranted"), "the grant is gone")
    await world.client.wire.delete(CompositeDefinition.resource_type, made.name)
    await world.drop("Lab", "lab")
    for role in roles(more):
        await world.make(role)

    async def gone() -> bool:
        return await world.client.get(CustomResourceDefinition, made.name) is None

    await world.until(gone, "the definition ends with its claims")


async def test_a_kind_that_is_not_named_is_refused_with_what_to_add(world: ComposingWorld) -> None:
    await world.define(CONFIG, composes=[ComposedKind("batch/v1", "Job"), ComposedKind("v1", "ConfigMap", "maps")])
    await world.claim("lab", region="eu")
    said = "spec.composes: ConfigMap of v1 is called configmaps in this API, not maps: give its plural"
    await world.claim_says("lab", "KindNotEnabled", message=said)
    await world.define(CONFIG, composes=[ComposedKind("batch/v1", "Job")])
    said = (
        "spec.composes: it does not name ConfigMap of v1, which config is: add "
        'Kind("v1", "ConfigMap") to @definition(composes=[...]), and render and apply it again'
    )
    await world.claim_says("lab", "KindNotNamed", message=said)
    assert await world.raw("ConfigMap", "lab-config") is None
    await world.define(CONFIG)
    await world.claim_says("lab", "AllReady", "Ready")


async def test_a_crd_of_somebody_else_is_neither_changed_nor_deleted(world: ComposingWorld) -> None:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "Lab", "plural": "labs", "singular": "lab", "listKind": "LabList"}
    theirs = CustomResourceDefinition(
        metadata=ObjectMeta(name="labs.acme.example"),
        spec={"group": "acme.example", "names": names, "scope": "Namespaced", "versions": [version]},
    )
    await world.make(theirs)
    made = await world.define(CONFIG, ready=False)
    said = await world.until(lambda: world.defined(made.name, "Invalid"), "it says whose it is")
    assert said == (
        "the API refused it: CustomResourceDefinition labs.acme.example exists already and belongs to somebody else (it has no "
        'owner label); delete or rename it, or hand it over with the annotation trimtab.dev/adopt: "true"'
    )
    await world.client.wire.delete(CompositeDefinition.resource_type, made.name)

    async def gone() -> bool:
        return await world.client.get(CompositeDefinition, made.name) is None

    await world.until(gone, "the definition goes")
    there = await world.client.get(CustomResourceDefinition, made.name)
    assert there is not None
    assert [one["name"] for one in there.spec["versions"]] == ["v1"]
    assert there.metadata.labels == {}


async def test_an_api_that_does_not_answer_holds_up_only_who_needs_it(world: ComposingWorld) -> None:
    config = ComposedKind("v1", "ConfigMap")
    await world.define(CONFIG, composes=[config])
    await world.claim("lab", region="eu")
    await world.claim_says("lab", "Composed")
    at_work = world.claims._joined["labs.acme.example"][1].controller

    world.away["/apis/batch/v1"] = 0
    await world.define(CONFIG, kind="Den", composes=[config, ComposedKind("batch/v1", "Job")])
    await world.until(lambda: world.away["/apis/batch/v1"] > 2, "it is asked again")
    await world.define(CONFIG, kind="Hut", composes=[config])
    await world.claim("hut", kind="Hut", region="eu")
    await world.claim_says("hut", "Composed", kind="Hut")
    assert "dens.acme.example" not in world.claims._joined

    del world.away["/apis/batch/v1"]
    await world.claim("den", kind="Den", region="eu")
    await world.claim_says("den", "Composed", kind="Den")
    assert world.claims._joined["labs.acme.example"][1].controller is at_work
