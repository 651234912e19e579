"""As `test_server_fuzz.py`: objects of every built-in kind with odd contents, as JSON, protobuf and status; pieces of lists, watches,
subresources and reviews; expressions in rules; what webhooks answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from api_in_process import APPLY, JSON_TYPE
from fuzz_world import EXAMPLES, EXAMPLES_LONG, PARTIAL, PROTOBUF, TABLE, Property, World, search
from hostile import JSON, SAMPLES, VALUES, WORDS, mutated
from protobuf_writer import encoded, torn
from trimtab.server.kinds import Kind
from typed_objects import KINDS, objects_of
from webhook_server import Raw, WebhookServer

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
PODS, POD = next(sample for sample in SAMPLES if sample[0].endswith("/pods"))
DEPLOYMENTS, DEPLOYMENT = next(sample for sample in SAMPLES if sample[0].endswith("/deployments"))
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/fuzz.example/v1/namespaces/default/things"


def _collection(kind: Kind) -> str:
    root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
    return f"{root}/namespaces/default/{kind.plural}" if kind.namespaced else f"{root}/{kind.plural}"


# Every kind


def of_every_kind(world: World, case: tuple[tuple[Kind, JSON], str]) -> None:
    (kind, obj), query = case
    collection = _collection(kind)
    answer = world.call("POST", collection + query, obj)
    if answer.status == 201 and kind.status and not world.wrote_nothing:
        world.call("PUT", f"{collection}/fuzz/status", obj)
        world.call("PATCH", f"{collection}/fuzz/status?fieldManager=f&force=true", obj, APPLY)
        world.wrote_nothing = False
    world.created(collection, answer)


def of_every_kind_from_protobuf(world: World, case: tuple[tuple[Kind, JSON], list[tuple[int, int]]]) -> None:
    (kind, obj), tears = case
    try:
        body = encoded(obj)
    except (ValueError, KeyError):  # text that is to be base64, and is not; a message that only a later Kubernetes has
        return
    world.created(_collection(kind), world.call("POST", _collection(kind), torn(body, tears), PROTOBUF))


# Lists in pieces, watches


def paged(world: World, case: tuple[list[tuple[int, int]], JSON, int, str]) -> None:
    tears, changes, limit, accept = case
    for number in range(4):
        world.call("POST", CONFIGMAPS, {"metadata": {"name": f"c{number}"}})
    first = world.call("GET", f"{CONFIGMAPS}?limit=2").ok()
    token = first["metadata"]["continue"]
    plain = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    tokens = [
        torn(token.encode(), tears).decode("latin-1"),
        base64.urlsafe_b64encode(torn(json.dumps(plain).encode(), tears)).decode(),
        base64.urlsafe_b64encode(json.dumps({**plain, **changes}).encode()).decode(),
    ]
    for one in tokens:
        world.call("GET", f"{CONFIGMAPS}?limit={limit}&continue={quote(one)}", accept=accept)


def watched(world: World, case: tuple[dict[str, str], str]) -> None:
    query, accept = case
    text = "&".join(f"{quote(key)}={quote(value)}" for key, value in query.items())
    world.call("POST", CONFIGMAPS, {"metadata": {"name": "seen"}})
    for event in world.watched(f"{CONFIGMAPS}?watch=1&{text}", accept=accept):
        assert event["type"] in ("ADDED", "BOOKMARK", "ERROR"), event
        assert event["type"] != "ERROR" or event["object"]["kind"] == "Status"


WATCH_QUERY = st.fixed_dictionaries(
    {"timeoutSeconds": st.sampled_from(["0", "1", "-1", "x", "1.5", "99999999999999999999", ""])},
    optional={
        "resourceVersion": st.one_of(st.sampled_from(["", "0", "1", "5", "-1", "99999999", "9" * 30, "x"]), WORDS),
        "resourceVersionMatch": st.sampled_from(["", "NotOlderThan", "Exact", "x"]),
        "sendInitialEvents": st.sampled_from(["true", "false", "", "1", "x", "True"]),
        "allowWatchBookmarks": st.sampled_from(["true", "false", "", "x"]),
        "labelSelector": st.one_of(st.text(st.sampled_from("ab=!,() intno"), max_size=12), WORDS),
        "fieldSelector": st.one_of(st.sampled_from(["metadata.name=seen", "metadata.name!=seen", "a=b", "metadata.namespace=x"]), WORDS),
        "limit": st.sampled_from(["1", "0", "x"]),
        "continue": WORDS,
        "includeObject": st.sampled_from(["None", "Object", "Metadata", "x"]),
    },
)  # fmt: skip
FORMS = st.sampled_from([JSON_TYPE, TABLE, PARTIAL])

# What is answered and not stored

BODIES: list[tuple[str, JSON]] = [
    (f"{PODS}/fuzz/binding", {"kind": "Binding", "target": {"kind": "Node", "name": "n"}}),
    (f"{PODS}/fuzz/eviction", {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "fuzz"},
                               "deleteOptions": {"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "dryRun": ["All"]}}),
    ("/api/v1/namespaces/default/serviceaccounts/default/token",
     {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
      "spec": {"audiences": ["a"], "expirationSeconds": 600, "boundObjectRef": {"kind": "Pod", "name": "fuzz", "uid": "u"}}}),
    ("/apis/authorization.k8s.io/v1/subjectaccessreviews",
     {"spec": {"user": "u", "groups": ["g"], "extra": {"a": ["b"]}, "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "n"}}}),
    ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": {"nonResourceAttributes": {"verb": "get", "path": "/x"}}}),
    ("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "default"}}),
    ("/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews",
     {"spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}}),
    ("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "t", "audiences": ["a"]}}),
    ("/apis/authentication.k8s.io/v1/selfsubjectreviews", {"metadata": {}}),
]  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, Any]:
    path, body = draw(st.sampled_from(BODIES))
    return path, draw(st.one_of(mutated(body), mutated(body), VALUES))


def answered(world: World, case: tuple[str, Any]) -> None:
    path, body = case
    if path.startswith(PODS):
        world.call("POST", PODS, {**POD, "metadata": {"name": "fuzz"}})
    world.call("POST", path, body)
    world.remove(f"{PODS}/fuzz")


SCALE: JSON = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "fuzz"}, "spec": {"replicas": 2}}
OPTIONS: JSON = {
    "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Orphan", "orphanDependents": None,
    "dryRun": ["All"], "preconditions": {"uid": "u", "resourceVersion": "1"},
}  # fmt: skip


def scaled_and_deleted(world: World, case: tuple[Any, Any, str]) -> None:
    scale, options, content_type = case
    world.call("POST", DEPLOYMENTS, {**DEPLOYMENT, "metadata": {"name": "fuzz"}})
    if content_type:
        world.call("PATCH", f"{DEPLOYMENTS}/fuzz/scale?fieldManager=f", scale, content_type)
    else:
        world.call("PUT", f"{DEPLOYMENTS}/fuzz/scale", scale)
    world.call("DELETE", f"{DEPLOYMENTS}/fuzz", options)
    world.call("DELETE", DEPLOYMENTS, options)
    world.remove(f"{DEPLOYMENTS}/fuzz")


# Rules of custom kinds

TOKENS = (
    "self", "oldSelf", "self.n", "self.s", "self.items", "self.m", "self.t", "self.x", "e", "k", "1", "2u", "-1", "1.5", "0", "9223372036854775807", "''", "'a'",
    "b'a'", "r'['", "true", "null", "[]", "[1, 2]", "{}", "{'a': 1}", "size(self.s)", "has(self.s)", "has(self)", "duration('1s')", "duration('x')",
    "timestamp('2026-01-01T00:00:00Z')", "quantity('1Gi')", "quantity('x')", "url('https://a/b')", "ip('10.0.0.1')", "cidr('10.0.0.0/8')",
    "int('x')", "uint(-1)", "double('nan')", "string(self.n)", "bytes(self.s)", "type(self)", "dyn(self)", "optional.none()", "optional.of(1)", "self.?s",
)  # fmt: skip
CALLS = (
    ".matches('^a+$')", ".matches('[')", ".find('a')", ".findAll('a', 2)", ".replace('', 'x')", ".split('')", ".join('-')", ".substring(1, 0)",
    ".charAt(9)", ".indexOf('a', -1)", ".lowerAscii()", ".format([1])", ".all(e, e.k != '')", ".exists(e, true)", ".exists_one(e, e == e)", ".map(e, e)",
    ".filter(e, true)", ".map(e, true, e)", ".sum()", ".min()", ".max()", ".isSorted()", ".getYear('x')", ".getHours()", ".orValue(1)", ".value()", "[0]",
    "[-1]", "['a']", "[?0]", ".size()", ".k", ".startsWith('')", ".contains('')", ".isGreaterThan(quantity('1'))", ".asInteger()", ".flatten()", ".reverse()",
)  # fmt: skip
OPERATORS = (
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " == ",
    " != ",
    " < ",
    " >= ",
    " && ",
    " || ",
    " in ",
    " ? ",
    " : ",
    ", ",
)


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """An expression that is nearly one."""
    text = draw(st.sampled_from(TOKENS))
    for _ in range(draw(st.integers(0, 5))):
        match draw(st.integers(0, 5)):
            case 0 | 1:
                text += draw(st.sampled_from(CALLS))
            case 2 | 3:
                text += draw(st.sampled_from(OPERATORS)) + draw(st.sampled_from(TOKENS))
            case 4:
                text = f"({text})" if draw(st.booleans()) else f"!({text})"
            case _:
                text = f"{text} == {text}" if draw(st.booleans()) else f"{text} ? {text} : {text}"
    return draw(st.one_of(st.just(text), st.just(text), st.just(f"({text}) == ({text})"), st.text(max_size=20)))


RULE_SCHEMA: JSON = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "s": {"type": "string", "maxLength": 20},
        "t": {"type": "string", "format": "date-time"},
        "x": {"x-kubernetes-int-or-string": True},
        "m": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "string", "maxLength": 5}},
        "items": {
            "type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "maxLength": 5}, "v": {"type": "number"}}},
        },
    },
}  # fmt: skip
OBJECT: JSON = {
    "n": 3, "s": "aab", "t": "2026-01-01T00:00:00Z", "x": "50%", "m": {"a": "b", "": "é"}, "items": [{"k": "a", "v": 1.5}, {"k": "b"}]
}  # fmt: skip


def ruled(world: World, case: tuple[str, JSON, Any]) -> None:
    """A definition with a rule, and an object of it that is made and changed."""
    expression, more, spec = case
    schema = {**RULE_SCHEMA, "x-kubernetes-validations": [{"rule": expression, **more}]}
    root = {"type": "object", "properties": {"spec": schema}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": root}}
    names = {"plural": "things", "kind": "Thing", "singular": "thing"}
    definition = {"group": "fuzz.example", "scope": "Namespaced", "names": names, "versions": [version]}
    answer = world.call("POST", CRDS, {"metadata": {"name": "things.fuzz.example"}, "spec": definition})
    if answer.status != 201:
        return
    thing = {"apiVersion": "fuzz.example/v1", "kind": "Thing", "metadata": {"name": "fuzz"}}
    for obj in (OBJECT, spec):
        made = world.call("POST", THINGS, {**thing, "spec": obj})
        if made.status == 201:
            world.call("PUT", f"{THINGS}/fuzz", {**thing, "spec": {**OBJECT, "n": 4}})
            world.remove(f"{THINGS}/fuzz")
    world.remove(f"{CRDS}/things.fuzz.example")


RULE_MORE = st.one_of(
    st.just({}),
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "message": st.one_of(WORDS, VALUES),
            "messageExpression": expressions(),
            "reason": st.one_of(st.sampled_from(["FieldValueRequired", "FieldValueForbidden"]), WORDS),
            "fieldPath": st.one_of(st.sampled_from([".n", ".items[0]", ".m['a']", "['s']", ".x.y"]), WORDS),
            "optionalOldSelf": st.one_of(st.booleans(), VALUES),
        },
    ),
)

# What webhooks answer

REVIEW: JSON = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "response": {
        "uid": "UID",
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": "PATCH",
        "warnings": ["w"],
        "auditAnnotations": {"a": "b"},
        "status": {"code": 403, "message": "m", "reason": "r", "details": {"causes": []}},
    },
}
TARGETS = [(CONFIGMAPS, {"data": {"a": "b"}}), (DEPLOYMENTS, DEPLOYMENT), (PODS, POD)]
PATCHES = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["add", "replace", "remove", "test", "x"]),
            "path": st.sampled_from(
                ["", "/metadata", "/metadata/labels", "/metadata/name", "/metadata/managedFields", "/spec", "/spec/template", "/data", "/kind",
                 "/spec/containers", "/spec/containers/0", "/spec/containers/-", "/metadata/finalizers", "/metadata/ownerReferences"]
            ),
        },
        optional={"value": VALUES},
    ),
    max_size=3,
)  # fmt: skip


@st.composite
def reviews(draw: st.DrawFn) -> tuple[Any, Any, bytes | None]:
    review = draw(mutated(REVIEW, 2))
    return (
        review,
        draw(st.one_of(PATCHES, PATCHES, VALUES)),
        draw(st.sampled_from([None] * 6 + [b"", b"[]", b"{", b"\xff", b"null"])),
    )


class Webhooks:
    """A webhook that answers what the search says, and asks about everything."""

    def __init__(self, folder: Path) -> None:
        self.server = WebhookServer(folder)

    def configure(self, world: World) -> None:
        client = {"url": f"{self.server.url}/call", "caBundle": self.server.ca_bundle}
        rule = {
            "apiGroups": ["*"],
            "apiVersions": ["*"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["configmaps", "deployments", "pods", "*/scale"],
        }
        hook = {
            "name": "w.fuzz.example",
            "clientConfig": client,
            "rules": [rule],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        for kind in ("mutating", "validating"):
            path = f"/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations"
            world.call("POST", path, {"metadata": {"name": "fuzz"}, "webhooks": [hook]}).ok()

    def judged(self, world: World, case: tuple[tuple[str, JSON], tuple[Any, Any, bytes | None]]) -> None:
        (collection, obj), (review, patch, raw) = case
        encoded_patch = base64.b64encode(json.dumps(patch).encode()).decode()

        def decide(request: JSON) -> Raw:
            text = json.dumps(review).replace('"UID"', json.dumps(request["uid"])).replace("PATCH", encoded_patch)
            return Raw(body=text.encode() if raw is None else raw)

        self.server.decide = decide
        world.call("POST", collection, {**obj, "metadata": {"name": "fuzz"}})
        if collection == DEPLOYMENTS:
            world.call("PUT", f"{collection}/fuzz/scale", SCALE)
        self.server.decide = lambda request: {"allowed": True}
        world.remove(f"{collection}/fuzz")


PROPERTIES: dict[str, tuple[st.SearchStrategy[Any], Property]] = {
    "of every kind": (st.tuples(objects_of(*KINDS), st.sampled_from(["", "?fieldValidation=Strict", "?dryRun=All"])), of_every_kind),
    "of every kind from protobuf": (
        st.tuples(objects_of(*KINDS), st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 255)), max_size=3)),
        of_every_kind_from_protobuf,
    ),
    "paged": (
        st.tuples(
            st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3),
            st.fixed_dictionaries({}, optional={"rv": VALUES, "start": st.one_of(WORDS, VALUES), "v": VALUES}),
            st.integers(0, 3),
            FORMS,
        ),
        paged,
    ),
    "watched": (st.tuples(WATCH_QUERY, FORMS), watched),
    "answered": (bodies(), answered),
    "scaled and deleted": (
        st.tuples(
            st.one_of(mutated(SCALE), VALUES),
            st.one_of(mutated(OPTIONS), VALUES),
            st.sampled_from(["", "", "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json", APPLY]),
        ),
        scaled_and_deleted,
    ),
    "ruled": (st.tuples(expressions(), RULE_MORE, mutated(OBJECT)), ruled),
}  # fmt: skip
JUDGED = st.tuples(st.sampled_from(TARGETS), reviews())


@pytest.fixture
def webhooks(tmp_path: Path, world: World) -> Iterator[Webhooks]:
    made = Webhooks(tmp_path)
    made.configure(world)
    yield made
    made.server.close()


@pytest.mark.parametrize("name", PROPERTIES)
def test_no_form_breaks_the_server(world: World, name: str) -> None:
    search(world, *PROPERTIES[name], EXAMPLES)


def test_no_answer_of_a_webhook_breaks_the_server(world: World, webhooks: Webhooks) -> None:
    search(world, JUDGED, webhooks.judged, EXAMPLES)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PROPERTIES)
def test_no_form_breaks_the_server_however_long_one_searches(world: World, name: str) -> None:
    search(world, *PROPERTIES[name], EXAMPLES_LONG)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_answer_of_a_webhook_breaks_the_server_however_long_one_searches(world: World, webhooks: Webhooks) -> None:
    search(world, JUDGED, webhooks.judged, EXAMPLES_LONG)
