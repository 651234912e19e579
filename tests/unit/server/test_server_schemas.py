"""Schemas of built-in kinds: pruning, defaults, validation, laziness, and the index they come from."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.server import definitions, schemas_build
from trimtab.server.builtin_kinds import BUILTIN_KINDS, MEASURED
from trimtab.server.schemas import Schema, builtin, kubernetes_version


def schema(api_version: str, kind: str) -> Schema:
    found = builtin(api_version, kind)
    assert found is not None
    return found


def deployment(**pod: Any) -> dict[str, Any]:
    pod.setdefault("containers", [{"name": "web", "image": "nginx"}])
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def faults(obj: dict[str, Any]) -> list[str]:
    return [str(error) for error in schema(obj["apiVersion"], obj["kind"]).validate(obj)]


def test_every_served_kind_has_a_schema() -> None:
    for kind in BUILTIN_KINDS:
        if kind.kind in MEASURED:
            continue  # never written, and Kubernetes publishes none
        found = schema(kind.api_version, kind.kind)
        assert "metadata" in found.root.fields, kind
        assert not kind.status or found.status_subresource, kind


def test_a_kind_that_kubernetes_does_not_have() -> None:
    assert builtin("apps/v1", "Gizmo") is None


def test_every_published_definition_compiles() -> None:
    for name in definitions._index().where:
        node = definitions.node(name)
        assert node.kind


# --- prune --------------------------------------------------------------------------------------------------------


def test_unknown_fields_go_and_are_named() -> None:
    obj = deployment(containers=[{"name": "web", "imagee": "x"}], foo=1)
    obj["bar"] = {"x": 1}

    dropped = schema("apps/v1", "Deployment").prune(obj)

    assert sorted(dropped) == ["bar", "spec.template.spec.containers[0].imagee", "spec.template.spec.foo"]
    assert obj == deployment(containers=[{"name": "web"}])


def test_nulls_and_empty_optional_containers_go_without_a_word() -> None:
    obj = deployment(volumes=[], nodeSelector={}, hostname=None)
    obj["metadata"] |= {"creationTimestamp": None, "labels": {}, "annotations": {"a": "b"}}

    assert schema("apps/v1", "Deployment").prune(obj) == []

    expected = deployment()
    expected["metadata"]["annotations"] = {"a": "b"}
    assert obj == expected


def test_empty_structs_stay() -> None:
    obj = deployment(volumes=[{"name": "v", "emptyDir": {}}], securityContext={})
    before = copy.deepcopy(obj)

    schema("apps/v1", "Deployment").prune(obj)

    assert obj == before


def test_free_form_values_are_kept_whole() -> None:
    revision = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {"name": "r"},
        "revision": 1,
        "data": {"any": [{"thing": None}], "empty": {}},
    }
    before = copy.deepcopy(revision)

    assert schema("apps/v1", "ControllerRevision").prune(revision) == []
    assert revision == before


# --- default ------------------------------------------------------------------------------------------------------


def test_a_deployment_gets_the_defaults_that_kubectl_shows() -> None:
    obj = deployment(
        containers=[
            {
                "name": "web",
                "image": "nginx:1",
                "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            }
        ],
        volumes=[{"name": "scratch"}, {"name": "s", "secret": {"secretName": "x"}}],
    )

    schema("apps/v1", "Deployment").default(obj)

    spec = obj["spec"]
    assert {key: spec[key] for key in ("replicas", "revisionHistoryLimit", "progressDeadlineSeconds", "strategy")} == {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
    }
    pod = spec["template"]["spec"]
    assert {key: value for key, value in pod.items() if key not in ("containers", "volumes")} == {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        "schedulerName": "default-scheduler",
    }
    assert pod["containers"] == [
        {
            "name": "web",
            "image": "nginx:1",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "livenessProbe": {
                "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                "timeoutSeconds": 1,
                "periodSeconds": 10,
                "successThreshold": 1,
                "failureThreshold": 3,
            },
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}}],
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "resources": {},
            "imagePullPolicy": "IfNotPresent",
        }
    ]
    assert pod["volumes"] == [
        {"name": "scratch", "emptyDir": {}},
        {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
    ]


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("registry:5000/nginx", "Always"),
        ("registry:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:aa", "IfNotPresent"),
    ],
)
def test_the_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    obj = deployment(containers=[{"name": "web", "image": image}])

    schema("apps/v1", "Deployment").default(obj)

    assert obj["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == policy


def defaulted(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    obj = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    schema(api_version, kind).default(obj)
    found = obj["spec"]
    assert isinstance(found, dict)
    return found


def test_a_services_defaults_follow_its_type() -> None:
    plain = defaulted("v1", "Service", {"ports": [{"port": 80}]})
    balanced = defaulted("v1", "Service", {"type": "LoadBalancer", "sessionAffinity": "ClientIP"})
    external = defaulted("v1", "Service", {"type": "ExternalName", "externalName": "x.y"})

    assert plain == {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
    }
    assert balanced["externalTrafficPolicy"] == "Cluster"
    assert balanced["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert "internalTrafficPolicy" not in external


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, {"parallelism": 1, "completions": 1, "backoffLimit": 6, "podReplacementPolicy": "TerminatingOrFailed"}),
        ({"parallelism": 3}, {"parallelism": 3, "backoffLimit": 6, "podReplacementPolicy": "TerminatingOrFailed"}),
        ({"backoffLimitPerIndex": 1}, {"parallelism": 1, "completions": 1, "backoffLimit": 2**31 - 1}),
        ({"podFailurePolicy": {"rules": []}}, {"podReplacementPolicy": "Failed"}),
    ],
)
def test_a_jobs_defaults_follow_each_other(given_: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = defaulted("batch/v1", "Job", given_)

    assert {key: spec[key] for key in expected} == expected
    assert ("completions" in spec) == ("parallelism" not in given_ or "completions" in given_)


def test_a_pods_requests_follow_its_limits() -> None:
    container = {
        "name": "c",
        "image": "x:1",
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.5"}},
    }

    spec = defaulted("v1", "Pod", {"containers": [container]})

    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "0.5", "memory": "1Gi"}
    assert spec["enableServiceLinks"] is True


def test_each_object_gets_its_own_copy_of_a_default() -> None:
    first, second = deployment(), deployment()
    schema("apps/v1", "Deployment").default(first)
    first["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = 9

    schema("apps/v1", "Deployment").default(second)

    assert second["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == "25%"


# --- validate -----------------------------------------------------------------------------------------------------


def test_a_good_object_has_no_faults() -> None:
    obj = deployment()
    schema("apps/v1", "Deployment").default(obj)

    assert faults(obj) == []


def test_missing_fields_are_named() -> None:
    assert faults({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {}}) == [
        "spec.selector: Required value",
        "spec.template: Required value",
    ]


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        (
            {"containers": "x"},
            'spec.template.spec.containers: Invalid value: "string": spec.template.spec.containers in body must be of type array: "string"',
        ),
        ({"containers": [{"image": "x"}]}, "spec.template.spec.containers[0].name: Required value"),
        (
            {"containers": [{"name": "a"}, {"name": "a"}]},
            'spec.template.spec.containers[1]: Duplicate value: {"name":"a"}',
        ),
        (
            {"terminationGracePeriodSeconds": True},
            'spec.template.spec.terminationGracePeriodSeconds: Invalid value: "boolean": '
            'spec.template.spec.terminationGracePeriodSeconds in body must be of type integer: "boolean"',
        ),
        (
            {"hostNetwork": "yes"},
            'spec.template.spec.hostNetwork: Invalid value: "string": spec.template.spec.hostNetwork in body must be of type boolean: "string"',
        ),
        (
            {"priority": 2**31},
            "spec.template.spec.priority: Invalid value: 2147483648: spec.template.spec.priority in body must be of type int32: it is out of range",
        ),
    ],
)
def test_a_fault_is_one_line_that_names_the_field(pod: dict[str, Any], text: str) -> None:
    assert faults(deployment(**pod)) == [text]


def test_secret_data_must_be_base64() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "no!"}}

    assert faults(secret) == ["illegal base64 data at input byte 2"]


def test_a_status_may_be_incomplete_but_not_of_a_wrong_type() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}

    assert faults({**pod, "status": {"containerStatuses": [{"name": "c"}]}}) == []
    assert len(faults({**pod, "status": {"phase": 1}})) == 1


@pytest.mark.parametrize("quantity", ["1", "500m", 2, 1.5])
def test_a_quantity_is_text_or_a_number(quantity: Any) -> None:
    assert faults(deployment(containers=[{"name": "a", "resources": {"limits": {"cpu": quantity}}}])) == []


@pytest.mark.parametrize(("port", "valid"), [(80, True), ("http", True), (1.5, False), (True, False)])
def test_int_or_string(port: Any, valid: bool) -> None:
    probe = {"httpGet": {"port": port}}

    assert (faults(deployment(containers=[{"name": "a", "livenessProbe": probe}])) == []) is valid


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "template", "containers", "name", "ports", "status", "labels", "volumes", "type"]
            ),
            below,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["Pod", "Service", "Secret"]),
    st.dictionaries(st.sampled_from(["metadata", "spec", "data", "x"]), JUNK),
)
def test_no_junk_breaks_a_schema(kind: str, obj: dict[str, Any]) -> None:
    found = schema("v1", kind)

    found.prune(obj)
    found.default(obj)
    errors = found.validate(obj)

    assert all("\n" not in str(error) for error in errors)
    assert found.prune(copy.deepcopy(obj)) == []


# --- the index ----------------------------------------------------------------------------------------------------


def test_the_index_is_built_from_the_published_definitions(tmp_path: Path) -> None:
    version = schemas_build.build(to=tmp_path)

    index = json.loads((tmp_path / "index.json").read_bytes())
    assert index["version"] == version == kubernetes_version()
    assert index["kinds"]["apps/v1/Deployment"] == "io.k8s.api.apps.v1.Deployment"
    start, length, _, _ = index["definitions"]["io.k8s.api.core.v1.ContainerPort"]
    shape = json.loads((tmp_path / "shapes").read_bytes()[start : start + length])
    assert shape["required"] == ["containerPort"]
    assert "description" not in json.dumps(shape)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.json", "shapes", "texts"]


def test_an_older_kubernetes_can_be_chosen(tmp_path: Path) -> None:
    oldest = min(schemas_build.sources(), key=lambda v: tuple(map(int, v.split("."))))

    assert schemas_build.build(oldest, tmp_path) == oldest


def test_a_version_that_the_wheel_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"kubernetes-validate has no definitions of Kubernetes 9\.9\.9; it has 1\."):
        schemas_build.build("9.9.9", tmp_path)


def test_a_missing_index_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"built-in schemas are missing in .*: run `make setup`"):
        definitions._Index(tmp_path)


def test_importing_reads_no_definition() -> None:
    program = (
        "from trimtab.server import schemas, definitions; "
        "assert definitions._index.cache_info().currsize == 0; "
        "schemas.builtin('v1', 'ConfigMap').validate({}); "
        "assert definitions.node.cache_info().currsize < 6, definitions.node.cache_info()"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
