"""kubectl's everyday verbs against the API."""

from __future__ import annotations

import json
from collections.abc import Callable

Kubectl = Callable[..., str]

CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: "%s"}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "web:1"}
"""


def test_apply_in_both_ways(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=CONFIG % "red") == "configmap/settings created\n"
    assert kubectl("apply", "-f", "-", stdin=CONFIG % "red") == "configmap/settings unchanged\n"
    assert kubectl("apply", "-f", "-", stdin=CONFIG % "blue") == "configmap/settings configured\n"
    applied = kubectl("apply", "--server-side", "-f", "-", stdin=CONFIG % "green")
    assert applied == "configmap/settings serverside-applied\n"
    refused = kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=CONFIG % "pink", fails=True)
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .data.color' in refused
    kubectl("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", stdin=CONFIG % "pink")
    assert kubectl("get", "cm", "settings", "-o", "jsonpath={.data.color}") == "pink"


def test_validation_names_the_field(kubectl: Kubectl) -> None:
    refused = kubectl("apply", "-f", "-", stdin=DEPLOYMENT.replace("replicas:", "replica:"), fails=True)

    assert 'unknown field "spec.replica"' in refused


def test_get_in_many_shapes(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)

    assert kubectl("get", "deploy").split()[:9] == [
        "NAME",
        "READY",
        "UP-TO-DATE",
        "AVAILABLE",
        "AGE",
        "web",
        "0/2",
        "0",
        "0",
    ]
    assert "web:1" in kubectl("get", "deploy", "-o", "wide")
    assert kubectl("get", "deploy", "-o", "name") == "deployment.apps/web\n"
    assert json.loads(kubectl("get", "deploy", "web", "-o", "json"))["spec"]["replicas"] == 2
    assert kubectl("get", "deploy", "-l", "app=none") == ""
    assert "web" in kubectl("get", "all")
    assert "web" in kubectl("get", "deploy", "-A")
    assert 'deployments.apps "none" not found' in kubectl("get", "deploy", "none", fails=True)


def test_change_in_many_ways(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "web", "--image=web:1")
    assert kubectl("scale", "deploy/web", "--replicas=3") == "deployment.apps/web scaled\n"
    assert kubectl("set", "image", "deploy/web", "web=web:2") == "deployment.apps/web image updated\n"
    assert kubectl("label", "deploy", "web", "tier=front") == "deployment.apps/web labeled\n"
    assert kubectl("annotate", "deploy", "web", "note=x") == "deployment.apps/web annotated\n"
    assert kubectl("patch", "deploy", "web", "-p", '{"spec":{"replicas":4}}') == "deployment.apps/web patched\n"
    assert (
        kubectl("patch", "deploy", "web", "-p", '{"spec":{"replicas":4}}')
        == "deployment.apps/web patched (no change)\n"
    )
    operations = '[{"op":"replace","path":"/spec/replicas","value":5}]'
    kubectl("patch", "deploy", "web", "--type=json", "-p", operations)
    kubectl("patch", "deploy", "web", "--subresource=status", "--type=merge", "-p", '{"status":{"replicas":1}}')
    kubectl("rollout", "restart", "deploy/web")

    found = json.loads(kubectl("get", "deploy", "web", "-o", "json"))
    assert found["spec"]["replicas"] == 5
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "web:2"
    assert found["status"]["replicas"] == 1
    # The annotation counts, the label does not.
    assert found["metadata"]["generation"] == 7


def test_create_of_typed_kinds(kubectl: Kubectl) -> None:
    """These send protobuf."""
    kubectl("create", "configmap", "c", "--from-literal=a=b")
    kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
    kubectl("create", "serviceaccount", "robot")
    kubectl("create", "service", "clusterip", "web", "--tcp=80:8080")
    kubectl("create", "job", "j", "--image=busybox", "--", "true")
    kubectl("create", "cronjob", "cj", "--image=busybox", "--schedule=*/5 * * * *", "--", "true")
    kubectl("create", "ingress", "i", "--rule=a.example/*=web:80")
    kubectl("create", "role", "r", "--verb=get", "--resource=pods")
    kubectl("create", "rolebinding", "rb", "--role=r", "--user=bob")
    kubectl("run", "p", "--image=busybox", "--restart=Never", "--", "sleep", "1")

    assert kubectl("get", "cm", "c", "-o", "jsonpath={.data.a}") == "b"
    assert kubectl("get", "secret", "s", "-o", "jsonpath={.data.a}") == "Yg=="
    assert kubectl("get", "svc", "web", "-o", "jsonpath={.spec.ports[0].targetPort}") == "8080"
    assert kubectl("get", "pod", "p", "-o", "jsonpath={.spec.containers[0].args}") == '["sleep","1"]'
    assert kubectl("auth", "can-i", "get", "pods", "--as=bob") == "yes\n"
    assert kubectl("auth", "can-i", "get", "secrets", "--as=bob", fails=True) == ""
    assert kubectl("create", "token", "robot").count(".") == 2


def test_describe_and_explain(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)

    assert "RollingUpdateStrategy:  25% max unavailable, 25% max surge" in kubectl("describe", "deploy", "web")
    assert "FIELD: strategy <DeploymentStrategy>" in kubectl("explain", "deployment.spec.strategy")
    assert "imagePullPolicy" in kubectl("explain", "pod.spec.containers", "--recursive")
    assert "deployments" in kubectl("api-resources", "--api-group=apps")
    assert "apps/v1" in kubectl("api-versions")


def test_dry_run_writes_nothing(kubectl: Kubectl) -> None:
    shown = kubectl("apply", "--dry-run=server", "-f", "-", stdin=CONFIG % "red")
    assert shown == "configmap/settings created (server dry run)\n"
    assert "settings" not in kubectl("get", "cm")


def test_wait_and_delete(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CONFIG % "red")
    kubectl("wait", "cm/settings", "--for=jsonpath={.data.color}=red", "--timeout=60s")
    assert kubectl("delete", "cm", "settings") == 'configmap "settings" deleted\n'
    kubectl("wait", "cm/settings", "--for=delete", "--timeout=60s")
    assert kubectl("delete", "cm", "settings", "--ignore-not-found") == ""


def test_a_custom_kind(kubectl: Kubectl) -> None:
    definition = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.conformance.example}
spec:
  group: conformance.example
  scope: Namespaced
  names: {plural: gadgets, kind: Gadget, shortNames: [gd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What a gadget should be.
            properties:
              replicas: {type: integer, minimum: 0, default: 1}
          status:
            type: object
            properties:
              replicas: {type: integer}
"""
    gadget = "apiVersion: conformance.example/v1\nkind: Gadget\nmetadata: {name: g}\nspec: {replicas: %s}\n"
    try:
        kubectl("apply", "-f", "-", stdin=definition)
        kubectl("wait", "crd/gadgets.conformance.example", "--for=condition=Established", "--timeout=60s")
        kubectl("apply", "-f", "-", stdin=gadget % "2")
        assert kubectl("get", "gd").split() == ["NAME", "REPLICAS", "g", "2"]
        kubectl("scale", "gadget/g", "--replicas=3")
        assert kubectl("get", "gadget", "g", "-o", "jsonpath={.spec.replicas}") == "3"
        assert "should be greater than or equal to 0" in kubectl("apply", "-f", "-", stdin=gadget % "-1", fails=True)
        assert "What a gadget should be." in kubectl("explain", "gadget.spec")
    finally:
        kubectl("delete", "crd", "gadgets.conformance.example", "--ignore-not-found")
    assert "gadgets" not in kubectl("api-resources", "--cached=false")
