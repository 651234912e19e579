"""The Terraform provider for Kubernetes, a real program of others, between two APIs: its kinds in an engine, what they make in the API under test.

`TRIMTAB_KUBERNETES_PROVIDER` is the path of one (terraform-provider-kubernetes, version 3); no package has it. It serves identities, write-only
fields, values of any type, and reads the OpenAPI document of the cluster to plan.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from kubernetes.client import ApiException

from engine_under_test import wait_for
from infrastructure_engine import CloudEngine, bare_engine

PROGRAM = Path(os.environ.get("TRIMTAB_KUBERNETES_PROVIDER", "/nonexistent"))
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not PROGRAM.exists(), reason="TRIMTAB_KUBERNETES_PROVIDER names no terraform-provider-kubernetes"
    ),
]
GROUP = "kubernetes.tf.trimtab.dev/v1"
KINDS = ("namespace_v1", "config_map_v1", "secret_v1", "deployment_v1", "service_v1", "manifest")
PATIENCE_S = 120


@dataclass
class World:
    """engine: keeps; core, apps: the API in which it is kept; space: a namespace there."""

    engine: CloudEngine
    core: Any
    apps: Any
    space: str

    def declare(self, kind: str, name: str, given: dict[str, Any], **spec: Any) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "default"}
        whole = {"forProvider": given, "interval": "1s", **spec}
        self.engine.apply({"apiVersion": GROUP, "kind": kind, "metadata": metadata, "spec": whole})
        return self.engine.until(kind, name)

    def metadata(self, name: str, **more: Any) -> list[dict[str, Any]]:
        return [{"name": name, "namespace": self.space, **more}]

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        return wait_for(lambda: found(holds), PATIENCE_S, lambda: f"{what}\n{self.engine.engine.logs()}")

    def delete(self, kind: str, name: str) -> None:
        self.engine.engine.run("delete", kind, name, "-n", "default")


def found(read: Callable[[], Any]) -> Any:
    """What is there, or None."""
    try:
        return read()
    except ApiException as err:
        if err.status != 404:
            raise
        return None


@pytest.fixture(scope="module")
def engine(kubeconfig: Path) -> Iterator[CloudEngine]:
    given = yaml.safe_load(kubeconfig.read_text())
    cluster, user = given["clusters"][0]["cluster"], given["users"][0]["user"]
    authority = Path(cluster["certificate-authority"]).read_text()
    with bare_engine() as engine:
        engine.engine.run("provider", "install", "hashicorp/kubernetes@3.0.0", "--path", str(PROGRAM))
        engine.engine.run("provider", "enable", "kubernetes", *(f"kubernetes_{kind}" for kind in KINDS))
        config = {"host": cluster["server"], "cluster_ca_certificate": authority}
        spec = {"provider": "kubernetes", "config": config, "requestsPerSecond": 200, "removalsPerInterval": 20}
        secrets = {"token": {"name": "cluster", "key": "token"}}
        engine.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cluster"}, "stringData": {"token": user["token"]}},
            {
                "apiVersion": "trimtab.dev/v1alpha1",
                "kind": "ProviderConfig",
                "metadata": {"name": "default"},
                "spec": spec | {"secrets": secrets},
            },
        )  # fmt: skip
        yield engine


@pytest.fixture
def world(engine: CloudEngine, client: Any, namespace: str) -> World:
    return World(engine, kubernetes.client.CoreV1Api(client), kubernetes.client.AppsV1Api(client), namespace)


def test_what_is_changed_deleted_or_renamed_outside_is_as_it_was_declared(world: World) -> None:
    space, core = f"{world.space}-kept", world.core
    given = {"metadata": [{"name": space, "labels": {"team": "blue"}}]}
    world.declare("NamespaceV1", space, given)
    refers = [{"field": "metadata[0].namespace", "source": {"kind": "NamespaceV1", "name": space, "field": "id"}}]
    config = {"metadata": [{"name": "first"}], "data": {"greeting": "hello"}}
    world.declare("ConfigMapV1", "one", config, references=refers, policy={"replace": "auto"})

    def data(name: str = "first") -> Any:
        return core.read_namespaced_config_map(name, space).data

    assert data() == {"greeting": "hello"}
    assert world.engine.engine.run("plan", "-A", check=False).returncode == 0, "what nobody touches does not drift"

    core.patch_namespaced_config_map("first", space, {"data": {"greeting": "hacked", "more": "x"}})
    world.until(lambda: data() == {"greeting": "hello"}, "the data set back")
    before = core.read_namespaced_config_map("first", space).metadata.uid
    core.delete_namespaced_config_map("first", space)
    world.until(lambda: core.read_namespaced_config_map("first", space).metadata.uid != before, "it made anew")

    config["metadata"] = [{"name": "second"}]
    world.declare("ConfigMapV1", "one", config, references=refers, policy={"replace": "auto"})
    world.until(lambda: data("second") == {"greeting": "hello"}, "it under its new name")
    assert found(lambda: data("first")) is None

    world.engine.engine.run("delete", "NamespaceV1", space, "-n", "default", "--no-wait")
    world.delete("ConfigMapV1", "one")
    world.until(lambda: world.engine.get("NamespaceV1", space) is None, "the namespace gone after what refers to it")


def test_a_deployment_and_its_service(world: World) -> None:
    labels = {"app": "web"}

    def deployment(image: str) -> dict[str, Any]:
        pods = {"metadata": [{"labels": labels}], "spec": [{"container": [{"name": "web", "image": image}]}]}
        spec = {"replicas": "2", "selector": [{"matchLabels": labels}], "template": [pods]}
        return {"metadata": world.metadata("web", labels=labels), "waitForRollout": False, "spec": [spec]}

    world.declare("DeploymentV1", "web", deployment("example.test/web:1"))
    ports = [{"name": "http", "port": 80, "targetPort": "8080"}]
    spec = [{"selector": labels, "port": ports, "type": "ClusterIP"}]
    world.declare("ServiceV1", "web", {"metadata": world.metadata("web"), "spec": spec})

    def read() -> Any:
        return world.apps.read_namespaced_deployment("web", world.space).spec

    assert (read().replicas, read().template.spec.containers[0].image) == (2, "example.test/web:1")
    assert world.core.read_namespaced_service("web", world.space).spec.ports[0].target_port in (8080, "8080")
    assert world.engine.engine.run("plan", "-A", check=False).returncode == 0, "what nobody touches does not drift"

    world.apps.patch_namespaced_deployment("web", world.space, {"spec": {"replicas": 7}})
    world.until(lambda: read().replicas == 2, "the replicas set back")
    world.declare("DeploymentV1", "web", deployment("example.test/web:2"))
    world.until(lambda: read().template.spec.containers[0].image == "example.test/web:2", "the new image")
    for kind in ("ServiceV1", "DeploymentV1"):
        world.delete(kind, "web")
    assert found(read) is None


def test_write_only_fields_are_sent_and_kept_nowhere(world: World) -> None:
    def secret(value: str) -> None:
        kept = {"metadata": {"name": "inner"}, "stringData": {"all": json.dumps({"password": value})}}
        world.engine.apply({"apiVersion": "v1", "kind": "Secret", **kept})

    secret("first-word")
    given = {"metadata": world.metadata("login"), "dataWoSecretRef": {"name": "inner", "key": "all"}}
    world.declare("SecretV1", "login", given | {"dataWoRevision": 1})

    def read() -> Any:
        return world.core.read_namespaced_secret("login", world.space).data

    assert read() == {"password": "Zmlyc3Qtd29yZA=="}
    state = world.engine.get("Secret", "login-secretv1-state")
    assert state is not None
    assert "first-word" not in json.dumps(state)
    assert "Zmlyc3Qtd29yZA==" not in json.dumps(state)

    secret("second-word")
    world.declare("SecretV1", "login", given | {"dataWoRevision": 2})
    world.until(lambda: read() == {"password": "c2Vjb25kLXdvcmQ="}, "the new value")
    world.delete("SecretV1", "login")


def test_what_exists_is_taken_over(world: World) -> None:
    world.core.create_namespaced_config_map(world.space, {"metadata": {"name": "old"}, "data": {"a": "1"}})
    number = f"{world.space}/old"
    uid = world.core.read_namespaced_config_map("old", world.space).metadata.uid

    printed = world.engine.engine.run("provider", "import", "kubernetes", "kubernetes_config_map_v1", number).stdout

    manifest = yaml.safe_load(printed)
    assert manifest["spec"]["forProvider"]["data"] == {"a": "1"}
    name = manifest["metadata"]["name"]
    world.engine.apply(manifest)
    world.engine.until("ConfigMapV1", name)
    assert world.core.read_namespaced_config_map("old", world.space).metadata.uid == uid
    world.delete("ConfigMapV1", name)
    assert found(lambda: world.core.read_namespaced_config_map("old", world.space)) is None


def test_a_manifest_of_any_kind(world: World) -> None:
    """Its value is of a type that the provider takes from the cluster's OpenAPI document; it is applied, and what somebody else owns stays."""

    def manifest(value: str) -> dict[str, Any]:
        metadata = {"name": "free", "namespace": world.space}
        return {"manifest": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"v": value}}}

    world.declare("Manifest", "free", manifest("1"))

    def data() -> Any:
        return world.core.read_namespaced_config_map("free", world.space).data

    assert data() == {"v": "1"}
    world.declare("Manifest", "free", manifest("2"))
    world.until(lambda: data() == {"v": "2"}, "the new value")
    assert world.engine.engine.run("plan", "-A", check=False).returncode == 0, "what nobody touches does not drift"

    world.core.patch_namespaced_config_map("free", world.space, {"data": {"v": "hacked"}})
    said = world.engine.until("Manifest", "free", "Synced", "False", "ProviderError")["message"]
    assert "There was a field manager conflict" in said
    assert data() == {"v": "hacked"}
    world.declare("Manifest", "free", manifest("2") | {"fieldManager": [{"forceConflicts": True}]})
    world.until(lambda: data() == {"v": "2"}, "the value set back, since that is said")
    world.delete("Manifest", "free")
    assert found(data) is None


def test_a_credential_that_is_had_anew_for_each_process(world: World, client: Any) -> None:
    """An ephemeral resource: a token of a service account, by the provider's own kubernetes_token_request_v1."""
    world.core.create_namespaced_service_account(world.space, {"metadata": {"name": "keeper"}})
    config = world.engine.get("ProviderConfig", "default")
    assert config is not None
    of = {"name": "keeper", "namespace": world.space}
    opened = {"type": "kubernetes_token_request_v1", "config": {"metadata": of}, "field": "token"}
    spec = {name: config["spec"][name] for name in ("provider", "config", "requestsPerSecond")}
    spec["ephemeral"] = {"token": opened | {"providerRef": {"name": "default"}}}
    metadata = {"name": "short", "namespace": "default"}
    world.engine.apply(
        {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ProviderConfig", "metadata": metadata, "spec": spec}
    )
    given = {"metadata": world.metadata("mine"), "data": {"by": "keeper"}}
    made = {"forProvider": given, "interval": "1s", "providerRef": {"name": "short"}}
    metadata = {"name": "short", "namespace": "default"}
    world.engine.apply({"apiVersion": GROUP, "kind": "ConfigMapV1", "metadata": metadata, "spec": made})

    said = world.engine.until("ConfigMapV1", "short", "Synced", "False", "ProviderError")["message"]

    assert f"system:serviceaccount:{world.space}:keeper" in said
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]
    access = kubernetes.client.RbacAuthorizationV1Api(client)
    access.create_namespaced_role(world.space, {"metadata": {"name": "keeper"}, "rules": rules})
    binding = {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "keeper"}}
    binding["subjects"] = [{"kind": "ServiceAccount", **of}]
    access.create_namespaced_role_binding(world.space, {"metadata": {"name": "keeper"}, **binding})
    world.engine.until("ConfigMapV1", "short")
    assert world.core.read_namespaced_config_map("mine", world.space).data == {"by": "keeper"}
    world.delete("ConfigMapV1", "short")
    world.delete("ProviderConfig", "short")


def test_what_the_provider_refuses_is_said_in_its_words(world: World) -> None:
    given = {"metadata": world.metadata("Not A Name"), "data": {}}
    metadata = {"name": "odd", "namespace": "default"}
    done = world.engine.apply(
        {"apiVersion": GROUP, "kind": "ConfigMapV1", "metadata": metadata, "spec": {"forProvider": given}}, check=False
    )

    assert done.returncode != 0
    assert "a lowercase RFC 1123 subdomain" in done.stderr
