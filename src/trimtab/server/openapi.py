"""What the server publishes of itself as OpenAPI v3: one document a group version, and their index.

kubectl reads these for `explain`, for the merge keys of `apply` and `edit`, and to learn whether the server knows
`fieldValidation`, `dryRun` and `fieldManager`. A document is made from the published definitions of the built-in kinds
(with their descriptions) and from the CRDs' own schemas; nothing is kept, so publishing 2,000 kinds costs nothing until
somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from trimtab.server import definitions
from trimtab.server.kinds import Kind

JSON = dict[str, Any]

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
METADATA = "Standard object's metadata."
_SCHEMAS = "#/components/schemas/"
_SCALE = "io.k8s.api.autoscaling.v1.Scale"
_PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_BODY_KINDS = {"Eviction": "policy/v1/Eviction", "TokenRequest": "authentication.k8s.io/v1/TokenRequest"}
"""Bodies of subresources that belong to another group."""


def path_of(group: str, version: str) -> str:
    """The document of a group version, relative to `/openapi/v3/`: `api/v1`, `apis/apps/v1`."""
    return f"apis/{group}/{version}" if group else f"api/{version}"


def index(hashes: Mapping[str, str]) -> JSON:
    """The answer to `/openapi/v3`: `hashes` has a hash that changes with the document for each `path_of`."""
    paths = {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"} for path, digest in hashes.items()}
    return {"paths": paths}


def document(kinds: Sequence[Kind], crd_schema: Callable[[Kind], JSON | None]) -> JSON:
    """The OpenAPI v3 document of one group version.

    Args:
        kinds: everything served in that group version.
        crd_schema: the `openAPIV3Schema` of a custom kind; None where it has none.
    """
    components: JSON = {}
    wanted: set[str] = {META + "Status", META + "DeleteOptions", META + "ObjectMeta", META + "ListMeta"}
    paths: JSON = {}
    for kind in kinds:
        name = schema_name(kind)
        if kind.crd:
            components[name] = _custom_component(kind, crd_schema(kind) or {})
            components[f"{name}List"] = _custom_list(kind, name)
        else:
            wanted.add(name)
        for path, item in _paths(kind, name):
            paths[path] = item
            wanted.update(_references(item))
    _add_components(components, wanted)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": f"v{definitions.kubernetes_version()}"},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        },
    }


def schema_name(kind: Kind) -> str:
    """The component that describes a kind: the published definition, or the group reversed (`dev.trimtab.v1alpha1.App`)."""
    published = None if kind.crd else definitions.kinds().get(f"{kind.api_version}/{kind.kind}")
    return published or ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])


# --- components ---------------------------------------------------------------------------------------------------


def _references(part: Any) -> Iterator[str]:
    """The components that a piece of a document refers to."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix(_SCHEMAS)
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def _add_components(components: JSON, wanted: Iterable[str]) -> None:
    """Adds published definitions and all that they refer to."""
    queue = [name for name in wanted if name not in components]
    while queue:
        name = queue.pop()
        if name in components:
            continue
        try:
            published = definitions.text(name)
        except KeyError:
            components[name] = {"type": "object"}
            continue
        components[name] = _component(published)
        queue.extend(ref for ref in _references(components[name]) if ref not in components)


def _component(schema: JSON) -> JSON:
    """A published definition in the form that OpenAPI v3 has: no null types, references that keep their description."""
    reference = schema.get("$ref")
    if reference is not None:
        ref = {"$ref": _SCHEMAS + reference.rpartition("/")[2]}
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return {**rest, "allOf": [ref]} if rest else ref
    out: JSON = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, list):
            out[key] = next(name for name in value if name != "null")
        elif key == "properties":
            out[key] = {name: _component(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = _component(value)
        elif key == "oneOf":
            out[key] = [_component(child) for child in value]
        elif key != "enum":  # only the wheel's own pinning of apiVersion and kind
            out[key] = value
    return out


def type_meta() -> JSON:
    """`apiVersion` and `kind` as every object has them, described in the published words."""
    published = definitions.text("io.k8s.api.core.v1.ConfigMap")["properties"]
    return {
        name: {"type": "string", "description": published[name].get("description", "")}
        for name in ("apiVersion", "kind")
    }


def _custom_component(kind: Kind, schema: JSON) -> JSON:
    properties = {
        **schema.get("properties", {}),
        **type_meta(),
        "metadata": {"description": METADATA, "allOf": [{"$ref": f"{_SCHEMAS}{META}ObjectMeta"}]},
    }
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    return {"type": "object", **schema, "properties": properties, "x-kubernetes-group-version-kind": [gvk]}


def _custom_list(kind: Kind, name: str) -> JSON:
    return list_of(kind, {"allOf": [{"$ref": f"{_SCHEMAS}{META}ListMeta"}]}, {"allOf": [{"$ref": _SCHEMAS + name}]})


def list_of(kind: Kind, meta: JSON, item: JSON) -> JSON:
    """The definition of the list of a custom kind; `meta` and `item` are references."""
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.list_name}
    return {
        "type": "object",
        "description": f"{kind.list_name} is a list of {kind.kind}",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": meta,
            "items": {"type": "array", "items": item},
        },
        "x-kubernetes-group-version-kind": [gvk],
    }


# --- paths --------------------------------------------------------------------------------------------------------


def _parameter(name: str, kind: str, description: str) -> JSON:
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": True}}


_DRY_RUN = _parameter("dryRun", "string", "When present, nothing is persisted. Valid value: All.")
_FIELD_MANAGER = _parameter("fieldManager", "string", "The name of the actor that makes this change.")
_FIELD_VALIDATION = _parameter(
    "fieldValidation", "string", "What to do with unknown or duplicate fields: Ignore, Warn or Strict."
)
_FORCE = _parameter("force", "boolean", "Take over fields that others own. Only for apply.")
_PRETTY = _parameter("pretty", "string", "If 'true', the output is indented.")
_LIST_PARAMETERS = [
    _parameter("allowWatchBookmarks", "boolean", "Asks for BOOKMARK events in a watch."),
    _parameter("continue", "string", "Goes on with a list that was cut by limit."),
    _parameter("fieldSelector", "string", "Only objects whose fields match."),
    _parameter("labelSelector", "string", "Only objects whose labels match."),
    _parameter("limit", "integer", "The most items of one answer."),
    _parameter("resourceVersion", "string", "How fresh the answer must be."),
    _parameter("resourceVersionMatch", "string", "How resourceVersion is meant."),
    _parameter("sendInitialEvents", "boolean", "Begins a watch with the state of things."),
    _parameter("timeoutSeconds", "integer", "How long a watch lasts."),
    _parameter("watch", "boolean", "Watch for changes instead of listing."),
]
_DELETE_PARAMETERS = [
    _DRY_RUN,
    _parameter("gracePeriodSeconds", "integer", "The seconds until the object is deleted."),
    _parameter("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    _parameter("propagationPolicy", "string", "Orphan, Background or Foreground."),
]
_WRITE = [_DRY_RUN, _FIELD_MANAGER, _FIELD_VALIDATION]
_PARAMETERS: Mapping[str, list[JSON]] = {
    "get": [],
    "list": _LIST_PARAMETERS,
    "create": _WRITE,
    "update": _WRITE,
    "patch": [*_WRITE, _FORCE],
    "delete": _DELETE_PARAMETERS,
    "deletecollection": [*_LIST_PARAMETERS[:6], *_DELETE_PARAMETERS],
}
_METHODS = {
    "get": ("get", "get", "read"),
    "list": ("get", "list", "list"),
    "create": ("post", "post", "create"),
    "update": ("put", "put", "replace"),
    "patch": ("patch", "patch", "patch"),
    "delete": ("delete", "delete", "delete"),
    "deletecollection": ("delete", "deletecollection", "deleteCollection"),
}
"""Verb -> (HTTP method, x-kubernetes-action, first word of the operation's id)."""


def _paths(kind: Kind, name: str) -> Iterator[tuple[str, JSON]]:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    scope = f"{root}/namespaces/{{namespace}}" if kind.namespaced else root
    place = [_path_parameter("namespace", "object name and auth scope, such as for teams and projects")]
    shared = [*(place if kind.namespaced else []), _PRETTY]
    named = [_path_parameter("name", f"name of the {kind.kind}"), *shared]
    list_name = schema_name_of_list(kind, name)
    collection = {"list": list_name, "create": name, "deletecollection": META + "Status"}
    item = {"get": name, "update": name, "patch": name, "delete": META + "Status"}
    operations = _operations(kind, collection, "", kind.verbs)
    if operations:
        yield f"{scope}/{kind.plural}", {**operations, "parameters": shared}
    if kind.namespaced and "list" in kind.verbs:
        everywhere = _operations(kind, {"list": list_name}, "ForAllNamespaces", kind.verbs)
        yield f"{root}/{kind.plural}", {**everywhere, "parameters": [_PRETTY]}
    operations = _operations(kind, item, "", kind.verbs)
    if operations:
        yield f"{scope}/{kind.plural}/{{name}}", {**operations, "parameters": named}
    subresources = list(kind.subresources)
    if kind.status:
        subresources.append(("status", kind.kind, ("get", "update", "patch")))
    if kind.scale is not None:
        subresources.append(("scale", "Scale", ("get", "update", "patch")))
    for sub, body, verbs in subresources:
        component = _body_component(kind, name, body)
        if component is None:
            continue
        same = component == name
        parts = dict.fromkeys(("get", "create", "update", "patch"), component)
        operations = _operations(kind, parts, sub.capitalize(), verbs, gvk=None if same else _gvk_of(component, kind))
        yield f"{scope}/{kind.plural}/{{name}}/{sub}", {**operations, "parameters": named}


def schema_name_of_list(kind: Kind, name: str) -> str:
    """The component of a kind's list."""
    published = None if kind.crd else definitions.kinds().get(f"{kind.api_version}/{kind.list_name}")
    return published or f"{name}List"


def _body_component(kind: Kind, name: str, body: str) -> str | None:
    """The component of a subresource's body; None for streams, whose options are query parameters."""
    if body == kind.kind:
        return name
    if body == "Scale":
        return _SCALE
    return definitions.kinds().get(_BODY_KINDS.get(body, f"{kind.api_version}/{body}"))


def _gvk_of(component: str, kind: Kind) -> JSON:
    gvks = definitions.text(component).get("x-kubernetes-group-version-kind")
    found: JSON = gvks[0] if gvks else {"group": kind.group, "version": kind.version, "kind": kind.kind}
    return found


def _path_parameter(name: str, description: str) -> JSON:
    schema = {"type": "string", "uniqueItems": True}
    return {"name": name, "in": "path", "description": description, "required": True, "schema": schema}


def _operations(
    kind: Kind, components: Mapping[str, str], suffix: str, verbs: Sequence[str], *, gvk: JSON | None = None
) -> JSON:
    """The operations of one path: for each verb that is served, what it takes and gives."""
    out: JSON = {}
    group = "".join(part.capitalize() for part in kind.group.removesuffix(".k8s.io").split(".")) or "Core"
    scope = "Namespaced" if kind.namespaced and suffix != "ForAllNamespaces" else ""
    for verb, component in components.items():
        if verb not in verbs:
            continue
        method, action, word = _METHODS[verb]
        schema = {"$ref": _SCHEMAS + component}
        content = {"application/json": {"schema": schema}}
        operation: JSON = {
            "tags": [f"{kind.group.partition('.')[0] or 'core'}_{kind.version}"],
            "description": f"{word} {'objects' if verb in ('list', 'deletecollection') else 'an object'} of kind {kind.kind}",
            "operationId": f"{word}{group}{kind.version.capitalize()}{scope}{kind.kind}{suffix}",
            "parameters": _PARAMETERS[verb],
            "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk or {"group": kind.group, "version": kind.version, "kind": kind.kind},
        }
        if verb in ("create", "update"):
            operation["requestBody"] = {"required": True, "content": content}
        elif verb == "patch":
            patch = {"schema": {"$ref": f"{_SCHEMAS}{META}Patch"}}
            types = [name for name in _PATCHES if not (kind.crd and "strategic" in name)]
            operation["requestBody"] = {"required": True, "content": dict.fromkeys(types, patch)}
        elif verb in ("delete", "deletecollection"):
            options = {"schema": {"$ref": f"{_SCHEMAS}{META}DeleteOptions"}}
            operation["requestBody"] = {"content": {"application/json": options}}
        out[method] = operation
    return out
