"""What Kubernetes' own conformance tests found wanting here, each in a few lines, on either server."""

from __future__ import annotations

import ipaddress
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import kubernetes
import pytest

WAIT_S = 60.0


@pytest.fixture
def core(client: Any) -> Any:
    return kubernetes.client.CoreV1Api(client)


def until(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (answer := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return answer


def sent(
    client: Any, method: str, path: str, body: str, content_type: str, accept: str = "application/json", **query: str
) -> tuple[int, str]:
    """The code and the message of a refusal."""
    settings = client.configuration
    headers = {
        "Content-Type": content_type,
        "Accept": accept,
        "Authorization": settings.get_api_key_with_prefix("BearerToken"),
    }
    url = f"{settings.host}{path}?" + "&".join(f"{key}={value}" for key, value in query.items())
    answer = client.rest_client.pool_manager.request(method, url, body=body.encode(), headers=headers)
    return answer.status, str(json.loads(answer.data).get("message", ""))


def config_map(core: Any, namespace: str, name: str, *owners: Any, **meta: Any) -> Any:
    references = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": o.metadata.name,
            "uid": o.metadata.uid,
            "blockOwnerDeletion": True,
        }
        for o in owners
    ]
    body = {"metadata": {"name": name, "ownerReferences": references, **meta}}
    return core.create_namespaced_config_map(namespace, body)


def test_a_key_that_stands_twice_is_named_by_its_path_beside_unknown_fields(client: Any, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/services"
    body = '{"kind":"Service","apiVersion":"v1","metadata":{"name":"s"},"spec":{"none":1,"type":"ClusterIP","type":"NodePort"}}'
    code, said = sent(client, "POST", path, body, "application/json", fieldValidation="Strict")
    assert code == 400
    assert said.endswith('strict decoding error: unknown field "spec.none", duplicate field "spec.type"')


def test_a_key_that_stands_twice_in_yaml_is_named_by_its_line(client: Any, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/twice"
    body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: twice}\ndata:\n  a: b\n  a: c\n"
    query = {"fieldManager": "me", "fieldValidation": "Strict"}
    assert sent(client, "PATCH", path, body, "application/apply-patch+yaml", **query) == (
        400,
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n"
        '  line 6: key "a" already set in map',
    )


def test_fields_that_no_schema_has_are_not_applied(client: Any, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/odd"
    body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd}\nspec: {a: b}\n"
    assert sent(client, "PATCH", path, body, "application/apply-patch+yaml", fieldManager="me") == (
        500,
        "failed to create typed patch object (/odd; /v1, Kind=ConfigMap): .spec: field not declared in schema",
    )


def test_a_question_has_no_table(client: Any) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = '{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}'
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    assert sent(client, "POST", path, body, "application/json", accept=table) == (
        406,
        "only the following media types are accepted: application/json, application/yaml, "
        "application/vnd.kubernetes.protobuf",
    )


def test_an_owner_deleted_in_the_foreground_lets_those_go_that_have_another(core: Any, namespace: str) -> None:
    going, staying = config_map(core, namespace, "going"), config_map(core, namespace, "staying")
    config_map(core, namespace, "of-both", going, staying)
    config_map(core, namespace, "of-one", going)
    core.delete_namespaced_config_map("going", namespace, propagation_policy="Foreground")

    def names() -> set[str]:
        return {c.metadata.name for c in core.list_namespaced_config_map(namespace).items} - {"kube-root-ca.crt"}

    until(lambda: names() == {"staying", "of-both"}, "the owner is gone, and what had only it")
    kept = core.read_namespaced_config_map("of-both", namespace)
    assert [owner.name for owner in kept.metadata.owner_references] == ["staying"]


def test_a_namespace_is_emptied_of_its_pods_first(core: Any, namespace: str) -> None:
    spec = {"containers": [{"name": "c", "image": "registry.invalid/i:1"}], "automountServiceAccountToken": False}
    core.create_namespaced_pod(namespace, {"metadata": {"name": "p", "finalizers": ["x.dev/wait"]}, "spec": spec})
    config_map(core, namespace, "kept")
    core.delete_namespace(namespace)

    def told() -> dict[str, Any]:
        conditions = core.read_namespace(namespace).status.conditions or ()
        return {c.type: (c.status, c.reason) for c in conditions}

    try:
        until(lambda: "NamespaceDeletionContentFailure" in told(), "the namespace tells how far it is")
        assert told()["NamespaceDeletionContentFailure"] == ("False", "ContentDeleted")
        assert core.read_namespaced_config_map("kept", namespace).metadata.deletion_timestamp is None
        assert core.read_namespaced_pod("p", namespace).metadata.deletion_timestamp is not None
    finally:
        core.patch_namespaced_pod("p", namespace, {"metadata": {"finalizers": None}})

    def gone() -> bool:
        return all(item.metadata.name != namespace for item in core.list_namespace().items)

    until(gone, "the namespace is gone")
    core.create_namespace({"metadata": {"name": namespace}})


def test_a_pod_that_is_given_a_node_keeps_its_generation(core: Any, namespace: str) -> None:
    spec = {"containers": [{"name": "c", "image": "registry.invalid/i:1"}], "automountServiceAccountToken": False}
    core.create_namespaced_pod(namespace, {"metadata": {"name": "p"}, "spec": spec})
    binding = {"metadata": {"name": "p"}, "target": {"apiVersion": "v1", "kind": "Node", "name": "nowhere"}}
    core.create_namespaced_pod_binding("p", namespace, binding, _preload_content=False)
    bound = core.read_namespaced_pod("p", namespace)
    assert (bound.spec.node_name, bound.metadata.generation) == ("nowhere", 1)
    core.delete_namespaced_pod("p", namespace, grace_period_seconds=0)


def test_definitions_are_published_in_version_2_too(client: Any) -> None:
    settings = client.configuration
    headers = {"Authorization": settings.get_api_key_with_prefix("BearerToken"), "Accept": "application/json"}
    answer = client.rest_client.pool_manager.request("GET", f"{settings.host}/openapi/v2", headers=headers)
    document = json.loads(answer.data)
    assert document["swagger"] == "2.0"
    pod = document["definitions"]["io.k8s.api.core.v1.Pod"]
    assert pod["properties"]["spec"]["$ref"] == "#/definitions/io.k8s.api.core.v1.PodSpec"
    assert pod["x-kubernetes-group-version-kind"] == [{"group": "", "kind": "Pod", "version": "v1"}]


def test_a_job_without_labels_has_those_of_its_pods(client: Any, namespace: str) -> None:
    batch = kubernetes.client.BatchV1Api(client)
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    body: dict[str, Any] = {"metadata": {"name": "bare"}, "spec": {"suspend": True, "template": {"spec": pod}}}

    made = batch.create_namespaced_job(namespace, body)

    assert made.metadata.labels["job-name"] == "bare"
    assert made.metadata.labels == made.spec.template.metadata.labels
    labelled = {**body, "metadata": {"name": "labelled", "labels": {"a": "b"}}}
    assert batch.create_namespaced_job(namespace, labelled).metadata.labels == {"a": "b"}
    bared = batch.patch_namespaced_job("labelled", namespace, {"metadata": {"labels": None}})
    assert bared.metadata.labels["job-name"] == "labelled"


def test_a_service_that_changes_its_type_drops_what_the_new_one_has_not(core: Any, namespace: str) -> None:
    ports = [{"port": 80}]
    body = {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": ports}}
    made = core.create_namespaced_service(namespace, body)
    assert made.spec.external_traffic_policy == "Cluster"
    made.spec.type, made.spec.external_name = "ExternalName", "example.com"
    changed = core.replace_namespaced_service("s", namespace, made)
    assert (changed.spec.type, changed.spec.external_traffic_policy) == ("ExternalName", None)
    assert changed.spec.ports[0].node_port is None


def test_kernel_parameters_with_names_that_are_none_are_refused(core: Any, namespace: str) -> None:
    sysctls = [{"name": name, "value": "1"} for name in ("foo-", "kernel.shm_rmid_forced", "bar..")]
    spec = {"containers": [{"name": "c", "image": "x"}], "securityContext": {"sysctls": sysctls}}
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.create_namespaced_pod(namespace, {"metadata": {"name": "p"}, "spec": spec})
    assert caught.value.status == 422
    causes = json.loads(caught.value.body)["details"]["causes"]
    form = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
    text = f"must have at most 253 characters and match regex {form}"
    assert [(cause["field"], cause["message"]) for cause in causes] == [
        ("spec.securityContext.sysctls[0].name", f'Invalid value: "foo-": {text}'),
        ("spec.securityContext.sysctls[2].name", f'Invalid value: "bar..": {text}'),
    ]


def test_events_are_found_by_who_reported_them(client: Any, core: Any, namespace: str) -> None:
    about = {"kind": "Pod", "name": "p", "namespace": namespace}
    event = {
        "metadata": {"name": "e"},
        "regarding": about,
        "reportingController": "example.com/me",
        "reportingInstance": "me-1",
        "action": "Do",
        "reason": "Done",
        "type": "Normal",
        "eventTime": "2026-01-02T03:04:05.000006Z",
    }
    events = kubernetes.client.EventsV1Api(client)
    events.create_namespaced_event(namespace, event)
    found = core.list_namespaced_event(namespace, field_selector="source=example.com/me").items
    assert [one.metadata.name for one in found] == ["e"]
    newer = events.list_namespaced_event(namespace, field_selector="reportingController=example.com/me").items
    assert [one.metadata.name for one in newer] == ["e"]
    assert core.list_namespaced_event(namespace, field_selector="source=other").items == []


def test_a_definition_with_a_condition_that_has_no_type_can_be_deleted(client: Any) -> None:
    api = kubernetes.client.ApiextensionsV1Api(client)
    group = f"{secrets.token_hex(3)}.example.com"
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    names = {"plural": "foos", "kind": "Foo"}
    spec = {"group": f"a{group}", "scope": "Cluster", "names": names, "versions": [version]}
    name = f"foos.a{group}"
    api.create_custom_resource_definition({"metadata": {"name": name}, "spec": spec})
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    patch = json.dumps([{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}])
    assert sent(client, "PATCH", f"{path}/status", patch, "application/json-patch+json")[0] == 200
    assert sent(client, "DELETE", path, "{}", "application/json")[0] == 200
    until(lambda: sent(client, "GET", path, "", "application/json")[0] == 404, "the definition is still there")


def test_a_role_binding_means_a_service_account_of_its_own_namespace_where_it_names_none(
    client: Any, namespace: str
) -> None:
    rights = kubernetes.client.RbacAuthorizationV1Api(client)
    rights.create_namespaced_role(
        namespace,
        {"metadata": {"name": "reads"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    )
    rights.create_namespaced_role_binding(
        namespace,
        {
            "metadata": {"name": "reads"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot"}],
        },
    )

    def may(user: str) -> bool:
        asked = {"user": user, "resourceAttributes": {"namespace": namespace, "resource": "pods", "verb": "get"}}
        review = kubernetes.client.AuthorizationV1Api(client).create_subject_access_review({"spec": asked})
        return bool(review.status.allowed)

    until(lambda: may(f"system:serviceaccount:{namespace}:robot"), "the account of the binding's namespace may")
    assert not may("system:serviceaccount:default:robot")
    assert not may("system:serviceaccount::robot")


def test_the_range_that_services_get_their_addresses_of_is_an_object(client: Any, core: Any) -> None:
    """Who plans networks looks there for what is taken."""
    found = until(
        lambda: [
            one
            for one in kubernetes.client.NetworkingV1Api(client).list_service_cidr().items
            if one.metadata.name == "kubernetes" and (one.status.conditions or ())
        ],
        "there is a ServiceCIDR with a condition",
    )
    [condition] = found[0].status.conditions
    assert (condition.type, condition.status) == ("Ready", "True")
    [cidr] = found[0].spec.cidrs
    made = core.create_namespaced_service(
        "default", {"metadata": {"generateName": "range-"}, "spec": {"ports": [{"port": 80}]}}
    )
    core.delete_namespaced_service(made.metadata.name, "default")
    assert ipaddress.ip_address(made.spec.cluster_ip) in ipaddress.ip_network(cidr)
