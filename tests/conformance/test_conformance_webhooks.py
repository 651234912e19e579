"""Admission webhooks, called by the API server over HTTPS: what they are asked, and what they may do."""

from __future__ import annotations

from typing import Any

from webhook_cluster import GROUP, MERGE, RULE, Cluster, hook_of
from webhook_server import WebhookServer, allowed, denied, patched

# What they are asked


def test_a_webhook_is_told_of_every_write(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("validating", hook_of("v.all"))

    cluster.make("one", "?fieldManager=me&fieldValidation=Strict")
    patch = {"data": {"z": "1"}}
    cluster.call("PATCH", f"{cluster.path}/one", patch, MERGE)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"q": "1"}}
    cluster.call("PATCH", f"{cluster.path}/one?fieldManager=it&dryRun=All", config, "application/apply-patch+yaml")
    cluster.call("DELETE", f"{cluster.path}/one?propagationPolicy=Background&gracePeriodSeconds=0")

    made, changed, applied, gone = hook.reviews
    assert made["uid"] != changed["uid"]
    assert made["kind"] == made["requestKind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert made["resource"] == made["requestResource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert (made["name"], made["namespace"], made["operation"]) == ("one", cluster.namespace, "CREATE")
    assert made["oldObject"] is None
    assert made["dryRun"] is False
    meta = made["object"]["metadata"]
    assert meta["uid"]
    assert meta["creationTimestamp"]
    assert "resourceVersion" not in meta
    assert made["options"] == {
        "kind": "CreateOptions",
        "apiVersion": "meta.k8s.io/v1",
        "fieldManager": "me",
        "fieldValidation": "Strict",
    }
    assert "system:masters" in made["userInfo"]["groups"]
    assert changed["operation"] == applied["operation"] == "UPDATE"
    assert changed["object"]["data"] == {"a": "b", "z": "1"}
    assert changed["oldObject"]["data"] == {"a": "b"}
    assert changed["object"]["metadata"]["resourceVersion"] == changed["oldObject"]["metadata"]["resourceVersion"]
    assert applied["dryRun"] is True
    assert applied["object"]["data"] == {"a": "b", "z": "1", "q": "1"}
    assert applied["options"]["kind"] == "UpdateOptions"
    assert applied["options"]["dryRun"] == ["All"]
    assert gone["operation"] == "DELETE"
    assert gone["object"] is None
    assert gone["oldObject"]["data"]["z"] == "1"
    assert gone["options"]["propagationPolicy"] == "Background"
    assert set(hook.paths) == {"/call?timeout=10s"}
    assert hook.connections == 1, "the connection was not reused"


def test_each_object_of_a_collection_is_asked_about(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.make("one", metadata={"name": "one", "labels": {"of": "test"}})
    cluster.make("two", metadata={"name": "two", "labels": {"of": "test"}})
    cluster.configure("validating", hook_of("v.all"))

    cluster.call("DELETE", cluster.path)

    deleted = [review for review in hook.reviews if review["oldObject"]["metadata"].get("labels")]
    assert [review["oldObject"]["metadata"]["name"] for review in deleted] == ["one", "two"]
    assert all("name" not in review for review in deleted)


def test_rules_name_operations_and_subresources(cluster: Cluster, hook: WebhookServer) -> None:
    rule = {"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"]}
    connect = {"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/exec"]}
    evict = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/eviction"]}
    cluster.configure(
        "validating",
        hook_of("v.scale", rules=[{**rule, "resources": ["deployments/scale"]}]),
        hook_of("v.status", rules=[{**rule, "resources": ["*/status"]}]),
        hook_of("v.exec", rules=[connect, evict]),
        hook_of("v.nothing", rules=[{**rule, "resources": ["deployments/scale"], "scope": "Cluster"}]),
    )
    labels = {"app": "x"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments"
    cluster.call("POST", path, {"metadata": {"name": "d"}, "spec": spec})
    cluster.call("PATCH", f"{path}/d/scale", {"spec": {"replicas": 0}}, MERGE)
    cluster.call("PATCH", f"{path}/d/status", {"status": {"observedGeneration": 1}}, MERGE)
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "none", **template["spec"]}}
    pods = f"/api/v1/namespaces/{cluster.namespace}/pods"
    pod["spec"]["automountServiceAccountToken"] = False
    cluster.call("POST", pods, pod)
    hook.decide = lambda request: denied("no way in")

    into = cluster.refusal("POST", f"{pods}/p/exec?command=ls&container=c&stdout=true")
    evicted = cluster.refusal("POST", f"{pods}/p/eviction", {"metadata": {"name": "p"}})

    scale, status, entered, eviction = hook.reviews
    assert scale["kind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert scale["subResource"] == scale["requestSubResource"] == "scale"
    assert scale["object"]["kind"] == "Scale"
    assert scale["oldObject"]["spec"] in ({}, {"replicas": 0})
    assert status["subResource"] == "status"
    assert status["object"]["status"]["observedGeneration"] == 1
    assert entered["operation"] == "CONNECT"
    assert entered["kind"]["kind"] == "PodExecOptions"
    assert entered["object"]["command"] == ["ls"]
    assert entered["object"]["stdout"] is True
    assert entered["oldObject"] is None
    assert entered["options"] is None
    assert into["message"] == 'admission webhook "v.exec.example.com" denied the request: no way in'
    assert eviction["kind"] == {"group": "policy", "version": "v1", "kind": "Eviction"}
    assert evicted["code"] == 400
    cluster.call("DELETE", f"{pods}/p?gracePeriodSeconds=0")


def test_selectors_choose_objects_before_and_after_a_change(cluster: Cluster, hook: WebhookServer) -> None:
    chosen = {"matchExpressions": [{"key": "guarded", "operator": "In", "values": ["yes"]}]}
    cluster.configure("validating", hook_of("v.some", objectSelector=chosen))

    cluster.make("plain")
    cluster.make("guarded", metadata={"name": "guarded", "labels": {"guarded": "yes"}})
    cluster.call("PATCH", f"{cluster.path}/plain", {"metadata": {"labels": {"guarded": "no"}}}, MERGE)
    cluster.call("PATCH", f"{cluster.path}/guarded", {"metadata": {"labels": {"guarded": "no"}}}, MERGE)
    cluster.call("DELETE", f"{cluster.path}/guarded")

    assert [(r["operation"], r["name"]) for r in hook.reviews] == [("CREATE", "guarded"), ("UPDATE", "guarded")]


def conditions(*expressions: str) -> list[dict[str, str]]:
    return [{"name": f"c{index}", "expression": text} for index, text in enumerate(expressions)]


def test_conditions_choose_requests(cluster: Cluster, hook: WebhookServer) -> None:
    of_request = (
        f"request.operation == 'CREATE' && request.namespace == '{cluster.namespace}' && request.name.startsWith('a')",
        "request.kind.kind == 'ConfigMap' && request.requestResource.resource == 'configmaps'",
        "'system:masters' in request.userInfo.groups && !request.dryRun && request.options.kind == 'CreateOptions'",
        "!has(request.subResource) || request.subResource == ''",
    )
    cluster.configure(
        "mutating",
        hook_of("v.one", matchConditions=conditions(*of_request, "object.data.a == 'b' && oldObject == null")),
        hook_of("v.gone", matchConditions=conditions("object == null", "oldObject.data.size() == 1")),
    )

    cluster.make("a")
    cluster.make("b")
    cluster.make("a", "?dryRun=All", metadata={"generateName": "a"})
    cluster.call("DELETE", f"{cluster.path}/a")

    assert [(review["operation"], review["name"]) for review in hook.reviews] == [("CREATE", "a"), ("DELETE", "a")]


def test_a_condition_without_a_value_is_a_failure_unless_another_is_false(
    cluster: Cluster, hook: WebhookServer
) -> None:
    cluster.configure(
        "validating",
        hook_of("v.ignored", matchConditions=conditions("object.data.x == 'b'"), failurePolicy="Ignore"),
        hook_of("v.false", matchConditions=conditions("object.data.x == 'b'", "false")),
        hook_of("v.fail", matchConditions=conditions("true", "object.data.y == 'b'", "object.data.z == 'b'")),
    )

    both = cluster.refused(data={"x": "b"})
    one = cluster.refused(data={"x": "b", "y": "b"})
    cluster.make(data={"y": "b", "z": "b"})

    text = "expression 'object.data.{0} == 'b'' resulted in error: no such key: {0}"
    start = 'configmaps "refused" is forbidden: '
    assert both["message"] == f"{start}[{text.format('y')}, {text.format('z')}]"
    assert one["message"] == start + text.format("z")
    assert (one["code"], one["reason"]) == (403, "Forbidden")
    assert [review["object"]["data"] for review in hook.reviews] == [{"y": "b", "z": "b"}]


def test_conditions_that_cost_too_much_are_a_failure(cluster: Cluster) -> None:
    loops = "object.data.a.split('').all(x, object.data.a.split('').all(y, y == x))"
    cluster.configure("validating", hook_of("v.once", matchConditions=conditions(*[loops] * 3)))

    costly = cluster.refused(data={"a": "b" * 2000})
    cheap = cluster.make(data={"a": "bb"})

    out = "validation failed due to running out of cost budget, no further validation rules will be run"
    assert costly["message"] == f'configmaps "refused" is forbidden: {out}'
    assert cheap["data"] == {"a": "bb"}


def test_an_equivalent_version_is_asked_about_in_the_version_of_the_rule(cluster: Cluster, hook: WebhookServer) -> None:
    rule = {"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"]}
    rule["resources"] = ["horizontalpodautoscalers"]
    cluster.configure(
        "validating", hook_of("v.same", rules=[rule]), hook_of("v.exact", rules=[rule], matchPolicy="Exact")
    )
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    path = f"/apis/autoscaling/v2/namespaces/{cluster.namespace}/horizontalpodautoscalers"

    cluster.call("POST", path, {"metadata": {"name": "h"}, "spec": {"maxReplicas": 2, "scaleTargetRef": target}})

    [review] = hook.reviews
    assert review["kind"]["version"] == review["resource"]["version"] == "v1"
    assert review["requestKind"]["version"] == review["requestResource"]["version"] == "v2"
    assert review["object"]["apiVersion"] == "autoscaling/v1"


def test_nobody_is_asked_about_webhook_configurations(cluster: Cluster, hook: WebhookServer) -> None:
    rule = {**RULE, "apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"]}
    path = cluster.configure("validating", hook_of("v.all", rules=[rule]))
    hook.decide = lambda request: denied()

    cluster.call("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, MERGE)

    assert hook.reviews == []


# What they may say


REFUSALS: list[tuple[Any, int, str | None, str]] = [
    (denied(), 400, None, "denied the request without explanation"),
    (denied("no way"), 400, None, "denied the request: no way"),
    (denied("no", 409), 409, None, "denied the request: no"),
    (denied(reason="Conflict"), 400, "Conflict", "denied the request: Conflict"),
    (denied("x", 200), 400, None, "denied the request: x"),
    ({}, 400, None, "denied the request without explanation"),
]


def test_a_refusal_is_told_in_these_words(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("validating", hook_of("v.all"))
    for answer, code, reason, message in REFUSALS:
        hook.decide = lambda request, answer=answer: answer

        status = cluster.refused()

        assert (status["code"], status.get("reason")) == (code, reason)
        assert status["message"] == f'admission webhook "v.all.example.com" {message}'


def test_details_and_warnings_reach_the_client(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("validating", hook_of("v.all"))
    cause = {"field": "data", "message": "m", "reason": "FieldValueInvalid"}
    hook.decide = lambda request: denied("x", 422, reason="Invalid", details={"causes": [cause]})
    assert cluster.refused()["details"]["causes"] == [cause]

    hook.decide = lambda request: allowed(warnings=["mind the gap"], auditAnnotations={"why": "because"})
    _, headers = cluster.answer("POST", cluster.path, {"metadata": {"name": "warned"}})

    assert headers["warning"] == '299 - "mind the gap"'


def test_a_patch_is_completed_by_defaults_and_owned_by_nobody(cluster: Cluster, hook: WebhookServer) -> None:
    pods = {**RULE, "apiGroups": [""], "resources": ["pods"], "operations": ["CREATE"]}
    cluster.configure("mutating", hook_of("m.pods", rules=[pods]))
    sidecar = {"name": "sidecar", "image": "sidecar:1"}
    hook.decide = lambda request: patched(
        {"op": "add", "path": "/spec/containers/-", "value": sidecar},
        {"op": "add", "path": "/metadata/labels", "value": {"injected": "yes"}},
    )
    spec = {"containers": [{"name": "c", "image": "i:1"}], "automountServiceAccountToken": False}

    made = cluster.call(
        "POST", f"/api/v1/namespaces/{cluster.namespace}/pods", {"metadata": {"generateName": "p-"}, "spec": spec}
    )

    [review] = hook.reviews
    assert "name" not in review
    assert "uid" not in review["object"]["metadata"]
    assert review["object"]["spec"]["restartPolicy"] == "Always"
    added = made["spec"]["containers"][1]
    assert (added["imagePullPolicy"], added["terminationMessagePath"]) == ("IfNotPresent", "/dev/termination-log")
    assert made["metadata"]["labels"] == {"injected": "yes"}
    assert made["metadata"]["name"].startswith("p-")
    owned = str(made["metadata"]["managedFields"])
    assert "sidecar" not in owned
    assert "injected" not in owned
    assert '{"name":"c"}' in owned


def test_mutating_webhooks_come_in_the_order_of_names_and_see_each_other(cluster: Cluster, hook: WebhookServer) -> None:
    def decide(request: dict[str, Any]) -> Any:
        data = request["object"]["data"]
        return patched({"op": "add", "path": f"/data/k{len(data)}", "value": "v"}) if len(data) < 4 else allowed()

    cluster.configure("mutating", hook_of("m.two"), name=f"b-{cluster.namespace}")
    cluster.configure("mutating", hook_of("m.one"), hook_of("m.and"), name=f"a-{cluster.namespace}")
    hook.decide = decide

    made = cluster.make()

    assert made["data"] == {"a": "b", "k1": "v", "k2": "v", "k3": "v"}
    assert [len(review["object"]["data"]) for review in hook.reviews] == [1, 2, 3]


def test_a_webhook_that_wants_to_sees_what_came_after_it(cluster: Cluster, hook: WebhookServer) -> None:
    again = {"url": f"{hook.url}/again", "caBundle": hook.ca_bundle}
    cluster.configure(
        "mutating", hook_of("m.again", clientConfig=again, reinvocationPolicy="IfNeeded"), hook_of("m.late")
    )

    def decide(request: dict[str, Any]) -> Any:
        if hook.paths[-1].startswith("/again"):
            return allowed()
        return patched({"op": "add", "path": "/data/late", "value": "yes"})

    hook.decide = decide
    cluster.make()

    assert [path.partition("?")[0] for path in hook.paths] == ["/again", "/call", "/again"]
    assert hook.reviews[-1]["object"]["data"] == {"a": "b", "late": "yes"}


def test_what_webhooks_leave_is_validated(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("mutating", hook_of("m.all"))
    cluster.configure("validating", hook_of("v.all", clientConfig={"url": "https://127.0.0.1:1"}))

    hook.decide = lambda request: patched({"op": "add", "path": "/metadata/labels", "value": {"a b": "c"}})
    status = cluster.refused()

    assert (status["code"], status["reason"]) == (422, "Invalid"), status
    assert status["message"].startswith(
        'ConfigMap "refused" is invalid: metadata.labels: Invalid value: "a b": name part'
    )


def test_a_patch_that_cannot_be_applied_is_an_error(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("mutating", hook_of("m.all", failurePolicy="Ignore"))
    for operation in (
        {"op": "add", "path": "/data", "value": "text"},
        {"op": "remove", "path": "/nope"},
        {"op": "test", "path": "/data/a", "value": "other"},
        {"op": "fly", "path": "/data/a"},
        {"op": "replace", "path": "/kind", "value": "Secret"},
    ):
        hook.decide = lambda request, operation=operation: patched(operation)

        status = cluster.refused()

        assert (status["code"], status["reason"]) == (500, "InternalError"), operation
        assert status["message"].startswith("Internal error occurred: ")


def test_a_patch_may_not_move_an_object_or_touch_what_is_the_servers(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("mutating", hook_of("m.all"))
    hook.decide = lambda request: patched(
        {"op": "add", "path": "/metadata/uid", "value": "mine"}, {"op": "add", "path": "/nonsense", "value": 1}
    )
    made = cluster.make()
    assert made["metadata"]["uid"] != "mine"
    assert "nonsense" not in made

    hook.decide = lambda request: patched({"op": "replace", "path": "/metadata/namespace", "value": "default"})
    status = cluster.refused()

    assert status["code"] == 400
    assert "the namespace of the provided object does not match the namespace sent on the request" in status["message"]


def test_a_deletion_is_not_changed(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.make("kept")
    cluster.configure("mutating", hook_of("m.all"))
    hook.decide = lambda request: patched({"op": "add", "path": "/data/x", "value": "y"})

    status = cluster.refusal("DELETE", f"{cluster.path}/kept")

    assert status["code"] == 500
    assert "attempted to modify the object, which is not supported for this operation" in status["message"]


# The configurations themselves


def test_a_configuration_is_completed_and_counts_its_changes(cluster: Cluster) -> None:
    body = {
        "metadata": {"name": f"plain-{cluster.namespace}"},
        "webhooks": [
            {
                "name": "a.b.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "clientConfig": {"service": {"name": "s", "namespace": "nowhere"}},
                "rules": [{**RULE, "apiGroups": ["nothing.example.com"]}],
            }
        ],
    }
    for kind in ("mutating", "validating"):
        path = f"{GROUP}/{kind}webhookconfigurations"
        made = cluster.call("POST", path, body)
        cluster.removes(f"{path}/{made['metadata']['name']}")
        [hook] = made["webhooks"]
        assert hook["failurePolicy"] == "Fail"
        assert hook["matchPolicy"] == "Equivalent"
        assert hook["timeoutSeconds"] == 10
        assert hook["namespaceSelector"] == hook["objectSelector"] == {}
        assert hook["clientConfig"]["service"]["port"] == 443
        assert hook["rules"][0]["scope"] == "*"
        assert hook.get("reinvocationPolicy") == ("Never" if kind == "mutating" else None)
        assert made["metadata"]["generation"] == 1
        change = [{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 3}]
        changed = cluster.call("PATCH", f"{path}/{made['metadata']['name']}", change, "application/json-patch+json")
        assert changed["metadata"]["generation"] == 2


def test_bad_configurations_are_refused(cluster: Cluster) -> None:
    good = {
        "name": "a.b.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [RULE],
    }

    def causes(*hooks: dict[str, Any]) -> list[tuple[str, str]]:
        body = {"metadata": {"name": "bad"}, "webhooks": list(hooks)}
        status = cluster.refusal("POST", f"{GROUP}/validatingwebhookconfigurations", body)
        assert status["code"] == 422, status
        return [(cause["field"], cause["message"]) for cause in status["details"]["causes"]]

    at = "webhooks[0]"
    too_short = 'Invalid value: "short": should be a domain with at least three segments separated by dots'
    assert causes({**good, "name": "short"}) == [(f"{at}.name", too_short)]
    assert causes(good, good) == [("webhooks[1].name", 'Duplicate value: "a.b.example.com"')]
    side_effects = [(f"{at}.sideEffects", 'Unsupported value: "Some": supported values: "None", "NoneOnDryRun"')]
    assert causes({**good, "sideEffects": "Some"}) == side_effects
    wrong = "Invalid value: 31: the timeout value must be between 1 and 30 seconds"
    assert causes({**good, "timeoutSeconds": 31}) == [(f"{at}.timeoutSeconds", wrong)]
    both = {"url": "https://x", "service": {"name": "s", "namespace": "n"}}
    exactly = (f"{at}.clientConfig", "Required value: exactly one of url or service is required")
    assert causes({**good, "clientConfig": both}) == [exactly]
    assert causes({**good, "clientConfig": {"url": "http://u:p@x/?q#f"}}) == [
        (
            f"{at}.clientConfig.url",
            "Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (f"{at}.clientConfig.url", 'Invalid value: "u:p": user information is not permitted in the URL'),
        (f"{at}.clientConfig.url", 'Invalid value: "f": fragments are not permitted in the URL'),
        (f"{at}.clientConfig.url", 'Invalid value: "q": query parameters are not permitted in the URL'),
    ]
    bad_rule = {"operations": ["FLY", "*"], "apiGroups": [], "apiVersions": ["*", "v1"], "resources": ["a/*", "a/b"]}
    found = causes({**good, "rules": [bad_rule]})
    assert [field for field, _ in found] == [
        f"{at}.rules[0].operations",
        f"{at}.rules[0].operations[0]",
        f"{at}.rules[0].apiGroups",
        f"{at}.rules[0].apiVersions",
        f"{at}.rules[0].resources[1]",
    ]
    versions = 'Invalid value: ["v2"]: must include at least one of v1, v1beta1'
    assert causes({**good, "admissionReviewVersions": ["v2"]}) == [(f"{at}.admissionReviewVersions", versions)]


def test_bad_conditions_are_refused(cluster: Cluster) -> None:
    def causes(*found: dict[str, str]) -> list[tuple[str, str]]:
        hook = {
            "name": "a.b.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "matchConditions": list(found),
        }
        body = {"metadata": {"name": "bad"}, "webhooks": [hook]}
        status = cluster.refusal("POST", f"{GROUP}/mutatingwebhookconfigurations", body)
        assert status["code"] == 422, status
        at = "webhooks[0].matchConditions"
        return [(cause["field"].removeprefix(at), cause["message"]) for cause in status["details"]["causes"]]

    assert causes({"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}) == [
        ("[1].name", 'Duplicate value: "a"')
    ]
    assert causes({"name": "", "expression": " "}) == [
        ("[0].expression", "Required value"),
        ("[0].name", "Required value"),
    ]
    assert causes(*conditions(*["true"] * 65)) == [("", "Too many: 65: must have at most 64 items")]
    assert causes(*conditions("object.x")) == [
        ("[0].expression", 'Invalid value: "object.x": must evaluate to bool but got dyn')
    ]
    [(field, message)] = causes(*conditions("request.uid == 'x'"))
    assert field == "[0].expression"
    assert message == (
        "Invalid value: \"request.uid == 'x'\": compilation failed: ERROR: <input>:1:8: undefined field 'uid'\n"
        " | request.uid == 'x'\n | .......^"
    )
    [(field, message)] = causes(*conditions("params.x == 'x'"))
    assert message.startswith(
        "Invalid value: \"params.x == 'x'\": compilation failed: ERROR: <input>:1:1: "
        "undeclared reference to 'params' (in container '')"
    )
    [(field, message)] = causes({"name": "no name", "expression": "true"})
    assert field == "[0].name"
