"""What a function returned -> objects that may be applied, each checked with one line that names it; and the order in which they go.

    [{name, apiVersion, kind, body} | {manifest}], status, waiting --checked--> Wanted: parts by name, each CLAIM-NAME in the claim's namespace

What comes in is hostile: nothing in it is trusted to be of any type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from trimtab.api import JSON
from trimtab.components.infrastructure.composition.fields import OF_STATUS
from trimtab.components.infrastructure.composition.kinds import (
    AFTER_ANNOTATION,
    COMPOSITE_LABEL,
    FIELDS,
    NAME_ANNOTATION,
    ComposedKind,
)

PARTS_MAX = 500
NAME_MAX = 253
LABEL_MAX = 63
NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
VERSION = re.compile(r"^([a-z0-9.-]+/)?v[0-9][a-z0-9]*$")
KIND = re.compile(r"^[A-Z][A-Za-z0-9]*$")
OWN = ("trimtab.dev/", "kubernetes.io/", "k8s.io/")
META = frozenset({"name", "namespace", "labels", "annotations"})


class BadOutput(ValueError):
    """What a function returned cannot be applied: one line."""


class NotNamed(ValueError):
    """A function returned a kind that its definition does not name: one line."""


class Part(Struct, frozen=True):
    """One object that should exist. object: as it is applied; after: names of others that it needs."""

    name: str
    api_version: str
    kind: str
    object: JSON
    after: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        name: str = self.object["metadata"]["name"]
        return name


class Wanted(Struct, frozen=True):
    """What a function wants: objects in the order in which they need each other, fields of the status, what it waits for."""

    parts: tuple[Part, ...]
    status: JSON = {}
    waiting: str = ""


class _Answer(Struct):
    resources: list[JSON]
    status: JSON
    waiting: list[str]


def checked(returned: Any, claim: str, namespace: str) -> Wanted:
    """Raises `BadOutput`."""
    try:
        answer = msgspec.convert(returned, _Answer)
    except msgspec.ValidationError as err:
        raise BadOutput(f"compose's answer is none: {err}") from None
    if len(answer.resources) > PARTS_MAX:
        raise BadOutput(f"compose returned {len(answer.resources)} resources, more than {PARTS_MAX}")
    if taken := sorted(OF_STATUS & answer.status.keys()):
        raise BadOutput(f"Status: {taken[0]} is not the function's to set")
    parts: dict[str, Part] = {}
    for one in answer.resources:
        part = _part(one, claim, namespace)
        if (other := parts.get(part.name)) is not None:
            raise BadOutput(
                f"{part.name}: two resources have this name, a {other.kind} and a {part.kind}: names are unique in a claim"
            )
        parts[part.name] = part
    return Wanted(tuple(ordered(parts)), answer.status, "; ".join(answer.waiting)[:500])


def refuse_unnamed(wanted: Wanted, composes: Iterable[ComposedKind]) -> None:
    """What a function returns is of the kinds that its definition names, and of no other. Raises `NotNamed`."""
    named = {(one.api_version, one.kind) for one in composes}
    for part in wanted.parts:
        if (part.api_version, part.kind) not in named:
            raise NotNamed(
                f"spec.composes: it does not name {part.kind} of {part.api_version}, which {part.name} is: add "
                f'Kind("{part.api_version}", "{part.kind}") to @definition(composes=[...]), and render and apply it again'
            )


def _part(one: JSON, claim: str, namespace: str) -> Part:
    whole = one.get("manifest")
    if whole is None:
        whole = {**_map(one.get("body"), "body", "a resource")}
        meta = _map(whole.get("metadata", {}), "metadata", str(one.get("name")))
        whole["metadata"] = {
            **meta,
            "name": one.get("name"),
            "labels": {
                **_map(meta.get("labels", {}), "labels", "a resource"),
                **_map(one.get("labels"), "labels", "a resource"),
            },
            "annotations": {
                **_map(meta.get("annotations", {}), "annotations", "a resource"),
                **_map(one.get("annotations"), "annotations", "a resource"),
            },
        }
        whole |= {"apiVersion": one.get("apiVersion"), "kind": one.get("kind")}
    whole = dict(_map(whole, "manifest", "a resource"))
    after = one.get("after", [])
    if not isinstance(after, list) or not all(isinstance(other, str) for other in after):
        raise BadOutput("after: it is a list of resources or their names")
    meta = _map(whole.pop("metadata", None), "metadata", "a manifest")
    name = meta.get("name")
    if not isinstance(name, str) or not NAME.match(name):
        raise BadOutput(f"{name!r:.60} is no name of a resource: lower-case letters, digits and dashes")
    api_version, kind = whole.pop("apiVersion", None), whole.pop("kind", None)
    if not isinstance(api_version, str) or not VERSION.match(api_version):
        raise BadOutput(f"{name}: {api_version!r:.60} is no apiVersion")
    if not isinstance(kind, str) or not KIND.match(kind):
        raise BadOutput(f"{name}: {kind!r:.60} is no kind")
    where = meta.get("namespace") or namespace
    if where != namespace:
        raise BadOutput(
            f"{name}: it is in the namespace {where}: all that a claim is composed of is in its own, {namespace}"
        )
    called = f"{claim}-{name}"
    if len(called) > NAME_MAX:
        raise BadOutput(f"{name}: {called[:40]}... is longer than the {NAME_MAX} characters that a name may have")
    if strange := sorted(meta.keys() - META):
        raise BadOutput(f"{name}: metadata.{strange[0]} is not a function's to set")
    whole.pop("status", None)
    if strange := sorted(whole.keys() - FIELDS):
        raise BadOutput(f"{name}: {kind} with a field {strange[0]} cannot be composed")
    if (api_version, kind) == ("v1", "Secret"):
        raise BadOutput(
            f"{name}: a Secret cannot be composed, for a function knows no secrets: refer to one by name, or use spec.connection of the definition"
        )
    _no_secrets(name, whole)
    labels, annotations = (_texts(meta.get(one) or {}, f"{name}: metadata.{one}") for one in ("labels", "annotations"))
    labels[COMPOSITE_LABEL] = claim if len(claim) <= LABEL_MAX else claim[:LABEL_MAX].rstrip("-.")
    annotations[NAME_ANNOTATION] = name
    if after:
        annotations[AFTER_ANNOTATION] = ",".join(after)
    made = {"name": called, "namespace": namespace, "labels": labels, "annotations": annotations}
    return Part(name, api_version, kind, {**whole, "metadata": made}, tuple(after))


def _map(value: Any, what: str, of: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadOutput(f"{of}: {what} is no map")
    return value


def _texts(found: Any, where: str) -> dict[str, str]:
    for key, value in _map(found, "it", where).items():
        if not isinstance(value, str):
            raise BadOutput(f"{where}.{key}: {value!r:.60} is no text")
        if any(key.startswith(own) or key.partition("/")[0].endswith(f".{own[:-1]}") for own in OWN) and key.startswith(
            OWN[0]
        ):
            raise BadOutput(f"{where}.{key}: such keys are Trimtab's own")
    return dict(found)


SECRET_LIKE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def _no_secrets(name: str, value: Any) -> None:
    """What is no doubt a secret is not written where anybody may read it."""
    for text in _strings(value):
        if SECRET_LIKE.search(text):
            raise BadOutput(
                f"{name}: it has a private key in it, which whoever may read it would see: put it in a Secret and refer to that"
            )


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


# Order


def needs(objects: Mapping[str, tuple[str, JSON]], after: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Name -> names of what it refers to. objects: name -> kind and object; after: what is said beside.

    An object refers to another by `references` to its output, by the name of its connection Secret, or by a map with its kind and name.
    """
    by_place = {(kind, one["metadata"]["name"]): name for name, (kind, one) in objects.items()}
    by_secret = {secret: name for name, (_, one) in objects.items() if (secret := secret_of(one))}
    out: dict[str, set[str]] = {}
    for name, (_, one) in objects.items():
        spec = one.get("spec")
        found = {other for other in after.get(name, ()) if other in objects}
        for each in _maps(spec):
            called = each.get("name")
            if isinstance(called, str):
                kind = each.get("kind")
                found |= {by_place[kind, called]} if isinstance(kind, str) and (kind, called) in by_place else set()
                found |= {by_secret[called]} if called in by_secret else set()
            named = each.get("secretName")
            found |= {by_secret[named]} if isinstance(named, str) and named in by_secret else set()
        out[name] = found - {name}
    return out


def secret_of(one: JSON) -> str:
    """The connection Secret of an object, or empty."""
    spec, status = one.get("spec"), one.get("status")
    connection = spec.get("connection") if isinstance(spec, Mapping) else None
    if isinstance(connection, Mapping) and isinstance(connection.get("secretName"), str):
        return str(connection["secretName"])
    secret = status.get("connectionSecret") if isinstance(status, Mapping) else None
    return secret if isinstance(secret, str) else ""


def _maps(value: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for one in value.values():
            yield from _maps(one)
    elif isinstance(value, list):
        for one in value:
            yield from _maps(one)


def ordered(parts: Mapping[str, Part]) -> list[Part]:
    """What is needed first. Raises `BadOutput`: they need each other, or one that is not there."""
    for part in parts.values():
        for other in part.after:
            if other not in parts:
                raise BadOutput(f"{part.name}: it comes after {other}, which compose did not return")
    edges = needs({p.name: (p.kind, p.object) for p in parts.values()}, {p.name: p.after for p in parts.values()})
    done: dict[str, Part] = {}
    while len(done) < len(parts):
        free = [name for name in parts if name not in done and edges[name] <= done.keys()]
        if not free:
            raise BadOutput(f"{' -> '.join(_cycle(edges, [n for n in parts if n not in done]))}: they need each other")
        done |= {name: parts[name] for name in free}
    return list(done.values())


def _cycle(edges: Mapping[str, set[str]], names: list[str]) -> list[str]:
    path = [names[0]]
    while True:
        following = min(one for one in edges[path[-1]] if one in names)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
