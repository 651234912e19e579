"""What hostile clients sent once and what they were told. Each of these took the server down, cost it minutes or a 500 before."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from api_in_process import APPLY, JSON_PATCH, JSON_TYPE, MERGE, Api
from trimtab.server.bodies import DEPTH_MAX, PROBLEMS_MAX
from trimtab.server.cel import DYN, CompileError, Declared, Environment
from trimtab.server.protobuf import MAGIC, RECORDS_MAX
from trimtab.server.yaml_body import VALUES_MAX, YamlProblem, load
from webhook_server import WebhookServer, patched

YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
NESTED = 100_000
LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
)


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"z: " + b"[" * NESTED + b"]" * NESTED, YAML, "nested more than 250 levels deep"),
        (b'{"a":' * NESTED, YAML, "nested more than 250 levels deep"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, YAML, f"nested more than {DEPTH_MAX} levels deep"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, JSON_TYPE, f"nested more than {DEPTH_MAX} levels deep"),
        (b'{"a":' * NESTED, JSON_TYPE, "the body is not valid JSON: maximum recursion depth exceeded"),
        (LAUGHS, YAML, "document contains excessive aliasing"),
        (b"a: &a\n  b: *a\n", YAML, "anchor 'a' value contains itself"),
        (b"a: *b\n", YAML, "unknown anchor 'b' referenced"),
        (b"a: !!python/object:os.system x\n", YAML, "cannot decode 'x' as a !!python/object:os.system"),
        (b"a: .nan\n", YAML, "JSON has no such number"),
        (b"? [a]\n: b\n", YAML, "a key must be text"),
        (b"a: 1\n---\nb: 2\n", YAML, "line 2: expected a single document"),
        (b"z: [" + b"1," * VALUES_MAX + b"1]", YAML, f"more than {VALUES_MAX} values: send JSON"),
        (MAGIC + b"\x0a\x00" * (RECORDS_MAX + 1), PROTOBUF, f"the body has more than {RECORDS_MAX} fields"),
    ],
)
async def test_bodies_that_ask_too_much_are_refused(api: Api, body: bytes, content_type: str, message: str) -> None:
    answer = await api.call("POST", CONFIGMAPS, body, content_type)

    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
    assert message in answer.message


async def test_a_broken_gzip_body_is_a_bad_request(api: Api) -> None:
    packed = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + zlib.compress(b"{}")[:1] + b"\xff" * 20

    answer = await api.call("POST", CONFIGMAPS, packed, content_encoding="gzip")

    assert answer.status == 400
    assert answer.message.startswith("the body is not gzip as its content-encoding says")


async def test_a_key_that_stands_twice_ten_thousand_times_is_told_a_hundred_times(api: Api) -> None:
    keys = b",".join(b'"k%d":"","k%d":""' % (i, i) for i in range(10_000))
    body = b'{"metadata":{"name":"twice"},"data":{' + keys + b"}}"

    refused = await api.call("POST", f"{CONFIGMAPS}?fieldValidation=Strict", body)

    assert refused.status == 400
    assert refused.message.count("duplicate field") == PROBLEMS_MAX


@pytest.mark.parametrize("query", ["limit", "resourceVersion"])
@pytest.mark.parametrize("value", ["%C2%B2", "9" * 5_000, "9" * 19, "9" * 20, "-1", "1.5", "0x1"])
async def test_numbers_of_the_query_are_whole_and_of_64_bits(api: Api, query: str, value: str) -> None:
    answer = await api.get(f"{CONFIGMAPS}?{query}={value}")

    if (query, value) == ("limit", "-1"):  # no limit, as for the real server
        assert answer.ok()["items"] == []
        return
    assert answer.status == 400
    assert answer.message.endswith(f'for query parameter "{query}": write a non-negative integer')
    assert len(answer.message) < 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preconditions": [1]}, "preconditions: Invalid value: must be an object"),
        ({"preconditions": {"uid": [1]}}, "preconditions.uid: Invalid value: must be text"),
        ({"dryRun": 5}, "dryRun: Invalid value: must be a list of texts"),
        ({"dryRun": [{}]}, "dryRun: Invalid value: must be a list of texts"),
        ({"gracePeriodSeconds": True}, "gracePeriodSeconds: Invalid value: True: must be an integer"),
    ],
)
async def test_delete_options_of_a_wrong_type_are_refused(api: Api, options: Any, message: str) -> None:
    answer = await api.delete(f"{CONFIGMAPS}/x", options)

    assert (answer.status, answer.message) == (400, message)


async def test_a_continue_token_that_names_a_version_to_come_is_refused(api: Api) -> None:
    made_up = json.dumps({"rv": 10**9, "start": "/core/configmaps/default/"}).encode()

    answer = await api.get(f"{CONFIGMAPS}?limit=1&continue={base64.urlsafe_b64encode(made_up).decode().rstrip('=')}")

    assert (answer.status, answer.message) == (400, "continue key is not valid: it names a version that is yet to come")


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([{"op": "copy", "from": "/data", "path": f"/data/a{n}"} for n in range(40)], "the patch copies more than"),
        (
            [{"op": "add", "path": "/z", "value": [1] * 20_000}] + [{"op": "add", "path": "/z/0", "value": 1}] * 9_000,
            "the patch moves items of lists more than",
        ),
        ([{"op": "add", "path": "/data" + "/a" * n, "value": {}} for n in range(400)], "nested more than"),
        (
            [{"op": "add", "path": "/data/a", "value": {}}, {"op": "move", "from": "/data", "path": "/data/a/b"}],
            "itself",
        ),
    ],
)
async def test_json_patches_that_grow_without_end_are_refused(api: Api, operations: Any, message: str) -> None:
    (await api.post(CONFIGMAPS, {"metadata": {"name": "patched"}, "data": {"k": "v"}})).ok()

    answer = await api.patch(f"{CONFIGMAPS}/patched", operations, JSON_PATCH)

    assert answer.status in (400, 422)
    assert message in answer.message
    assert (await api.get(f"{CONFIGMAPS}/patched")).ok()["data"] == {"k": "v"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("0777", 511),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("+7", 7),
        ("08", 8.0),
        ("18446744073709551615", 18446744073709551615),
        ("18446744073709551616", 18446744073709551616.0),
        ("on", True),
        ("No", False),
        ("~", None),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("|\n   a\n   b\n", "a\nb\n"),
    ],
)
def test_yaml_scalars_mean_what_they_mean_to_go_yaml(text: str, value: Any) -> None:
    (found,) = load(f"k: {text}".encode())[0].values()

    assert found == value
    assert type(found) is type(value)


def test_yaml_keys_are_text_and_anchors_are_copies() -> None:
    loaded, duplicates = load(b"base: &b {x: [1]}\nuse: {<<: *b, w: 2}\nagain: *b\n1: a\ntrue: b\nbase: &c c\n")

    assert loaded == {"base": "c", "use": {"x": [1], "w": 2}, "again": {"x": [1]}, "1": "a", "true": "b"}
    assert loaded["use"]["x"] is not loaded["again"]["x"]
    assert duplicates == ['line 6: key "base" already set in map']
    with pytest.raises(YamlProblem, match="map merge requires map or sequence of maps as the value"):
        load(b"a: {<<: 1}")


SPEC_OF_A_JOB = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}}}
AUTOSCALER = {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "a"}}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/v1/persistentvolumes", {"spec": []}, "spec: Invalid value"),
        ("/apis/batch/v1/namespaces/default/jobs", {"spec": {"completionMode": []}}, "spec.completionMode: Invalid value"),
        ("/api/v1/namespaces/default/pods", {"spec": {"containers": [{"resources": {"limits": {"a": 1}, "requests": [1]}}]}}, "requests"),
        ("/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": {"user": [1]}}, "spec.user: Invalid value"),
        ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": {"resourceAttributes": "x"}}, "spec.resourceAttributes"),
        ("/api/v1/namespaces/default/serviceaccounts/default/token", {"spec": {"audiences": {"a": 1}}}, "spec.audiences"),
        ("/api/v1/namespaces/default/pods/p/binding", {"target": ["n"]}, "target: Invalid value"),
        ("/api/v1/namespaces/default/pods/p/eviction", {"deleteOptions": "now"}, "deleteOptions: Invalid value"),
    ],
)  # fmt: skip
async def test_what_has_another_type_is_refused_before_anything_looks_at_it(
    api: Api, path: str, body: dict[str, Any], message: str
) -> None:
    refused = await api.post(path, {"metadata": {"name": "odd"}, **body})

    assert (refused.status, refused.body["reason"]) == (400, "BadRequest")
    assert "cannot be handled as a" in refused.message
    assert message in refused.message


@pytest.mark.parametrize("scale", [{"spec": "a"}, {"metadata": [1]}, {"spec": {"replicas": "2"}}])
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_what_is_no_scale_is_refused(api: Api, method: str, scale: Any) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    path = "/apis/apps/v1/namespaces/default/deployments"
    (await api.post(path, {"metadata": {"name": "d"}, "spec": spec})).ok()

    refused = await api.call(method, f"{path}/d/scale", scale, MERGE if method == "PATCH" else JSON_TYPE)

    assert refused.status == 400
    assert refused.message.startswith('Scale in version "v1" cannot be handled as a Scale: ')


@pytest.mark.parametrize("version", [[1, "v1"], {"a": "b"}, 1])
async def test_an_applied_scale_of_a_version_that_is_no_text_is_refused(api: Api, version: Any) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    path = "/apis/apps/v1/namespaces/default/deployments"
    (await api.post(path, {"metadata": {"name": "d"}, "spec": spec})).ok()

    refused = await api.call("PATCH", f"{path}/d/scale?fieldManager=a", {"apiVersion": version, "kind": "Scale"}, APPLY)

    assert (refused.status, refused.body["reason"]) == (400, "BadRequest")
    assert refused.message.startswith("invalid object type: ")


async def test_a_null_among_others_is_the_zero_of_its_type(api: Api) -> None:
    made = (await api.post(CONFIGMAPS, {"metadata": {"name": "nulls"}, "data": {"a": None, "b": "c"}})).ok()
    rule = {"verbs": [None], "apiGroups": [""], "resources": ["pods"]}
    role = (
        await api.post(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", {"metadata": {"name": "r"}, "rules": [rule]}
        )
    ).ok()
    pod = await api.post("/api/v1/namespaces/default/pods", {"metadata": {"name": "p"}, "spec": {"containers": [None]}})

    assert made["data"] == {"a": "", "b": "c"}
    assert role["rules"][0]["verbs"] == [""]
    assert pod.status == 422
    assert "spec.containers[0].name: Required value" in pod.message


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("/api/v1/namespaces/default/services", {"ports": [{"port": 80}]}),
        ("/apis/batch/v1/namespaces/default/jobs", SPEC_OF_A_JOB),
    ],
)
async def test_an_object_without_any_name_is_invalid(api: Api, path: str, spec: Any) -> None:
    refused = await api.post(path, {"metadata": {}, "spec": spec})

    assert refused.status == 422
    assert "metadata.name: Required value: name or generateName is required" in refused.message


async def test_a_volume_without_a_spec_is_invalid(api: Api) -> None:
    refused = await api.post("/api/v1/persistentvolumes", {"metadata": {"name": "v"}})

    assert refused.status == 422
    assert "spec.accessModes: Required value" in refused.message


async def test_managed_fields_without_a_manager_are_kept(api: Api) -> None:
    entry = {"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}}

    (await api.post(CONFIGMAPS, {"metadata": {"name": "m", "managedFields": [entry]}, "data": {"a": "b"}})).ok()


async def test_an_autoscaler_with_a_metric_of_nothing_is_shown(api: Api) -> None:
    path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
    made = await api.post(path, {"metadata": {"name": "h"}, "spec": {**AUTOSCALER, "metrics": [{"type": "Resource"}]}})

    shown = await api.get(path, accept="application/json;as=Table;v=v1;g=meta.k8s.io")

    assert shown.status == 200
    assert made.status in (201, 422)


async def test_a_watch_with_a_bad_timeout_leaves_nothing_open(api: Api) -> None:
    refused = await api.get(f"{CONFIGMAPS}?watch=1&timeoutSeconds=-1")

    assert refused.status == 400
    assert len(api.server.watches) == 0


async def test_an_eviction_may_be_tried_only(api: Api) -> None:
    pods = "/api/v1/namespaces/default/pods"
    pod = (
        await api.post(pods, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "b"}]}})
    ).ok()

    (await api.post(f"{pods}/p/eviction", {"metadata": {"name": "p"}, "deleteOptions": {"dryRun": ["All"]}})).ok()

    assert (await api.get(f"{pods}/p")).ok()["metadata"]["resourceVersion"] == pod["metadata"]["resourceVersion"]


async def test_a_webhook_may_not_take_the_name_away(api: Api, tmp_path: Path) -> None:
    hook = WebhookServer(tmp_path, lambda request: patched({"op": "remove", "path": "/metadata"}))
    client = {"url": f"{hook.url}/call", "caBundle": hook.ca_bundle}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    webhook = {"name": "w.a.example", "clientConfig": client, "rules": [rule], "sideEffects": "None"}
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    webhooks = [{**webhook, "admissionReviewVersions": ["v1"]}]
    try:
        (await api.post(path, {"metadata": {"name": "w"}, "webhooks": webhooks})).ok()

        refused = await api.post(CONFIGMAPS, {"metadata": {"name": "m"}})
    finally:
        hook.close()

    assert (refused.status, refused.body["reason"]) == (400, "BadRequest")
    assert refused.message == "the namespace of the provided object does not match the namespace sent on the request"


async def test_a_definition_without_a_name_is_invalid(api: Api) -> None:
    names = {"plural": "things", "kind": "Thing"}
    schema = {"openAPIV3Schema": {"type": "object"}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    spec = {"group": "a.example", "scope": "Namespaced", "names": names, "versions": [version]}

    refused = await api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {"metadata": {}, "spec": spec})

    assert refused.status == 422
    assert "metadata.name" in refused.message


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("1" * 5_000, "invalid int literal"),
        ("-" + "1" * 5_000 + " < 0", "invalid int literal"),
        ("1" * 5_000 + "u", "invalid uint literal"),
        ("self == ) -a", "Syntax error"),
    ],
)
def test_expressions_with_numbers_that_are_none(rule: str, text: str) -> None:
    with pytest.raises(CompileError, match=text):
        Environment({"self": Declared(DYN)}).compile(rule)
