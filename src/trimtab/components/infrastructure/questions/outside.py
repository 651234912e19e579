"""Asking an engine what providers would do with objects, from outside of it, in the order of their references.

objects --waves, by namespace and ProviderConfig--> POST providerconfigs/NAME/plan --> plans; each sees the outcome of those before
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from trimtab.api import JSON, ResourceType
from trimtab.client import ApiError, WireClient
from trimtab.components.infrastructure.kinds import ProviderConfig
from trimtab.components.infrastructure.questions.ordering import Circle, key_of, place_of, waves

AT_ONCE = 20
"""Objects of one question: a credential's reads are rationed, and a question must be answered within a minute."""
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
Given = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Data of Secrets that are to be written, by namespace and name."""


async def kept_objects(client: WireClient, namespace: str | None, provider: str = "") -> list[JSON]:
    """All objects of providers' kinds, or of one provider's. Raises `ApiError`."""
    label = f"trimtab.dev/provider={provider}" if provider else "trimtab.dev/provider"
    found = await client.read(CRDS, {"labelSelector": label})
    objects: list[JSON] = []
    for one in found.get("items") or []:
        spec = one["spec"]
        version, names = spec["versions"][0]["name"], spec["names"]
        kind = ResourceType(f"{spec['group']}/{version}", names["kind"], names["plural"], namespaced=True)
        objects += (await client.list(kind, namespace))["items"]
    return objects


async def plans_of(
    client: WireClient,
    objects: Sequence[JSON],
    *,
    secrets: Given | None = None,
    to_come: Collection[tuple[str, str]] = (),
    program: Mapping[str, str] | None = None,
) -> list[JSON]:
    """What would become of objects of providers' kinds, in the order in which it would be done.

    to_come: (namespace, name) of ProviderConfigs that are made together with them. program: version and checksum of another program of
    their provider, which is asked instead.
    """
    try:
        ordered = waves(objects)
    except Circle as err:
        return [identity(obj) | {"action": "", "error": str(err)} for obj in objects]
    foreseen: dict[str, dict[str, JSON]] = {}
    plans = []
    for wave in ordered:
        for (namespace, config), group in _grouped(wave).items():
            known = foreseen.setdefault(namespace, {})
            for start in range(0, len(group), AT_ONCE):
                question: JSON = {"objects": group[start : start + AT_ONCE], "foreseen": known}
                question |= {"secrets": (secrets or {}).get(namespace, {}), "program": program}
                told = await _ask(client, namespace, config, question, expected=(namespace, config) in to_come)
                known |= {key_of(one["apiVersion"], one["kind"], one["name"]): one.pop("outputs", {}) for one in told}
                plans += told
    return plans


async def _ask(client: WireClient, namespace: str, config: str, question: JSON, *, expected: bool) -> list[JSON]:
    path = ProviderConfig.resource_type.path(namespace, config, "plan")
    try:
        answer = await client.send("POST", path, {}, msgspec.json.encode(question))
    except ApiError as err:
        if err.status == 404 and expected:
            why = f"ProviderConfig {config} is made together with it: its provider can be asked then"
            return [unchecked(obj, why) for obj in question["objects"]]
        text = refusal(err, namespace, config)
        return [identity(obj) | {"action": "", "error": text} for obj in question["objects"]]
    plans: list[JSON] = msgspec.json.decode(answer.body)["plans"]
    return plans


def refusal(err: ApiError, namespace: str, config: str) -> str:
    """Why a ProviderConfig could not be asked, in one line."""
    match err.status:
        case 404:
            return f"there is no ProviderConfig {config} in namespace {namespace}"
        case 503:
            return "the engine's controllers do not answer: trimtab status"
    return str(err)


def identity(obj: JSON) -> JSON:
    """The part of a plan that says of what it is."""
    meta = obj["metadata"]
    place = {"apiVersion": obj["apiVersion"], "kind": obj["kind"]}
    return {**place, "name": meta["name"], "namespace": meta.get("namespace", "")}


def unchecked(obj: JSON, why: str, changes: Sequence[Any] = ()) -> JSON:
    """The plan of an object that is to be made and about which nobody can be asked yet."""
    return identity(obj) | {"action": "create", "changes": list(changes), "reason": "Unchecked", "message": why}


def _grouped(wave: Sequence[JSON]) -> dict[tuple[str, str], list[JSON]]:
    """By namespace and ProviderConfig."""
    out: dict[tuple[str, str], list[JSON]] = {}
    for obj in wave:
        config = ((obj.get("spec") or {}).get("providerRef") or {}).get("name", "default")
        out.setdefault((place_of(obj)[0], config), []).append(obj)
    return out


__all__ = ["identity", "kept_objects", "plans_of", "refusal", "unchecked"]
