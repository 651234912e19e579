"""Create, read, update, patch, apply: what clients rely on, and how refusals are worded."""

from __future__ import annotations

from typing import Any

import pytest

from api_in_process import APPLY, JSON_PATCH, STRATEGIC, Api, running_api

CONFIGS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"


def config(name: str = "a", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(name: str = "web", **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
    }


async def test_an_object_is_created_read_and_listed(api: Api) -> None:
    created = (await api.post(CONFIGS, config(x="1"))).ok()

    meta = created["metadata"]
    assert meta["namespace"] == "default"
    assert meta["uid"]
    assert meta["creationTimestamp"].endswith("Z")
    assert (await api.get(f"{CONFIGS}/a")).ok() == created
    listed = (await api.get("/api/v1/configmaps")).ok()
    assert listed["kind"] == "ConfigMapList"
    assert [item for item in listed["items"] if item["metadata"]["name"] == "a"] == [created]
    assert int(listed["metadata"]["resourceVersion"]) >= int(meta["resourceVersion"])


async def test_generated_names_have_a_suffix(api: Api) -> None:
    body = {"metadata": {"generateName": "job-"}}
    names = {(await api.post(CONFIGS, body)).ok()["metadata"]["name"] for _ in range(5)}

    assert len(names) == 5
    assert all(name.startswith("job-") and len(name) == 9 for name in names)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (CONFIGS, config("default"), 409, 'configmaps "default" already exists'),
        ("/api/v1/namespaces/nowhere/configmaps", config(), 404, 'namespaces "nowhere" not found'),
        ("/api/v1/namespaces/default/unicorns", {}, 404, "the server could not find the requested resource"),
        (
            CONFIGS,
            {**config(), "kind": "Secret"},
            400,
            "the kind in the data (Secret) does not match the expected kind (ConfigMap)",
        ),
        (
            CONFIGS,
            {**config(), "apiVersion": "v2"},
            400,
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            CONFIGS,
            {**config(), "metadata": {"name": "a", "namespace": "other"}},
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            CONFIGS,
            {"data": {}},
            422,
            'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required',
        ),
        (
            CONFIGS,
            config("UPPER"),
            422,
            'ConfigMap "UPPER" is invalid: metadata.name: Invalid value: "UPPER": a lowercase RFC 1123 subdomain must '
            "consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
            "character (e.g. 'example.com', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (
            CONFIGS,
            b"{nonsense",
            400,
            "the body is not valid JSON: JSON is malformed: object keys must be strings (byte 1)",
        ),
        (
            CONFIGS,
            [1],
            400,
            "the body must be one object: a JSON or YAML mapping with apiVersion, kind and metadata",
        ),
        (
            DEPLOYMENTS,
            deployment(replicas=-1),
            422,
            'Deployment.apps "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0',
        ),
    ],
)
async def test_a_bad_creation_is_refused_in_one_line(api: Api, path: str, body: Any, status: int, message: str) -> None:
    await api.post(CONFIGS, config("default"))
    before = api.server.store.revision

    answer = await api.post(path, body)

    assert (answer.status, answer.message) == (status, message)
    assert answer.body["kind"] == "Status"
    assert api.server.store.revision == before


async def test_a_wrong_type_names_the_field(api: Api) -> None:
    answer = await api.post(DEPLOYMENTS, deployment(replicas="three"))

    assert answer.status == 400
    assert answer.message.startswith('Deployment in version "v1" cannot be handled as a Deployment: spec.replicas: ')


async def test_unknown_fields_are_warned_of_refused_or_ignored(api: Api) -> None:
    body = deployment(replica=3)

    warned = await api.post(f"{DEPLOYMENTS}?dryRun=All", body)
    strict = await api.post(f"{DEPLOYMENTS}?fieldValidation=Strict", body)
    ignored = await api.post(f"{DEPLOYMENTS}?fieldValidation=Ignore", body)

    assert warned.headers["warning"] == '299 - "unknown field \\"spec.replica\\""'
    assert (strict.status, strict.message) == (400, 'strict decoding error: unknown field "spec.replica"')
    assert ignored.status == 201
    assert "warning" not in ignored.headers
    assert "replica" not in ignored.body["spec"]


async def test_a_key_that_stands_twice_is_found(api: Api) -> None:
    body = b'{"metadata": {"name": "a"}, "data": {"x": "1", "x": "2"}}'

    strict = await api.call("POST", f"{CONFIGS}?fieldValidation=Strict", body)

    assert (strict.status, strict.message) == (400, 'strict decoding error: duplicate field "data.x"')


async def test_a_field_that_nothing_acts_on_is_warned_of(api: Api) -> None:
    body = deployment()
    body["spec"]["template"]["spec"]["os"] = {"name": "linux"}

    answer = await api.post(DEPLOYMENTS, body)

    assert answer.headers["warning"] == '299 - "spec.template.spec.os: nothing acts on this field"'
    again = await api.put(f"{DEPLOYMENTS}/web", answer.body)
    assert "warning" not in again.headers


async def test_a_replacement_needs_the_live_version(api: Api) -> None:
    first = (await api.post(CONFIGS, config(x="1"))).ok()
    (await api.put(f"{CONFIGS}/a", {**first, "data": {"x": "2"}})).ok()

    late = await api.put(f"{CONFIGS}/a", {**first, "data": {"x": "3"}})

    assert late.status == 409
    assert late.body["reason"] == "Conflict"
    assert late.message == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to '
        "the latest version and try again"
    )
    assert (await api.get(f"{CONFIGS}/a")).body["data"] == {"x": "2"}


async def test_a_write_that_changes_nothing_keeps_the_version(api: Api) -> None:
    first = (await api.post(CONFIGS, config(x="1"))).ok()

    same = (await api.put(f"{CONFIGS}/a", first)).ok()
    patched = (await api.patch(f"{CONFIGS}/a", {"data": {"x": "1"}})).ok()

    assert same == first
    assert patched == first


async def test_what_the_server_writes_cannot_be_changed(api: Api) -> None:
    first = (await api.post(CONFIGS, config(x="1"))).ok()
    body = {**first, "metadata": {**first["metadata"], "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 99}}

    after = (await api.put(f"{CONFIGS}/a", body)).ok()

    assert after["metadata"]["creationTimestamp"] == first["metadata"]["creationTimestamp"]
    assert "generation" not in after["metadata"]


async def test_generation_counts_changes_of_the_spec_alone(api: Api) -> None:
    (await api.post(DEPLOYMENTS, deployment())).ok()
    scaled = (await api.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 3}})).ok()
    labelled = (await api.patch(f"{DEPLOYMENTS}/web", {"metadata": {"labels": {"a": "b"}}})).ok()
    stated = (await api.patch(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 2}})).ok()

    assert [obj["metadata"]["generation"] for obj in (scaled, labelled, stated)] == [2, 2, 2]
    assert stated["status"]["replicas"] == 2


async def test_status_is_written_by_its_subresource_alone(api: Api) -> None:
    created = (await api.post(DEPLOYMENTS, {**deployment(), "status": {"replicas": 7}})).ok()
    assert "replicas" not in created.get("status", {})

    through_main = (await api.patch(f"{DEPLOYMENTS}/web", {"status": {"replicas": 7}})).ok()
    through_status = (
        await api.patch(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 7}, "spec": {"replicas": 9}})
    ).ok()

    assert "replicas" not in through_main.get("status", {})
    assert through_status["status"]["replicas"] == 7
    assert through_status["spec"]["replicas"] == 1


async def test_the_three_patches(api: Api) -> None:
    (await api.post(DEPLOYMENTS, deployment())).ok()
    url = f"{DEPLOYMENTS}/web"

    strategic = {"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}}}
    merged = (await api.patch(url, strategic, STRATEGIC)).ok()
    assert merged["spec"]["template"]["spec"]["containers"][0]["image"] == "web:1"
    assert merged["spec"]["template"]["spec"]["containers"][0]["env"] == [{"name": "A", "value": "1"}]

    operations = [{"op": "replace", "path": "/spec/replicas", "value": 4}]
    assert (await api.patch(url, operations, JSON_PATCH)).ok()["spec"]["replicas"] == 4

    refused = await api.patch(url, [{"op": "test", "path": "/spec/replicas", "value": 9}], JSON_PATCH)
    assert refused.status == 422
    unknown = await api.patch(url, {}, "application/xml")
    assert unknown.status == 415


async def test_apply_creates_changes_and_conflicts(api: Api) -> None:
    url = f"{CONFIGS}/a"
    created = await api.apply(url, config(x="1", y="1"), "one")
    assert created.status == 201
    same = (await api.apply(url, config(x="1", y="1"), "one")).ok()
    assert same["metadata"]["resourceVersion"] == created.body["metadata"]["resourceVersion"]

    conflict = await api.apply(url, config(x="2"), "two")
    assert conflict.status == 409
    assert conflict.message == 'Apply failed with 1 conflict: conflict with "one": .data.x'
    assert conflict.body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.x"}
    ]

    forced = (await api.apply(url, config(x="2"), "two", force=True)).ok()
    assert forced["data"] == {"x": "2", "y": "1"}
    removed = (await api.apply(url, config(), "one")).ok()
    assert removed["data"] == {"x": "2"}


async def test_apply_speaks_yaml_and_needs_a_manager(api: Api) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: 'yes', 'on': 'off'}\n"

    assert (await api.call("PATCH", f"{CONFIGS}/a?fieldManager=m", body, APPLY)).ok()["data"]["x"] == "yes"
    nameless = await api.call("PATCH", f"{CONFIGS}/a", body, APPLY)
    assert (nameless.status, nameless.message) == (400, "fieldManager: Required value: is required for apply patch")
    broken = await api.call("PATCH", f"{CONFIGS}/a?fieldManager=m", b"a: [1", APPLY)
    assert broken.status == 400
    assert broken.message.startswith("the body is not valid YAML: line 2: did not find expected")


async def test_a_dry_run_writes_nothing(api: Api) -> None:
    before = api.server.store.revision

    created = (await api.post(f"{CONFIGS}?dryRun=All", config(x="1"))).ok()
    await api.apply(f"{CONFIGS}/b?dryRun=All", config("b"))

    assert "resourceVersion" not in created["metadata"]
    assert api.server.store.revision == before
    wrong = await api.post(f"{CONFIGS}?dryRun=Some", config())
    assert (wrong.status, wrong.message) == (
        422,
        'CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All"',
    )


async def test_secrets_turn_plain_text_into_data(api: Api) -> None:
    body = {"metadata": {"name": "s"}, "stringData": {"user": "ann"}}

    created = (await api.post("/api/v1/namespaces/default/secrets", body)).ok()

    assert created["data"] == {"user": "YW5u"}
    assert created["type"] == "Opaque"
    assert "stringData" not in created


async def test_immutable_configuration_stays(api: Api) -> None:
    (await api.post(CONFIGS, {**config(x="1"), "immutable": True})).ok()

    refused = await api.patch(f"{CONFIGS}/a", {"data": {"x": "2"}})

    assert refused.status == 422
    assert refused.message == ('ConfigMap "a" is invalid: data: Forbidden: field is immutable when `immutable` is set')


async def test_services_get_an_address_that_stays(api: Api) -> None:
    services = "/api/v1/namespaces/default/services"
    body = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}
    created = (await api.post(services, body)).ok()
    address = created["spec"]["clusterIP"]
    assert address.startswith("10.96.")
    assert created["spec"]["clusterIPs"] == [address]
    assert created["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]

    replaced = (await api.put(f"{services}/web", body)).ok()
    assert replaced["spec"]["clusterIP"] == address

    taken = {"metadata": {"name": "two"}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}}
    refused = await api.post(services, taken)
    assert refused.message == (
        f'Service "two" is invalid: spec.clusterIPs: Invalid value: ["{address}"]: provided IP is already allocated'
    )
    headless = {"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "selector": {"app": "db"}}}
    assert (await api.post(services, headless)).ok()["spec"]["clusterIP"] == "None"


async def test_services_that_need_ipv6_are_refused(api: Api) -> None:
    async def answer(**spec: Any) -> Any:
        body = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], **spec}}
        return await api.post("/api/v1/namespaces/default/services", body)

    assert (await answer(ipFamilies=["IPv4", "IPv6"])).message == (
        'Service "web" is invalid: spec.ipFamilies[1]: Invalid value: "IPv6": not configured on this cluster, whose pods '
        "have IPv4 addresses only; leave it out"
    )
    assert (await answer(ipFamilyPolicy="RequireDualStack")).message == (
        'Service "web" is invalid: spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured '
        'for dual-stack services; use "PreferDualStack", or leave it out'
    )
    assert (await answer(ipFamilyPolicy="PreferDualStack")).ok()["spec"]["ipFamilies"] == ["IPv4"]


async def test_a_pods_spec_stays_but_for_its_node_and_images(api: Api) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a"}]}}
    created = (await api.post(PODS, pod)).ok()
    assert created["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert created["spec"]["serviceAccountName"] == "default"

    assert (await api.patch(f"{PODS}/p", {"spec": {"nodeName": "n1"}})).status == 200
    moved = await api.patch(f"{PODS}/p", {"spec": {"nodeName": "n2"}})
    assert moved.status == 422
    assert moved.message.startswith('Pod "p" is invalid: spec: Forbidden: pod updates may not change fields other than')


async def test_a_workloads_selector_must_choose_its_pods_and_stay(api: Api) -> None:
    wrong = deployment()
    wrong["spec"]["selector"]["matchLabels"] = {"app": "other"}
    refused = await api.post(DEPLOYMENTS, wrong)
    assert refused.message == (
        'Deployment.apps "web" is invalid: spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does '
        "not match template `labels`"
    )

    (await api.post(DEPLOYMENTS, deployment())).ok()
    changed = await api.patch(f"{DEPLOYMENTS}/web", {"spec": {"selector": {"matchLabels": {"tier": "x"}}}})
    assert (
        'spec.selector: Invalid value: {"matchLabels":{"app":"web","tier":"x"}}: field is immutable' in changed.message
    )


class Denied(Exception):
    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message


async def test_admission_of_components_warns_and_refuses() -> None:
    def check(new: dict[str, Any], old: dict[str, Any] | None) -> list[str]:
        if new["data"].get("x") == "bad":
            raise Denied("data.x", "must not be bad; write good")
        return ["x is going away"] if "x" in new["data"] else []

    async with running_api(admission=[("v1", "ConfigMap", check)]) as api:
        warned = await api.post(CONFIGS, config(x="1"))
        refused = await api.patch(f"{CONFIGS}/a", {"data": {"x": "bad"}})

    assert warned.headers["warning"] == '299 - "x is going away"'
    assert refused.status == 422
    assert refused.message == 'ConfigMap "a" is invalid: data.x: must not be bad; write good'


async def test_bodies_beyond_the_limit_are_refused(api: Api) -> None:
    answer = await api.call("POST", CONFIGS, b"x" * (3 * 1024 * 1024 + 1))

    assert (answer.status, answer.message) == (413, "Request entity too large: limit is 3145728")


async def test_an_absurdly_deep_object_is_refused(api: Api) -> None:
    answer = await api.call("POST", CONFIGS, b'{"data":' + b"[" * 300 + b"]" * 300 + b"}")

    assert (answer.status, answer.message) == (400, "the object is nested more than 200 levels deep")


async def test_scale(api: Api) -> None:
    (await api.post(DEPLOYMENTS, deployment())).ok()

    scale = (await api.get(f"{DEPLOYMENTS}/web/scale")).ok()
    assert scale["kind"] == "Scale"
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"] == {"replicas": 0, "selector": "app=web"}

    assert (await api.patch(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 5}})).ok()["spec"]["replicas"] == 5
    assert (await api.get(f"{DEPLOYMENTS}/web")).body["spec"]["replicas"] == 5
    refused = await api.patch(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": -5}})
    assert refused.status == 422


async def test_events_are_one_thing_in_two_groups(api: Api) -> None:
    event = {
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started",
        "message": "up",
        "type": "Normal",
        "count": 2,
    }
    (await api.post("/api/v1/namespaces/default/events", event)).ok()

    new = (await api.get("/apis/events.k8s.io/v1/namespaces/default/events/e")).ok()

    assert (new["apiVersion"], new["regarding"]["name"], new["note"]) == ("events.k8s.io/v1", "p", "up")
    assert new["deprecatedCount"] == 2
    selected = await api.get("/api/v1/events?fieldSelector=involvedObject.name=p,involvedObject.kind=Pod")
    assert [item["metadata"]["name"] for item in selected.ok()["items"]] == ["e"]


async def test_a_pod_says_how_long_it_outlasts_its_nodes_silence(api: Api) -> None:
    def pod(name: str, *tolerations: dict[str, Any]) -> dict[str, Any]:
        containers = [{"name": "c", "image": "web:1"}]
        return {"metadata": {"name": name}, "spec": {"containers": containers, "tolerations": list(tolerations)}}

    lost = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    both = [{"key": f"node.kubernetes.io/{state}", **lost} for state in ("not-ready", "unreachable")]
    own = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
    for name, given, wanted in (
        ("plain", [], both),
        ("own", [own], [own, both[1]]),
        ("everywhere", [{"operator": "Exists"}], [{"operator": "Exists"}]),
    ):
        made = (await api.post(PODS, pod(name, *given))).ok()
        assert made["spec"]["tolerations"] == wanted


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "much"}}}},
        ),
        ("/api/v1/namespaces/default/resourcequotas", {"spec": {"hard": {"pods": "much"}}}),
    ],
)
async def test_what_is_no_quantity_is_not_read(api: Api, path: str, body: dict[str, Any]) -> None:
    refused = await api.post(path, {"metadata": {"name": "a"}, **body})

    assert refused.status == 400
    assert "cannot be handled as a" in refused.message
    assert "quantities must match the regular expression" in refused.message
