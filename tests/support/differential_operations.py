"""Hypothesis strategies of requests: random stories that two Kubernetes APIs must tell alike.

A `Subject` is a kind with what can be written into it; `stories(subject)` draws a list of `Ask`s (`differential_replay.py`) about
two objects of it: created, replaced, patched in four ways, applied by several managers, deleted, listed and watched. Names
and values come from small pools, so that requests meet.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from differential_replay import Ask

JSON = dict[str, Any]
NAMES = ("a", "b")
MANAGERS = ("one", "two", "kubectl")
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
SENTINEL = "zz"


def some(**fields: SearchStrategy[Any]) -> SearchStrategy[JSON]:
    """An object with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def exactly(**fields: SearchStrategy[Any]) -> SearchStrategy[JSON]:
    return st.fixed_dictionaries(fields)


def items(item: SearchStrategy[Any], key: str, at_most: int = 3) -> SearchStrategy[list[Any]]:
    """A list of items that differ in `key`."""
    return st.lists(item, max_size=at_most, unique_by=lambda one: str(one[key]))


def text(*words: str) -> SearchStrategy[str]:
    return st.sampled_from(words)


number = st.integers(0, 3)
word = text("x", "y", "")
words = st.dictionaries(text("k1", "k2", "k3"), word, max_size=3)
word_set = st.lists(text("p", "q", "r"), max_size=3, unique=True)


NOTHING: SearchStrategy[JSON] = st.just({})
UNKNOWN: SearchStrategy[JSON] = st.just({"unknownField": 1})


@dataclass(frozen=True)
class Subject:
    """A kind under test. `base` is what every object of it needs; `parts` draws what may stand besides; `wrong` what is
    refused or pruned; `status` what its status may hold; `edits` are JSON patch operations."""

    plural: str
    kind: str
    group_version: str = "v1"
    base: JSON = field(default_factory=dict)
    parts: SearchStrategy[JSON] = NOTHING
    wrong: SearchStrategy[JSON] = UNKNOWN
    status: SearchStrategy[JSON] | None = None
    scale: bool = False
    strategic: SearchStrategy[JSON] | None = None
    edits: tuple[JSON, ...] = ()
    custom: bool = False
    versions: bool = True
    """Whether both servers count its versions alike: controllers, and defaults that come with the first reading, may add some."""

    @property
    def collection(self) -> str:
        root = "api" if "/" not in self.group_version else "apis"
        return f"/{root}/{self.group_version}/namespaces/<ns>/{self.plural}"

    def object(self, name: str | None, *more: JSON) -> JSON:
        out: JSON = {"apiVersion": self.group_version, "kind": self.kind, "metadata": {"name": name} if name else {}}
        for one in more:
            out = merged(out, one)
        return out


def merged(a: JSON, b: JSON) -> JSON:
    """Objects merged key by key; lists and scalars of `b` win."""
    out = dict(a)
    for key, value in b.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


labels = st.dictionaries(text("app", "tier", "example.com/x"), text("web", "db", ""), max_size=2)
finalizers = st.lists(text("example.com/f", "example.com/g"), max_size=2, unique=True)
metadata = exactly(metadata=some(labels=labels, annotations=words, finalizers=finalizers))
wrong_metadata = st.sampled_from(
    [
        {"metadata": {"labels": {"-bad-": "x"}}},
        {"metadata": {"labels": {"app": "not a value!"}}},
        {"metadata": {"annotations": {"no good/key/": "x"}}},
        {"metadata": {"finalizers": ["nodomain"]}},
        {"metadata": {"finalizers": ["bad domain/f"]}},
        {"metadata": {"labels": {"app": 1}}},
        {"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}},
        {"metadata": {"name": "other"}},
        {"metadata": {"namespace": "other"}},
        {"metadata": {"unknownMeta": "x"}},
        {"metadata": {"generation": 7, "creationTimestamp": "2001-01-01T00:00:00Z", "selfLink": "/x"}},
        {"kind": "Other"},
        {"apiVersion": "other/v1"},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": ""}]}},
    ]
)


# What can be done


def _path(subject: Subject, name: str) -> str:
    return f"{subject.collection}/{name}"


def _options(draw: Any, *, manager: bool = True) -> dict[str, str]:
    query: dict[str, str] = {}
    if manager and draw(st.booleans()):
        query["fieldManager"] = draw(st.sampled_from(MANAGERS))
    if draw(st.integers(0, 7)) == 0:
        query["dryRun"] = "All"
    if draw(st.integers(0, 3)) == 0:
        query["fieldValidation"] = draw(text("Strict", "Warn", "Ignore"))
    return query


def _content(draw: Any, subject: Subject) -> JSON:
    """The partial object of a write: mostly good."""
    content = merged(draw(metadata) if draw(st.booleans()) else {}, draw(subject.parts))
    if draw(st.integers(0, 9)) == 0:
        content = merged(content, draw(st.one_of(subject.wrong, wrong_metadata)))
    return content


@st.composite
def creations(draw: Any, subject: Subject) -> Ask:
    name = draw(st.sampled_from(NAMES))
    body = subject.object(name, subject.base, _content(draw, subject))
    if draw(st.integers(0, 9)) == 0:
        body["metadata"] = {key: value for key, value in body["metadata"].items() if key != "name"}
        body["metadata"]["generateName"] = draw(text("gen-", "Bad_"))
    if draw(st.integers(0, 15)) == 0:
        body["metadata"]["resourceVersion"] = draw(text("1", "0", "x"))
    return Ask("POST", subject.collection, body, _options(draw))


@st.composite
def replacements(draw: Any, subject: Subject) -> Ask:
    name = draw(st.sampled_from(NAMES))
    content = _content(draw, subject)
    which = draw(st.integers(0, 7))
    version = {0: "<old {}>", 1: "<rv {}>", 2: "<rv {}>", 3: "999999999"}.get(which)
    extra: JSON = {}
    if version:
        extra["resourceVersion"] = version.format(f"{subject.plural}/{name}")
    if draw(st.integers(0, 5)) == 0:
        extra["uid"] = draw(st.sampled_from([f"<uid {subject.plural}/{name}>", "11111111-1111-1111-1111-111111111111"]))
    if draw(st.integers(0, 9)) == 0:
        extra["managedFields"] = draw(st.sampled_from([[], [{}], None]))
    if subject.status is not None and draw(st.integers(0, 3)) == 0:
        content = merged(content, {"status": draw(subject.status)})
    return Ask(
        "PUT", _path(subject, name), subject.object(name, subject.base, content, {"metadata": extra}), _options(draw)
    )


def _holes(draw: Any, value: JSON) -> JSON:
    """The value with a null here and there."""
    out: JSON = {}
    for key, one in value.items():
        if isinstance(one, dict) and one:
            out[key] = _holes(draw, one)
        else:
            out[key] = None if draw(st.integers(0, 4)) == 0 else one
    return out


@st.composite
def merge_patches(draw: Any, subject: Subject) -> Ask:
    name = draw(st.sampled_from(NAMES))
    patch = _holes(draw, _content(draw, subject))
    if draw(st.integers(0, 5)) == 0:
        patch = merged(
            patch,
            {"metadata": {"resourceVersion": draw(text("<old {}>", "<rv {}>")).format(f"{subject.plural}/{name}")}},
        )
    return Ask("PATCH", _path(subject, name), patch, _options(draw), MERGE)


@st.composite
def strategic_patches(draw: Any, subject: Subject) -> Ask:
    name = draw(st.sampled_from(NAMES))
    patch = draw(subject.strategic) if subject.strategic is not None and draw(st.booleans()) else {}
    patch = merged(_holes(draw, _content(draw, subject)), patch)
    if draw(st.integers(0, 3)) == 0:
        patch = merged(patch, draw(st.sampled_from(META_DIRECTIVES)))
    return Ask("PATCH", _path(subject, name), patch, _options(draw), STRATEGIC)


META_DIRECTIVES: tuple[JSON, ...] = (
    {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/f"]}},
    {"metadata": {"finalizers": ["example.com/g"], "$setElementOrder/finalizers": ["example.com/g", "example.com/f"]}},
    {"metadata": {"$setElementOrder/finalizers": ["example.com/g", "example.com/f"]}},
    {"metadata": {"labels": {"$patch": "replace", "app": "db"}}},
    {"metadata": {"labels": {"$patch": "delete"}}},
    {"metadata": {"annotations": {"$patch": "unknown"}}},
)

META_EDITS: tuple[JSON, ...] = (
    {"op": "add", "path": "/metadata/labels", "value": {"app": "web"}},
    {"op": "add", "path": "/metadata/labels/tier", "value": "db"},
    {"op": "remove", "path": "/metadata/labels/app"},
    {"op": "replace", "path": "/metadata/labels/app", "value": "db"},
    {"op": "test", "path": "/metadata/labels/app", "value": "web"},
    {"op": "test", "path": "/metadata/name", "value": "a"},
    {"op": "copy", "from": "/metadata/name", "path": "/metadata/labels/tier"},
    {"op": "move", "from": "/metadata/labels/app", "path": "/metadata/labels/tier"},
    {"op": "remove", "path": "/metadata/finalizers"},
    {"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/f"},
    {"op": "remove", "path": "/metadata/finalizers/0"},
    {"op": "replace", "path": "/metadata/managedFields", "value": [{}]},
    {"op": "replace", "path": "/metadata/managedFields", "value": []},
    {"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "renamed"},
    {"op": "replace", "path": "/metadata/managedFields/0/operation", "value": "Apply"},
    {"op": "remove", "path": "/metadata/managedFields/0"},
    {"op": "replace", "path": "/metadata/resourceVersion", "value": "1"},
    {"op": "replace", "path": "/metadata/uid", "value": "x"},
    {"op": "remove", "path": "/metadata"},
    {"op": "replace", "path": "/kind", "value": "Other"},
    {"op": "nothing", "path": "/metadata"},
    {"op": "add", "path": "/unknownField", "value": 1},
    {"op": "add", "path": "", "value": []},
)


@st.composite
def json_patches(draw: Any, subject: Subject) -> Ask:
    name = draw(st.sampled_from(NAMES))
    pool = (
        st.sampled_from((*META_EDITS, *subject.edits))
        if not subject.edits
        else st.one_of(st.sampled_from(META_EDITS), st.sampled_from(subject.edits))
    )
    return Ask("PATCH", _path(subject, name), draw(st.lists(pool, min_size=1, max_size=3)), _options(draw), JSON_PATCH)


@st.composite
def applications(draw: Any, subject: Subject) -> Ask:
    name = draw(st.sampled_from(NAMES))
    content = _content(draw, subject)
    base = subject.base if draw(st.integers(0, 2)) else {}
    query = _options(draw, manager=False) | {"fieldManager": draw(st.sampled_from(MANAGERS))}
    if draw(st.booleans()):
        query["force"] = "true"
    extra: JSON = {}
    if draw(st.integers(0, 15)) == 0:
        extra = draw(st.sampled_from([{"managedFields": []}, {"managedFields": [{"manager": "x"}]}, {"uid": "x"}]))
    if draw(st.integers(0, 9)) == 0:
        extra = {"resourceVersion": draw(text("<old {}>", "<rv {}>")).format(f"{subject.plural}/{name}")}
    if subject.status is not None and draw(st.integers(0, 5)) == 0:
        content = merged(content, {"status": draw(subject.status)})
    return Ask("PATCH", _path(subject, name), subject.object(name, base, content, {"metadata": extra}), query, APPLY)


@st.composite
def status_writes(draw: Any, subject: Subject) -> Ask:
    assert subject.status is not None
    name = draw(st.sampled_from(NAMES))
    path = f"{_path(subject, name)}/status"
    status = {"status": draw(subject.status)}
    other = _content(draw, subject) if draw(st.booleans()) else {}
    query = _options(draw)
    match draw(st.integers(0, 3)):
        case 0:
            return Ask("PUT", path, subject.object(name, subject.base, other, status), query)
        case 1:
            return Ask("PATCH", path, merged(_holes(draw, status), other), query, MERGE)
        case 2:
            query |= {"fieldManager": draw(st.sampled_from(MANAGERS))}
            if draw(st.booleans()):
                query["force"] = "true"
            return Ask("PATCH", path, subject.object(name, other, status), query, APPLY)
        case _:
            return Ask("GET", path)


@st.composite
def scale_writes(draw: Any, subject: Subject) -> Ask:
    name = draw(st.sampled_from(NAMES))
    path = f"{_path(subject, name)}/scale"
    count = draw(st.integers(-1, 4))
    body = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}, "spec": {"replicas": count}}
    match draw(st.integers(0, 4)):
        case 0:
            return Ask("GET", path)
        case 1:
            return Ask("PATCH", path, {"spec": {"replicas": count}}, _options(draw), MERGE)
        case 2:
            query = _options(draw, manager=False) | {"fieldManager": draw(st.sampled_from(MANAGERS))}
            if draw(st.booleans()):
                query["force"] = "true"
            return Ask("PATCH", path, body, query, APPLY)
        case _:
            if draw(st.booleans()):
                body["metadata"]["resourceVersion"] = draw(text("<old {}>", "<rv {}>")).format(
                    f"{subject.plural}/{name}"
                )  # type: ignore[index]
            return Ask("PUT", path, body, _options(draw))


@st.composite
def deletions(draw: Any, subject: Subject) -> Ask:
    name = draw(st.sampled_from(NAMES))
    known = f"{subject.plural}/{name}"
    query: dict[str, str] = {}  # no dry runs: the real server's moves the version of the object that it spares
    body: JSON | None = None
    if draw(st.booleans()):
        options: JSON = {}
        if draw(st.integers(0, 2)) == 0:
            options["preconditions"] = draw(
                st.sampled_from(
                    [
                        {"uid": f"<uid {known}>"},
                        {"uid": "11111111-1111-1111-1111-111111111111"},
                        {"resourceVersion": f"<rv {known}>"},
                        {"resourceVersion": f"<old {known}>"},
                        {"uid": f"<uid {known}>", "resourceVersion": "1"},
                    ]
                )
            )
        if draw(st.integers(0, 2)) == 0:
            options["propagationPolicy"] = draw(text("Background", "Foreground", "Orphan", "Wrong"))
        if draw(st.integers(0, 4)) == 0:
            options["gracePeriodSeconds"] = draw(st.sampled_from([0, 5, -1]))
        if draw(st.integers(0, 9)) == 0:
            options["orphanDependents"] = draw(st.booleans())
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
    elif draw(st.integers(0, 4)) == 0:
        query["propagationPolicy"] = draw(text("Background", "Foreground", "Orphan", "Wrong"))
    return Ask("DELETE", _path(subject, name), body, query)


label_selectors = text(
    "app=web",
    "app==db",
    "app!=web",
    "app in (web,db)",
    "app notin (web)",
    "tier",
    "!tier",
    "app=web,tier",
    "app=",
    "app in ()",
    "=",
    "app in (web",
    "app=web,,tier",
    "a b",
    "app>1",
    "-x=1",
    "example.com/x",
    "app in (web),!tier",
    "app=not good",
)
field_selectors = text(
    "metadata.name=a",
    "metadata.name!=a",
    "metadata.namespace=<ns>",
    "metadata.name=a,metadata.name=b",
    "metadata.uid=x",
    "spec.nodeName=x",
    "metadata.name",
    "metadata.name==b",
    "=",
    "status.phase=Pending",
    "type=Opaque",
)
ACCEPTS = (
    "application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/json;as=Table;v=v9;g=meta.k8s.io",
    "application/yaml",
    "text/html",
)  # fmt: skip


@st.composite
def readings(draw: Any, subject: Subject) -> Ask:
    accept = draw(st.sampled_from(ACCEPTS[:7])) if draw(st.integers(0, 2)) == 0 else ACCEPTS[0]
    if accept == "application/yaml":
        accept = ACCEPTS[0]
    if draw(st.booleans()):
        name = draw(st.sampled_from(NAMES))
        query = {}
        if draw(st.integers(0, 3)) == 0:
            query["resourceVersion"] = draw(text("0", "<start>", "<list>", "x", "-1"))
        return Ask("GET", _path(subject, name), query=query, accept=accept.replace("List;", ";"))
    query = {}
    if draw(st.integers(0, 2)) == 0:
        query["labelSelector"] = draw(label_selectors)
    if draw(st.integers(0, 3)) == 0:
        query["fieldSelector"] = draw(field_selectors)
    if draw(st.integers(0, 2)) == 0:
        query["limit"] = draw(text("1", "2", "0", "-1", "x"))
    match draw(st.integers(0, 5)):
        case 0:
            query["continue"] = draw(text("<continue>", "nonsense"))
            query.setdefault("limit", "1")
        case 1:
            query["resourceVersion"] = draw(text("0", "<list>", "<start>", "<list>", "x", "-1"))
            if draw(st.booleans()):
                query["resourceVersionMatch"] = draw(text("Exact", "NotOlderThan", "Wrong"))
        case 2:
            query["resourceVersionMatch"] = draw(text("Exact", "NotOlderThan"))
        case _:
            pass
    return Ask("GET", subject.collection, query=query, accept=accept)


@st.composite
def bad_watches(draw: Any, subject: Subject) -> Ask:
    query = {"watch": draw(text("true", "1", "True")), "timeoutSeconds": "1"}
    query |= draw(
        st.sampled_from(
            [
                {"sendInitialEvents": "true"},
                {"sendInitialEvents": "false"},
                {"sendInitialEvents": "true", "resourceVersionMatch": "Exact"},
                {"sendInitialEvents": "false", "resourceVersionMatch": "NotOlderThan"},
                {"resourceVersionMatch": "NotOlderThan", "resourceVersion": "<start>"},
                {"resourceVersion": "x"},
                {"resourceVersion": "-1"},
                {"labelSelector": "a b", "resourceVersion": "<list>"},
                {"fieldSelector": "spec.x=1", "resourceVersion": "<list>"},
                {"continue": "x", "resourceVersion": "<list>"},
                {"limit": "x", "resourceVersion": "<list>"},
                {"timeoutSeconds": "x"},
            ]
        )
    )
    return Ask("GET", subject.collection, query=query, until="")


@st.composite
def collection_deletions(draw: Any, subject: Subject) -> Ask:
    query = {"labelSelector": draw(label_selectors)} if draw(st.booleans()) else {}
    if draw(st.integers(0, 3)) == 0:
        query["fieldSelector"] = draw(field_selectors)
    if draw(st.integers(0, 3)) == 0:
        query["dryRun"] = "All"
    if draw(st.integers(0, 5)) == 0:
        query["limit"] = "1"
    if draw(st.integers(0, 5)) == 0:
        query["propagationPolicy"] = draw(text("Background", "Orphan", "Wrong"))
    return Ask("DELETE", subject.collection, query=query)


@st.composite
def raw_bodies(draw: Any, subject: Subject) -> Ask:
    """Bodies as text: keys that stand twice, wrong types, no JSON at all, the wrong content type."""
    name = draw(st.sampled_from(NAMES))
    head = f'"apiVersion": "{subject.group_version}", "kind": "{subject.kind}"'
    meta = f'"metadata": {{"name": "{name}"}}'
    twice = f'"metadata": {{"name": "{name}", "labels": {{"app": "web", "app": "db"}}, "labels": {{"app": "web"}}}}'
    body = draw(
        st.sampled_from(
            [
                f"{{{head}, {twice}}}",
                f'{{{head}, {meta}, "kind": "{subject.kind}"}}',
                f'{{{head}, {meta}, "unknownField": 1, "unknownField": 2}}',
                f"{{{head}, {meta}",
                f"{{{head}}}",
                "[]", "null", '"x"', "", "{}", "not json",
                f'{{{head}, "metadata": []}}',
                f'{{{head}, "metadata": "x"}}',
                f'{{{head}, "metadata": {{"name": 1}}}}',
                f'{{{head}, "metadata": {{"name": "{name}", "labels": []}}}}',
                f'{{{head}, "metadata": {{"name": "{name}", "labels": null, "annotations": null, "finalizers": null}}}}',
                f'{{{head}, "metadata": {{"name": "{name}", "labels": {{"app": null}}}}}}',
            ]
        )
    )  # fmt: skip
    query = _options(draw)
    match draw(st.integers(0, 5)):
        case 0 | 1:
            return Ask("POST", subject.collection, body, query)
        case 2:
            return Ask("PUT", _path(subject, name), body, query)
        case 3:
            return Ask(
                "PATCH", _path(subject, name), body, query, draw(st.sampled_from([MERGE, STRATEGIC, JSON_PATCH]))
            )
        case 4:
            return Ask("PATCH", _path(subject, name), body, query | {"fieldManager": "one"}, APPLY)
        case _:
            return Ask(
                draw(text("POST", "PATCH")),
                _path(subject, name),
                body,
                query,
                draw(text("text/plain", "application/json")),
            )


@st.composite
def stories(draw: Any, subject: Subject, *, length: int = 14, rough: bool = True) -> list[Ask]:
    """A list of requests about one kind. `rough`: with bodies and queries that are refused."""
    kinds = [
        applications(subject), applications(subject), applications(subject), creations(subject), replacements(subject), replacements(subject),
        merge_patches(subject), json_patches(subject), readings(subject), deletions(subject),
    ]  # fmt: skip
    if not subject.custom:
        kinds += [strategic_patches(subject), strategic_patches(subject)]
    if subject.status is not None:
        kinds += [status_writes(subject), status_writes(subject)]
    if subject.scale:
        kinds.append(scale_writes(subject))
    if rough:
        kinds += [raw_bodies(subject), collection_deletions(subject)]
    story = draw(st.lists(st.one_of(kinds), min_size=2, max_size=length))
    return [creation_of(subject), *story]


def creation_of(subject: Subject, name: str = "a") -> Ask:
    return Ask("POST", subject.collection, subject.object(name, subject.base), {"fieldManager": "maker"})


def ending(subject: Subject) -> list[Ask]:
    """What is left, and all that happened, to the sentinel that ends it; then what a watch with a selector saw of that."""
    sentinel = subject.object(SENTINEL, subject.base, {"metadata": {"labels": {"app": "web"}}})
    since = {"watch": "1", "resourceVersion": "<start>"}
    return [
        Ask("POST", subject.collection, sentinel),
        Ask("GET", subject.collection),
        Ask("GET", subject.collection, query=since, until=SENTINEL),
        Ask("GET", subject.collection, query={**since, "labelSelector": "app=web"}, until=SENTINEL),
    ]


def streamed(subject: Subject) -> Ask:
    """The list as a watch that begins with what is there; kube-apiserver needs a newer etcd for it than its package brings."""
    query = {
        "watch": "1",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    return Ask("GET", subject.collection, query=query, until=SENTINEL)


# Kinds

encoded = st.sampled_from([base64.b64encode(one).decode() for one in (b"", b"x", b"secret")])
quantity = text("100m", "0.1", "1", "1Gi", "64M", "1000m")

CONFIG_MAP = Subject(
    "configmaps",
    "ConfigMap",
    parts=some(data=words, binaryData=st.dictionaries(text("b1", "k1"), encoded, max_size=2), immutable=st.booleans()),
    wrong=st.sampled_from(
        [{"dta": {}}, {"data": {"a/b": "x"}}, {"data": {"k": 1}}, {"data": "x"}, {"binaryData": {"x": "!"}}]
    ),
    edits=(
        {"op": "add", "path": "/data", "value": {"k1": "z"}},
        {"op": "remove", "path": "/data/k1"},
        {"op": "replace", "path": "/data/k2", "value": "z"},
        {"op": "add", "path": "/data/k~13", "value": "z"},
    ),
    strategic=st.sampled_from([{"data": {"$patch": "replace", "k3": "z"}}]),
)
SECRET = Subject(
    "secrets",
    "Secret",
    parts=some(
        data=st.dictionaries(text("k1", "k2"), encoded, max_size=2),
        stringData=words,
        type=text("Opaque", "example.com/t", "kubernetes.io/basic-auth", "kubernetes.io/tls", ""),
        immutable=st.booleans(),
    ),
    wrong=st.sampled_from([{"data": {"k": "no base64!"}}, {"data": {"bad key": "eA=="}}, {"typ": "x"}]),
)
_port = exactly(port=st.integers(80, 82)).flatmap(
    lambda one: some(
        name=text("http", "web", "dns"),
        protocol=text("TCP", "UDP"),
        targetPort=st.sampled_from([8080, "http"]),
        appProtocol=word,
    ).map(lambda more: {**one, **more})
)
SERVICE = Subject(
    "services",
    "Service",
    base={"spec": {"ports": [{"name": "main", "port": 80}]}},
    parts=exactly(
        spec=some(
            ports=items(_port, "port"),
            selector=words,
            type=text("ClusterIP", "NodePort", "ExternalName", "LoadBalancer"),
            externalName=text("example.com"),
            sessionAffinity=text("None", "ClientIP"),
            externalIPs=st.lists(text("1.2.3.4", "1.2.3.5"), max_size=2),
            publishNotReadyAddresses=st.booleans(),
            internalTrafficPolicy=text("Cluster", "Local"),
        )
    ),
    wrong=st.sampled_from(
        [
            {"spec": {"ports": [{"port": 0}]}},
            {"spec": {"clusterIP": "x"}},
            {"spec": {"type": "Wrong"}},
            {"spec": {"prts": 1}},
        ]
    ),
    strategic=st.sampled_from(
        [
            {"spec": {"ports": [{"port": 81, "$patch": "delete"}]}},
            {
                "spec": {
                    "ports": [{"port": 80, "targetPort": 99}],
                    "$setElementOrder/ports": [{"port": 81}, {"port": 80}],
                }
            },
            {"spec": {"ports": [{"port": 82, "name": "new"}]}},
            {"spec": {"ports": [{"$patch": "replace"}, {"port": 90}]}},
            {"spec": {"ports": [{"name": "nokey"}]}},
        ]
    ),
    status=some(loadBalancer=some(ingress=st.lists(exactly(ip=text("1.1.1.1", "2.2.2.2")), max_size=2))),
    edits=(
        {"op": "add", "path": "/spec/ports/-", "value": {"name": "j", "port": 99}},
        {"op": "remove", "path": "/spec/ports/0"},
    ),
)
_env = exactly(name=text("A", "B", "C")).flatmap(lambda one: some(value=word).map(lambda more: {**one, **more}))
_container_port = exactly(containerPort=st.integers(80, 82)).flatmap(
    lambda one: some(protocol=text("TCP", "UDP"), name=text("http", "web"), hostPort=st.sampled_from([0, 80])).map(
        lambda more: {**one, **more}
    )
)
_mount = exactly(name=text("v1", "v2"), mountPath=text("/m1", "/m2"))
_container = exactly(name=text("main", "side", "more"), image=text("i:1", "i:2", "i")).flatmap(
    lambda one: some(
        env=items(_env, "name"),
        ports=items(_container_port, "containerPort"),
        args=st.lists(word, max_size=2),
        command=st.lists(word, max_size=2),
        volumeMounts=items(_mount, "mountPath"),
        resources=some(
            limits=st.dictionaries(text("cpu", "memory"), quantity, max_size=2),
            requests=st.dictionaries(text("cpu"), text("1m", "0.001"), max_size=1),
        ),
        imagePullPolicy=text("Always", "IfNotPresent"),
        workingDir=word,
        readinessProbe=some(tcpSocket=exactly(port=st.sampled_from([80, "http"])), periodSeconds=number),
        securityContext=some(privileged=st.booleans(), runAsUser=number, capabilities=some(add=word_set)),
        stdin=st.booleans(),
    ).map(lambda more: {**one, **more})
)
_volume = exactly(name=text("v1", "v2")).flatmap(
    lambda one: st.one_of(
        exactly(emptyDir=some(sizeLimit=quantity)),
        exactly(configMap=exactly(name=text("c"))),
        exactly(hostPath=exactly(path=text("/h"))),
    ).map(lambda more: {**one, **more})
)
_VOLUMES = [{"name": "v1", "emptyDir": {}}, {"name": "v2", "emptyDir": {}}]
pod_spec = some(
    containers=items(_container, "name", 2),
    initContainers=items(_container, "name", 1),
    volumes=items(_volume, "name", 2),
    tolerations=st.lists(some(key=text("t1", "t2"), operator=text("Exists", "Equal"), effect=text("NoSchedule")), max_size=2),
    nodeSelector=words,
    hostAliases=items(exactly(ip=text("1.1.1.1", "1.1.1.2"), hostnames=st.lists(text("h1", "h2"), max_size=2)), "ip"),
    imagePullSecrets=items(exactly(name=text("s1", "s2")), "name"),
    restartPolicy=text("Always", "Never"),
    terminationGracePeriodSeconds=number,
    securityContext=some(runAsUser=number, fsGroup=number, sysctls=st.lists(exactly(name=text("a.b"), value=word), max_size=1)),
    topologySpreadConstraints=st.lists(
        exactly(maxSkew=st.just(1), topologyKey=text("zone", "host"), whenUnsatisfiable=text("DoNotSchedule", "ScheduleAnyway")), max_size=1
    ),
    affinity=some(nodeAffinity=some(preferredDuringSchedulingIgnoredDuringExecution=st.just([]))),
    hostNetwork=st.booleans(),
    dnsPolicy=text("Default", "ClusterFirst"),
)  # fmt: skip
_POD = {"containers": [{"name": "main", "image": "i:1"}], "volumes": _VOLUMES}
_pod_directives: list[JSON] = [
    {"containers": [{"name": "side", "$patch": "delete"}]},
    {"containers": [{"name": "main", "env": [{"name": "A", "value": "z"}, {"name": "B", "$patch": "delete"}]}]},
    {"containers": [{"name": "main", "$setElementOrder/env": [{"name": "B"}, {"name": "A"}]}]},
    {"containers": [{"name": "main", "ports": [{"containerPort": 81, "$patch": "delete"}]}]},
    {"containers": [{"name": "new", "image": "n"}], "$setElementOrder/containers": [{"name": "new"}, {"name": "main"}]},
    {"$setElementOrder/containers": [{"name": "side"}, {"name": "main"}]},
    {"containers": [{"$patch": "replace"}, {"name": "only", "image": "o"}]},
    {"volumes": [{"name": "v1", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/new"}}]},
    {"volumes": [{"name": "v1", "emptyDir": None, "hostPath": {"path": "/new"}}]},
    {"volumes": [{"name": "v2", "$patch": "delete"}]},
    {"volumes": None},
    {"nodeSelector": {"$patch": "replace", "n": "m"}},
    {"containers": [{"image": "nokey"}]},
    {"securityContext": {"$patch": "delete"}},
    {"affinity": {"$patch": "replace", "podAffinity": {}}},
    {"imagePullSecrets": [{"name": "s3"}], "$setElementOrder/imagePullSecrets": [{"name": "s3"}, {"name": "s1"}]},
    {"hostAliases": [{"ip": "1.1.1.1", "hostnames": ["patched"]}]},
    {"tolerations": [{"key": "patched", "operator": "Exists"}]},
    {"$setElementOrder/containers": [{"name": "main"}], "containers": [{"name": "elsewhere", "image": "x"}]},
]
_template_labels = {"metadata": {"labels": {"app": "w"}}}


def _workload(
    plural: str, kind: str, spec: SearchStrategy[JSON], base: JSON, status: SearchStrategy[JSON], *, scale: bool
) -> Subject:
    template = exactly(template=some(spec=pod_spec, metadata=some(annotations=words)))
    return Subject(
        plural,
        kind,
        "apps/v1",
        base={"spec": merged({"selector": {"matchLabels": {"app": "w"}}, "template": {**_template_labels, "spec": _POD}}, base)},
        parts=exactly(spec=st.one_of(spec, template, st.tuples(spec, template).map(lambda both: merged(*both)))),
        wrong=st.sampled_from(
            [
                {"spec": {"replicas": -1}},
                {"spec": {"selector": {"matchLabels": {"app": "other"}}}},
                {"spec": {"replica": 1}},
                {"spec": {"template": {"spec": {"containers": []}}}},
                {"spec": {"template": {"spec": {"containers": [{"name": "main"}]}}}},
                {"spec": {"template": {"spec": {"containers": [{"name": "Bad Name", "image": "x"}]}}}},
                {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "x", "volumeMounts": [{"name": "no", "mountPath": "/"}]}]}}}},
                {"spec": {"template": {"spec": {"restartPolicy": "Never"}}}},
                {"spec": {"replicas": "x"}},
                {"spec": {"template": {"spec": {"unknown": 1, "containers": [{"name": "main", "image": "i", "imag": 1}]}}}},
                {"spec": {"template": {"metadata": {"labels": {"app": "z"}}}}},
            ]
        ),
        strategic=st.sampled_from(_pod_directives).map(lambda one: {"spec": {"template": {"spec": one}}}),
        status=status,
        scale=scale,
        edits=(
            {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "j", "image": "j"}},
            {"op": "remove", "path": "/spec/template/spec/containers/0/env"},
            {"op": "replace", "path": "/spec/replicas", "value": 2},
            {"op": "remove", "path": "/spec/replicas"},
            {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "j"},
        ),
    )  # fmt: skip


_condition = exactly(type=text("Ready", "Available"), status=text("True", "False")).flatmap(
    lambda one: some(reason=text("R"), message=word).map(lambda more: {**one, **more})
)
DEPLOYMENT = _workload(
    "deployments",
    "Deployment",
    some(
        replicas=number,
        paused=st.booleans(),
        minReadySeconds=number,
        revisionHistoryLimit=number,
        progressDeadlineSeconds=st.sampled_from([600, 700]),
        strategy=st.one_of(
            exactly(type=text("Recreate")), exactly(type=text("RollingUpdate")),
            exactly(rollingUpdate=some(maxSurge=st.sampled_from([1, "25%", "10%"]), maxUnavailable=st.sampled_from([0, 1, "0%"]))),
        ),
    ),
    {},
    some(replicas=number, readyReplicas=number, observedGeneration=number, conditions=items(_condition, "type", 2)),
    scale=True,
)  # fmt: skip
STATEFUL_SET = _workload(
    "statefulsets",
    "StatefulSet",
    some(
        replicas=number,
        serviceName=text("svc", "svc2"),
        podManagementPolicy=text("Parallel", "OrderedReady"),
        updateStrategy=exactly(type=text("OnDelete", "RollingUpdate")),
        minReadySeconds=number,
    ),
    {"serviceName": "svc"},
    some(replicas=number, currentReplicas=number, observedGeneration=number),
    scale=True,
)
DAEMON_SET = _workload(
    "daemonsets",
    "DaemonSet",
    some(minReadySeconds=number, updateStrategy=exactly(type=text("OnDelete", "RollingUpdate"))),
    {},
    exactly(
        currentNumberScheduled=number, numberMisscheduled=number, desiredNumberScheduled=number, numberReady=number
    ),
    scale=False,
)
REPLICA_SET = _workload(
    "replicasets",
    "ReplicaSet",
    some(replicas=number, minReadySeconds=number),
    {},
    some(replicas=number, readyReplicas=number),
    scale=True,
)
POD = Subject(
    "pods",
    "Pod",
    versions=False,
    base={"spec": {**_POD, "serviceAccountName": "default", "automountServiceAccountToken": False}},
    parts=exactly(spec=pod_spec),
    wrong=st.sampled_from(
        [
            {"spec": {"containers": []}},
            {"spec": {"nodeName": "Not A Node"}},
            {"spec": {"restartPolicy": "Sometimes"}},
            {"spec": {"containers": [{"name": "main", "image": "i", "ports": [{"containerPort": 0}]}]}},
            {"spec": {"containers": [{"name": "main", "image": "i", "resources": {"limits": {"cpu": "lots"}}}]}},
            {"spec": {"activeDeadlineSeconds": 5}},
        ]
    ),
    strategic=st.sampled_from(_pod_directives).map(lambda one: {"spec": one}),
    status=some(phase=text("Pending", "Running"), message=word, conditions=items(_condition, "type", 2)),
    edits=({"op": "replace", "path": "/spec/containers/0/image", "value": "j"}, {"op": "add", "path": "/spec/tolerations/-", "value": {"key": "j", "operator": "Exists"}}),
)  # fmt: skip
JOB = Subject(
    "jobs",
    "Job",
    "batch/v1",
    versions=False,
    base={"spec": {"template": {"spec": {**_POD, "restartPolicy": "Never"}}}},
    parts=exactly(
        spec=some(
            parallelism=number, completions=number, backoffLimit=number, suspend=st.booleans(), activeDeadlineSeconds=st.integers(1, 3),
            ttlSecondsAfterFinished=number, completionMode=text("NonIndexed", "Indexed"),
        )
    ),
    wrong=st.sampled_from([{"spec": {"parallelism": -1}}, {"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}, {"spec": {"paralelism": 1}}]),
    status=some(active=number, ready=number),
    strategic=st.sampled_from(_pod_directives).map(lambda one: {"spec": {"template": {"spec": one}}}),
)  # fmt: skip
CRON_JOB = Subject(
    "cronjobs",
    "CronJob",
    "batch/v1",
    base={"spec": {"schedule": "* * * * *", "jobTemplate": JOB.base}},
    parts=exactly(
        spec=some(
            schedule=text("*/5 * * * *", "@hourly", "not a schedule"), suspend=st.booleans(), concurrencyPolicy=text("Allow", "Forbid", "Wrong"),
            timeZone=text("Etc/UTC", "Nowhere/Land"), successfulJobsHistoryLimit=number, startingDeadlineSeconds=number,
        )
    ),
    status=some(lastScheduleTime=text("2024-01-01T00:00:00Z")),
)  # fmt: skip
ROLE = Subject(
    "roles",
    "Role",
    "rbac.authorization.k8s.io/v1",
    parts=some(
        rules=st.lists(
            st.one_of(
                exactly(apiGroups=st.just([""]), resources=word_set, verbs=word_set),
                exactly(verbs=word_set),
                exactly(
                    apiGroups=st.just([""]), resources=st.just(["pods"]), verbs=st.just(["get"]), resourceNames=word_set
                ),
            ),
            max_size=2,
        )
    ),
    wrong=st.sampled_from([{"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}, {"rules": "x"}, {"ruls": []}]),
)
LEASE = Subject(
    "leases",
    "Lease",
    "coordination.k8s.io/v1",
    parts=exactly(
        spec=some(
            holderIdentity=word,
            leaseDurationSeconds=number,
            leaseTransitions=number,
            renewTime=text(
                "2024-01-01T00:00:00.000000Z", "2024-01-01T00:00:00.123456Z", "2024-01-01T00:00:00Z", "soon"
            ),
        )
    ),
)
SERVICE_ACCOUNT = Subject(
    "serviceaccounts",
    "ServiceAccount",
    parts=some(
        automountServiceAccountToken=st.booleans(),
        secrets=items(exactly(name=text("s1", "s2")), "name"),
        imagePullSecrets=items(exactly(name=text("s1", "s2")), "name"),
    ),
    strategic=st.sampled_from(
        [{"secrets": [{"name": "s1", "$patch": "delete"}]}, {"imagePullSecrets": [{"name": "s2"}]}]
    ),
)
INGRESS = Subject(
    "ingresses",
    "Ingress",
    "networking.k8s.io/v1",
    base={"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}},
    parts=exactly(
        spec=some(
            ingressClassName=text("c1", "c2"),
            rules=st.lists(
                some(
                    host=text("a.example.com", "*.example.com", "BAD"),
                    http=exactly(
                        paths=st.lists(
                            exactly(
                                path=text("/", "/x", "no"), pathType=text("Prefix", "Exact", "ImplementationSpecific"),
                                backend=exactly(service=exactly(name=text("s"), port=st.sampled_from([{"number": 80}, {"name": "http"}, {}]))),
                            ),
                            max_size=2,
                        )
                    ),
                ),
                max_size=2,
            ),
            tls=st.lists(some(hosts=st.just(["a.example.com"]), secretName=word), max_size=1),
        )
    ),
    status=some(loadBalancer=some(ingress=st.lists(exactly(ip=text("1.1.1.1", "2.2.2.2")), max_size=2))),
)  # fmt: skip
NETWORK_POLICY = Subject(
    "networkpolicies",
    "NetworkPolicy",
    "networking.k8s.io/v1",
    base={"spec": {"podSelector": {}}},
    parts=exactly(
        spec=some(
            podSelector=some(matchLabels=words, matchExpressions=st.lists(exactly(key=text("k"), operator=text("In", "Exists", "Is")), max_size=1)),
            policyTypes=st.lists(text("Ingress", "Egress"), max_size=2),
            ingress=st.lists(some(ports=st.lists(some(port=st.sampled_from([80, "http"]), protocol=text("TCP", "UDP")), max_size=2)), min_size=1, max_size=2),
            egress=st.lists(some(to=st.lists(exactly(ipBlock=exactly(cidr=text("10.0.0.0/8", "bad"))), max_size=1)), min_size=1, max_size=1),
        )
    ),
)  # fmt: skip
BUDGET = Subject(
    "poddisruptionbudgets",
    "PodDisruptionBudget",
    "policy/v1",
    parts=exactly(
        spec=some(
            minAvailable=st.sampled_from([0, 1, "50%", "x%", -1]),
            maxUnavailable=st.sampled_from([0, 1, "50%"]),
            selector=some(matchLabels=words),
            unhealthyPodEvictionPolicy=text("IfHealthyBudget", "AlwaysAllow"),
        )
    ),
    strategic=st.just({"spec": {"selector": {"matchLabels": {"x": "y"}}}}),
)
CLAIM = Subject(
    "persistentvolumeclaims",
    "PersistentVolumeClaim",
    versions=False,
    base={
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "sc",
        }
    },
    parts=exactly(
        spec=some(
            accessModes=st.lists(text("ReadWriteOnce", "ReadOnlyMany", "Wrong"), max_size=2),
            resources=exactly(requests=exactly(storage=text("1Gi", "2Gi", "1024Mi", "0"))),
            volumeMode=text("Filesystem", "Block"),
            storageClassName=text("sc", "sc2"),
            volumeName=text("v"),
        )
    ),
    status=some(phase=text("Pending", "Bound"), capacity=exactly(storage=text("1Gi", "1024Mi"))),
)
LIMIT_RANGE = Subject(
    "limitranges",
    "LimitRange",
    base={"spec": {"limits": []}},
    parts=exactly(
        spec=some(
            limits=st.lists(
                exactly(type=text("PersistentVolumeClaim"), max=exactly(storage=text("10Gi", "20Gi"))), max_size=1
            )
        )
    ),
)
QUOTA = Subject(
    "resourcequotas",
    "ResourceQuota",
    versions=False,
    parts=exactly(spec=some(hard=st.dictionaries(text("pods", "count/widgets.example.com", "requests.cpu", "bad name"), text("10", "0.5", "-1"), max_size=2))),
)  # fmt: skip

_map_items = items(
    exactly(k=text("x", "y"), n=number).flatmap(lambda one: some(v=word, deep=words).map(lambda more: {**one, **more})),
    "k",
)
WIDGETS: JSON = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.differential.example.com"},
    "spec": {
        "group": "differential.example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wg"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "replicas": {"type": "integer", "minimum": 0, "maximum": 3},
                                    "text": {"type": "string", "default": "given", "maxLength": 5},
                                    "choice": {"type": "string", "enum": ["x", "y"]},
                                    "either": {"x-kubernetes-int-or-string": True},
                                    "nullable": {"type": "string", "nullable": True, "default": "n"},
                                    "atomic": {"type": "array", "items": {"type": "string"}},
                                    "atomics": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                                    "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                                    "numbers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
                                    "listmap": {
                                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "n"],
                                        "items": {
                                            "type": "object", "required": ["k"],
                                            "properties": {
                                                "k": {"type": "string"}, "n": {"type": "integer", "default": 0}, "v": {"type": "string"},
                                                "deep": {"type": "object", "additionalProperties": {"type": "string"}},
                                            },
                                        },
                                    },
                                    "granular": {"type": "object", "additionalProperties": {"type": "string"}},
                                    "atomicmap": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
                                    "struct": {
                                        "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 7}},
                                    },
                                    "atomicstruct": {
                                        "type": "object", "x-kubernetes-map-type": "atomic",
                                        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
                                    },
                                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                },
                            },
                            "status": {
                                "type": "object",
                                "properties": {
                                    "replicas": {"type": "integer"}, "phase": {"type": "string"},
                                    "conditions": {
                                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                                        "items": {
                                            "type": "object", "required": ["type"],
                                            "properties": {"type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}, "message": {"type": "string"}},
                                        },
                                    },
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}  # fmt: skip
WIDGET = Subject(
    "widgets",
    "Widget",
    "differential.example.com/v1",
    custom=True,
    parts=exactly(
        spec=some(
            replicas=number,
            text=word,
            choice=text("x", "y"),
            either=st.sampled_from([1, "1", "x"]),
            nullable=st.sampled_from([None, "x"]),
            atomic=st.lists(word, max_size=2),
            atomics=st.lists(words, max_size=2),
            set=word_set,
            numbers=st.lists(number, max_size=3, unique=True),
            listmap=_map_items,
            granular=words,
            atomicmap=words,
            struct=some(a=word, b=number),
            atomicstruct=some(a=word, b=number),
            free=st.dictionaries(text("k1", "k2"), st.one_of(word, number, words, st.lists(words, max_size=2), st.none()), max_size=2),
        )
    ),
    wrong=st.sampled_from(
        [
            {"spec": {"replicas": 9}}, {"spec": {"replicas": "x"}}, {"spec": {"choice": "z"}}, {"spec": {"unknown": 1}}, {"spec": {"text": "too long"}},
            {"spec": {"set": ["p", "p"]}}, {"spec": {"listmap": [{"k": "x"}, {"k": "x"}]}}, {"spec": {"listmap": [{"n": 1}]}}, {"spec": []}, {"spec": None},
            {"spec": {"struct": None}}, {"spec": {"replicas": None}}, {"spec": {"replicas": 1.5}}, {"spec": {"either": 1.5}}, {"spec": {"granular": {"k1": 1}}},
            {"spec": {"set": None}}, {"spec": {"listmap": None}}, {"spec": {"numbers": [1.0, 1]}}, {"unknownTop": {"a": 1}}, {"spec": {"struct": {"c": 1}}},
            {"spec": {"text": None}}, {"spec": {"listmap": [None]}}, {"spec": {"listmap": [{"k": "x", "zz": 1}]}},
        ]
    ),
    status=some(replicas=number, phase=word, conditions=items(_condition, "type", 2)),
    scale=True,
    edits=(
        {"op": "add", "path": "/spec", "value": {"replicas": 1}},
        {"op": "add", "path": "/spec/set", "value": ["q", "p"]},
        {"op": "add", "path": "/spec/set/-", "value": "r"},
        {"op": "remove", "path": "/spec/listmap/0"},
        {"op": "remove", "path": "/spec"},
        {"op": "replace", "path": "/spec/text", "value": "j"},
        {"op": "remove", "path": "/spec/struct/b"},
    ),
)  # fmt: skip

SUBJECTS = (
    CONFIG_MAP, SECRET, SERVICE, DEPLOYMENT, STATEFUL_SET, DAEMON_SET, REPLICA_SET, POD, JOB, CRON_JOB, ROLE, LEASE, SERVICE_ACCOUNT, INGRESS,
    NETWORK_POLICY, BUDGET, CLAIM, LIMIT_RANGE, QUOTA, WIDGET,
)  # fmt: skip
