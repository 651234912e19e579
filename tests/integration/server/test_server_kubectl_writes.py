"""kubectl's own ways of writing: protobuf from typed commands, client-side and server-side apply, patches, explain."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api_process import ApiProcess

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: front}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: one, image: "nginx:1", env: [{name: A, value: "1"}, {name: B, value: "2"}]}
      - {name: two, image: "busybox:1"}
"""


@dataclass
class Kubectl:
    folder: Path
    config: Path

    def run(self, *args: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        env = {"KUBECONFIG": str(self.config), "HOME": str(self.folder), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        return subprocess.run(
            ["kubectl", *args], input=given, capture_output=True, text=True, env=env, timeout=60, check=False
        )

    def __call__(self, *args: str, given: str | None = None) -> str:
        """The output of a command that must succeed."""
        done = self.run(*args, given=given)
        assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout + done.stderr

    def refused(self, *args: str, given: str | None = None) -> str:
        """What a command that must fail says."""
        done = self.run(*args, given=given)
        assert done.returncode != 0, f"kubectl {' '.join(args)} succeeded: {done.stdout}"
        return done.stderr

    def get(self, *args: str) -> Any:
        return json.loads(self("get", *args, "-o", "json", "--show-managed-fields"))


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    folder = tmp_path_factory.mktemp("kubectl")
    server = ApiProcess(folder, tls=True)
    server.start()
    try:
        yield Kubectl(folder, server.kubeconfig())
    finally:
        server.close()


@pytest.fixture
def shop(kubectl: Kubectl, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own, made by a protobuf POST."""
    name = request.node.name.replace("_", "-").lower()[:50].rstrip("-")
    kubectl("create", "namespace", name)
    return name


def test_typed_commands_send_protobuf(kubectl: Kubectl, shop: str) -> None:
    n = ("-n", shop)
    kubectl("create", "configmap", "c", "--from-literal=a=1", *n)
    kubectl("create", "secret", "generic", "s", "--from-literal=p=x", *n)
    kubectl("create", "deployment", "web", "--image=nginx:1", "--replicas=0", "--port=80", *n)
    kubectl("run", "p", "--image=busybox:1", "--restart=Never", "--env=A=B", "--port=80", *n)
    kubectl("create", "job", "j", "--image=busybox:1", *n, "--", "echo", "hi")
    kubectl("create", "cronjob", "cj", "--image=busybox:1", "--schedule=* * * * *", *n)
    kubectl("create", "ingress", "i", "--rule=x.y/=web:80", *n)
    kubectl("create", "service", "clusterip", "svc", "--tcp=80:8080", *n)
    kubectl("create", "role", "r", "--verb=get", "--resource=pods", *n)
    kubectl("create", "rolebinding", "rb", "--role=r", "--user=ann", *n)
    kubectl("create", "poddisruptionbudget", "pdb", "--selector=app=web", "--min-available=50%", *n)

    assert kubectl.get("cm", "c", *n)["data"] == {"a": "1"}
    assert kubectl.get("secret", "s", *n)["data"] == {"p": "eA=="}
    deployment = kubectl.get("deployment", "web", *n)
    assert deployment["spec"]["replicas"] == 0
    assert deployment["spec"]["template"]["spec"]["containers"][0]["ports"] == [
        {"containerPort": 80, "protocol": "TCP"}
    ]
    assert deployment["metadata"]["managedFields"][0]["manager"] == "kubectl-create"
    pod = kubectl.get("pod", "p", *n)["spec"]
    assert (pod["restartPolicy"], pod["containers"][0]["env"]) == ("Never", [{"name": "A", "value": "B"}])
    assert kubectl.get("job", "j", *n)["spec"]["template"]["spec"]["containers"][0]["command"] == ["echo", "hi"]
    assert kubectl.get("cronjob", "cj", *n)["spec"]["schedule"] == "* * * * *"
    assert kubectl.get("ingress", "i", *n)["spec"]["rules"][0]["http"]["paths"][0]["backend"] == {
        "service": {"name": "web", "port": {"number": 80}}
    }
    assert kubectl.get("service", "svc", *n)["spec"]["ports"][0]["targetPort"] == 8080
    assert kubectl.get("pdb", "pdb", *n)["spec"]["minAvailable"] == "50%"
    assert kubectl.get("rolebinding", "rb", *n)["subjects"][0]["kind"] == "User"
    assert kubectl("auth", "can-i", "create", "pods").strip() == "yes"


def test_client_side_apply(kubectl: Kubectl, shop: str) -> None:
    n = ("-n", shop)
    changed = DEPLOYMENT.replace("nginx:1", "nginx:2").replace(', {name: B, value: "2"}', "")
    assert "created" in kubectl("apply", "-f-", *n, given=DEPLOYMENT)

    diff = kubectl.run("diff", "-f-", *n, given=changed)
    assert diff.returncode == 1
    assert "+        image: nginx:2" in diff.stdout
    assert "configured" in kubectl("apply", "-f-", *n, given=changed)
    assert "unchanged (server dry run)" in kubectl("apply", "--dry-run=server", "-f-", *n, given=changed)
    assert "unchanged" in kubectl("apply", "-f-", *n, given=changed)

    one, two = kubectl.get("deployment", "web", *n)["spec"]["template"]["spec"]["containers"]
    assert (one["image"], one["env"]) == ("nginx:2", [{"name": "A", "value": "1"}])
    assert two["name"] == "two"


def test_from_client_side_to_server_side_apply(kubectl: Kubectl, shop: str) -> None:
    n = ("-n", shop)
    kubectl("apply", "-f-", *n, given=DEPLOYMENT)

    kubectl("apply", "--server-side", "-f-", *n, given=DEPLOYMENT.replace("replicas: 2", "replicas: 3"))

    deployment = kubectl.get("deployment", "web", *n)
    managers = {(entry["manager"], entry["operation"]) for entry in deployment["metadata"]["managedFields"]}
    assert deployment["spec"]["replicas"] == 3
    assert ("kubectl", "Apply") in managers
    assert ("kubectl-client-side-apply", "Update") not in managers


def test_server_side_apply_conflicts_and_is_forced(kubectl: Kubectl, shop: str) -> None:
    n = ("-n", shop)
    more = DEPLOYMENT.replace("replicas: 2", "replicas: 5")
    apply = ("apply", "--server-side", "-f-", *n)
    kubectl(*apply, given=DEPLOYMENT)

    refusal = kubectl.refused(*apply, "--field-manager=other", given=more)
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas' in refusal
    kubectl(*apply, "--field-manager=other", "--force-conflicts", given=more)
    assert 'conflict with "other": .spec.replicas' in kubectl.refused(*apply, given=DEPLOYMENT)
    kubectl(*apply, given=DEPLOYMENT.replace("  replicas: 2\n", ""))

    assert kubectl.get("deployment", "web", *n)["spec"]["replicas"] == 5


def test_unknown_and_wrong_fields_are_named(kubectl: Kubectl, shop: str) -> None:
    n = ("-n", shop)
    typo = DEPLOYMENT.replace("replicas: 2", "replica: 2")
    wrong = DEPLOYMENT.replace("replicas: 2", "replicas: two")

    assert 'unknown field "spec.replica"' in kubectl.refused("create", "-f-", *n, given=typo)
    assert ".spec.replica: field not declared in schema" in kubectl.refused(
        "apply", "--server-side", "-f-", *n, given=typo
    )
    assert 'Warning: unknown field "spec.replica"' in kubectl("apply", "--validate=warn", "-f-", *n, given=typo)
    assert "spec.replicas in body must be of type integer" in kubectl.refused("apply", "-f-", *n, given=wrong)


def test_patches_of_all_types(kubectl: Kubectl, shop: str) -> None:
    n = ("-n", shop)
    kubectl("apply", "-f-", *n, given=DEPLOYMENT)
    patch = ("patch", "deployment", "web", *n, "-p")

    kubectl(*patch, '{"spec":{"template":{"spec":{"containers":[{"name":"two","$patch":"delete"}]}}}}')
    kubectl(*patch, '[{"op":"replace","path":"/spec/replicas","value":7}]', "--type=json")
    kubectl(*patch, '{"metadata":{"labels":{"tier":null}}}', "--type=merge")
    kubectl("set", "image", "deployment/web", "one=nginx:9", *n)
    kubectl("scale", "deployment", "web", "--replicas=0", *n)
    kubectl("label", "deployment", "web", "a=b", *n)
    refusal = kubectl.refused(*patch, '[{"op":"remove","path":"/spec/nothing"}]', "--type=json")

    assert "'/spec/nothing': 'nothing' does not exist" in refusal
    deployment = kubectl.get("deployment", "web", *n)
    assert deployment["metadata"]["labels"] == {"a": "b"}
    assert deployment["spec"]["replicas"] == 0
    assert [c["image"] for c in deployment["spec"]["template"]["spec"]["containers"]] == ["nginx:9"]


def test_explain_reads_what_is_published(kubectl: Kubectl) -> None:
    text = kubectl("explain", "deployment.spec.strategy.rollingUpdate")

    assert "GROUP:      apps" in text
    assert "maxSurge" in text
    assert "FIELDS" in kubectl("explain", "pods", "--recursive")
