"""Hypothesis strategies of requests: random stories that two Kubernetes APIs must tell alike.

A `Subject` is a kind with what can be written into it (`differential_subject.py`; the kinds: `differential_kinds.py`);
`stories(subject)` draws a list of `Ask`s (`differential_replay.py`) about two objects of it: created, replaced, patched in four
ways, applied by several managers, deleted, listed and watched.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from differential_replay import Ask
from differential_subject import JSON, Subject, merged, metadata, text, wrong_metadata

NAMES = ("a", "b")
MANAGERS = ("one", "two", "kubectl")
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
SENTINEL = "zz"


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
