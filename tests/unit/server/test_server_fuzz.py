"""Whatever a client sends: no crash, no 500, and a `Status` that names the fault; what was accepted can be read in every form.

A short search, always the same one, in each run; a hundred times longer and at random in `make test-long`. What was found once
stands in `test_server_hostile.py`.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from hypothesis import strategies as st

from api_in_process import APPLY, JSON_PATCH, JSON_TYPE, MERGE, STRATEGIC, Api
from fuzz_world import EXAMPLES, EXAMPLES_LONG, PARTIAL, PROTOBUF, TABLE, YAML, Property, World, search
from hostile import JSON, SAMPLES, VALUES, WORDS, mutated, objects, refused_well
from protobuf_writer import encoded, torn

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS, DEPLOYMENT = next(sample for sample in SAMPLES if sample[0].endswith("/deployments"))


def created(world: World, case: tuple[tuple[str, JSON], str]) -> None:
    (collection, obj), query = case
    world.created(collection, world.call("POST", collection + query, obj))


def created_from_yaml(world: World, case: tuple[tuple[str, JSON], str]) -> None:
    (collection, obj), query = case
    body = yaml.safe_dump(obj, allow_unicode=True).encode()
    world.created(collection, world.call("POST", collection + query, body, YAML))


def created_from_protobuf(world: World, case: tuple[tuple[str, JSON], list[tuple[int, int]]]) -> None:
    (collection, obj), tears = case
    body = torn(encoded(obj), tears)
    world.created(collection, world.call("POST", collection, body, PROTOBUF))


def created_from_bytes(world: World, case: tuple[bytes, str, str]) -> None:
    body, content_type, encoding = case
    named = {"content_encoding": encoding} if encoding else {}
    world.created(CONFIGMAPS, world.call("POST", CONFIGMAPS, body, content_type, **named))


def replaced(world: World, case: tuple[tuple[str, JSON], Any]) -> None:
    (collection, obj), way = case
    world.call("POST", collection, {**obj, "metadata": {"name": "fuzz"}})
    answer = world.call("PUT", f"{collection}/fuzz{way}", obj)
    world.created(collection, answer)
    world.remove(f"{collection}/fuzz")


def patched(world: World, case: tuple[Any, str, str]) -> None:
    patch, content_type, query = case
    whole = {"metadata": {"name": "fuzz"}, **DEPLOYMENT}
    world.call("POST", DEPLOYMENTS, whole).ok()
    world.created(DEPLOYMENTS, world.call("PATCH", f"{DEPLOYMENTS}/fuzz{query}", patch, content_type))
    world.remove(f"{DEPLOYMENTS}/fuzz")


def asked(world: World, case: tuple[str, str, dict[str, str]]) -> None:
    method, path, headers = case
    if "watch" in path and method == "GET":
        return
    world.call(method, path, **headers)


def authorized(world: World, case: dict[str, str]) -> None:
    headers = {
        key.replace("_", "-"): value.encode("latin-1", "replace").decode("latin-1") for key, value in case.items()
    }
    foreign = Api(world.api.server, trusted=False, headers=headers)
    refused_well(world.run(foreign.call("GET", CONFIGMAPS)))


FIELD = st.sampled_from(["?fieldValidation=Strict", "?fieldValidation=Ignore", "", "?dryRun=All", "?fieldManager=x"])
TEARS = st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 255)), max_size=6)
TYPES = st.sampled_from(
    [JSON_TYPE, YAML, PROTOBUF, "", "text/plain", "application/json;charset=x", "application/cbor", "\t"]
)
WHOLE = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "fuzz"}, **DEPLOYMENT}
POINTERS = st.sampled_from(
    ["", "/", "/spec", "/spec/replicas", "/spec/template/spec/containers/0", "/spec/template/spec/containers/-", "/metadata",
     "/metadata/labels", "/spec/template/spec/containers/0/env/1", "/a~2b", "x", "/spec/template/spec/containers/01", "/status"]
)  # fmt: skip
OPERATION = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x"]), "path": POINTERS},
    optional={"value": VALUES, "from": POINTERS},
)
DIRECTIVES = st.sampled_from(
    [{"$patch": "delete"}, {"$patch": "replace"}, {"$patch": "x"}, {"$retainKeys": ["a"]}, {"$retainKeys": 1},
     {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"$setElementOrder/containers": [{"name": "web"}, {}]},
     {"$setElementOrder/containers": [1]}, {"$setElementOrder/": []}]
)  # fmt: skip


@st.composite
def patches(draw: st.DrawFn) -> tuple[Any, str, str]:
    content_type = draw(st.sampled_from([APPLY, JSON_PATCH, MERGE, STRATEGIC]))
    query = draw(st.sampled_from(["", "/status", "/scale", "/x"]))
    if content_type == JSON_PATCH:
        return draw(st.one_of(st.lists(OPERATION, max_size=5), VALUES)), content_type, query
    patch = draw(st.one_of(mutated(WHOLE, 5), VALUES))
    if content_type == STRATEGIC and isinstance(patch, dict):
        place = patch
        for key in draw(st.sampled_from([(), ("spec",), ("spec", "template", "spec"), ("metadata",)])):
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.update(draw(DIRECTIVES))
    if content_type == APPLY:
        query += draw(st.sampled_from(["?fieldManager=a", "?fieldManager=a&force=true", "?fieldManager=a&force=1", ""]))
    return patch, content_type, query


def _token(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


TOKENS = st.one_of(
    WORDS,
    VALUES.map(_token),
    st.fixed_dictionaries(
        {
            "rv": st.one_of(st.integers(), VALUES),
            "start": st.one_of(st.just("/core/configmaps/default/a"), WORDS, VALUES),
        },
        optional={"v": VALUES},
    ).map(_token),
)
SELECTORS = st.one_of(st.text(st.sampled_from("ab=!,() intno.\\-/\u00e9\x00"), max_size=30), WORDS)
QUERY = st.dictionaries(
    st.sampled_from(
        ["limit", "continue", "resourceVersion", "resourceVersionMatch", "labelSelector", "fieldSelector", "timeoutSeconds",
         "pretty", "dryRun", "fieldManager", "gracePeriodSeconds", "propagationPolicy", "includeObject", "orphanDependents",
         "container", "tailLines", "sendInitialEvents", "\u00e9"]
    ),
    st.one_of(WORDS, SELECTORS, TOKENS, st.integers().map(str)),
    max_size=4,
)  # fmt: skip
PART = st.one_of(
    st.sampled_from(
        ["api", "apis", "v1", "apps", "namespaces", "default", "pods", "configmaps", "deployments", "status", "scale", "log",
         "exec", "kube-root-ca.crt", "openapi", "v3", "livez", "metrics", "serviceaccounts", "token", "eviction", "binding",
         "events", "nodes", "finalize", "authorization.k8s.io", "selfsubjectaccessreviews", "proxy", "bindings"]
    ),
    WORDS,
)  # fmt: skip
ACCEPTS = st.one_of(
    st.sampled_from(
        [TABLE, PARTIAL, "*/*", "text/html", "application/json;as=Table", ";as=", "application/json;as=Table;g=x"]
    ),
    st.text(st.sampled_from("application/json;=,*as Tblegvq.0\u00e9"), max_size=40),
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, str]]:
    fixed = st.sampled_from(
        [["api", "v1", "namespaces", "default", "configmaps"], ["api", "v1", "pods"], ["apis", "apps", "v1"]]
    )
    parts = draw(st.one_of(st.lists(PART, max_size=8), fixed))
    query = "&".join(f"{quote(key)}={quote(value)}" for key, value in draw(QUERY).items())
    path = "/" + "/".join(parts) + ("?" + query if query else "")
    headers = draw(st.fixed_dictionaries({}, optional={"accept": ACCEPTS, "accept_encoding": WORDS}))
    safe = {key: value.encode("latin-1", "replace").decode("latin-1") for key, value in headers.items()}
    return (
        draw(st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "X"])),
        path,
        safe,
    )


IDENTITIES = st.fixed_dictionaries(
    {},
    optional={
        "authorization": st.one_of(st.sampled_from(["Bearer", "Bearer a.b.c", "Basic YTpi", "bearer  ", "Bearer ..", "x"]), WORDS),
        "impersonate_user": st.one_of(st.sampled_from(["system:serviceaccount:a:b", "system:serviceaccount:", "system:node:x"]), WORDS),
        "impersonate_group": WORDS,
        "impersonate_uid": WORDS,
    },
)  # fmt: skip
# The last sample is a CRD, which no client sends as protobuf and the server does not read as such.
PROPERTIES: dict[str, tuple[st.SearchStrategy[Any], Property]] = {
    "created": (st.tuples(objects(), FIELD), created),
    "created from yaml": (st.tuples(objects(), FIELD), created_from_yaml),
    "created from protobuf": (st.tuples(st.sampled_from(SAMPLES[:-1]), TEARS), created_from_protobuf),
    "created from bytes": (
        st.tuples(
            st.one_of(st.binary(max_size=60), st.text(st.sampled_from('{}[]":,a1-e.\\u \n&*!|>%@`#?'), max_size=40).map(str.encode)),
            TYPES,
            st.sampled_from(["", "", "gzip", "br"]),
        ),
        created_from_bytes,
    ),
    "replaced": (st.tuples(objects(), st.sampled_from(["", "", "/status", "/scale", "?dryRun=All"])), replaced),
    "patched": (patches(), patched),
    "asked": (requests(), asked),
    "authorized": (IDENTITIES, authorized),
}  # fmt: skip


def _search(world: World, name: str, examples: int) -> None:
    strategy, holds = PROPERTIES[name]
    search(world, strategy, holds, examples)


@pytest.mark.parametrize("name", PROPERTIES)
def test_no_request_breaks_the_server(world: World, name: str) -> None:
    _search(world, name, EXAMPLES)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PROPERTIES)
def test_no_request_breaks_the_server_however_long_one_searches(world: World, name: str) -> None:
    _search(world, name, EXAMPLES_LONG)
