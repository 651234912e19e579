"""Asking what providers would do with objects, from outside of the process that runs them, in the order of their references.

objects --waves, by namespace and ProviderConfig--> `told` --> plans; each sees the outcome of those before
`told`: of an engine of ours POST providerconfigs/NAME/plan        of another cluster an InfrastructureReview, answered by its `trimtab run`
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from trimtab.api import JSON, ResourceType
from trimtab.client import ApiError, WireClient
from trimtab.components.infrastructure.composition.kinds import CompositeDefinition
from trimtab.components.infrastructure.kinds import ProviderConfig
from trimtab.components.infrastructure.questions.ordering import key_of, place_of, waves
from trimtab.components.infrastructure.schemas import naming
from trimtab.components.infrastructure.schemas.naming import GROUP_SUFFIX

AT_ONCE = 20
"""Objects of one question: a credential's reads are rationed, and a question must be answered within a minute."""
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
Tell = Callable[[int, int], None]
"""Told how many of how many are planned, every now and then."""
Given = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Data of Secrets that are to be written, by namespace and name."""


REVIEWS = ResourceType("trimtab.dev/v1alpha1", "InfrastructureReview", "infrastructurereviews")
SECRETS = ResourceType("v1", "Secret", "secrets")
MANAGER = "trimtab-review"
TAKEN_WITHIN_S, ANSWERED_WITHIN_S = 15.0, 180.0
LOOK_S = 0.1
Asked = type[ProviderConfig] | type[CompositeDefinition]


async def reviewed(client: WireClient) -> bool:
    """Whether this API is a cluster's whose `trimtab run` answers reviews; else it is an engine's, which has subresources for questions."""
    try:
        found = await client.read(f"/apis/{REVIEWS.api_version}")
    except ApiError as err:
        if err.status in (403, 404):
            return False
        raise
    return any(one.get("name") == REVIEWS.plural for one in found.get("resources") or ())


async def told(client: WireClient, kind: Asked, namespace: str, name: str, ask: str, question: JSON) -> Any:
    """The answer of a ProviderConfig in a namespace, or of a CompositeDefinition for it, to `plan`, `import` or `compose`.

    Raises:
        ApiError: it was refused; nobody answers (503, 504); there is none (404).
    """
    if await reviewed(client):
        return await _reviewed(client, kind, namespace, name, ask, question)
    answer = await client.send("POST", kind.resource_type.path(namespace, name, ask), {}, msgspec.json.encode(question))
    return msgspec.json.decode(answer.body)


async def _reviewed(client: WireClient, kind: Asked, namespace: str, name: str, ask: str, question: JSON) -> Any:
    secrets = question.pop("secrets", None) or {}
    spec = {"kind": kind.resource_type.kind, "name": name, "ask": ask, "given": bool(secrets)}
    spec["question"] = msgspec.json.encode(question).decode()
    review: JSON = {"apiVersion": REVIEWS.api_version, "kind": REVIEWS.kind, "spec": spec}
    review["metadata"] = {"generateName": f"{ask}-", "namespace": namespace}
    made = await client.create(REVIEWS, review, manager=MANAGER)
    meta = made["metadata"]
    try:
        if secrets:
            await _give(client, meta, secrets)
        status = await _answer(client, meta["name"], namespace)
    finally:
        with contextlib.suppress(ApiError, ConnectionError):
            await client.delete(REVIEWS, meta["name"], namespace)
    if status["code"] != 200:
        raise ApiError(status["code"], "", status["answer"])
    return msgspec.json.decode(status["answer"])


async def _give(client: WireClient, review: JSON, secrets: Any) -> None:
    """Values that no other object than a Secret is to have; the Secret goes with the review."""
    owner = {"apiVersion": REVIEWS.api_version, "kind": REVIEWS.kind, "name": review["name"], "uid": review["uid"]}
    meta = {"name": review["name"], "namespace": review["namespace"], "ownerReferences": [owner]}
    text = base64.b64encode(msgspec.json.encode(secrets)).decode()
    secret: JSON = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"secrets": text}}
    await client.create(SECRETS, secret, manager=MANAGER)


async def _answer(client: WireClient, name: str, namespace: str) -> JSON:
    """The status of a review that is answered. Raises `ApiError` 504."""
    now = asyncio.get_running_loop().time
    began = now()
    while True:
        status: JSON = (await client.get(REVIEWS, name, namespace) or {}).get("status") or {}
        if status.get("code"):
            return status
        if now() - began > (ANSWERED_WITHIN_S if status.get("taken") else TAKEN_WITHIN_S):
            break
        await asyncio.sleep(LOOK_S)
    if status.get("taken"):
        raise ApiError(
            504, "", f"there was no answer within {ANSWERED_WITHIN_S:.0f} s: ask about fewer objects at once"
        )
    raise ApiError(504, "", f"no `trimtab run` of this cluster answered within {TAKEN_WITHIN_S:.0f} s: is it running?")


async def kept_objects(client: WireClient, namespace: str | None, provider: str = "") -> list[JSON]:
    """All objects of providers' kinds, or of one provider's. Raises `ApiError`."""
    objects: list[JSON] = []
    for kind in await _kinds(client, provider):
        objects += (await client.list(kind, namespace))["items"]
    return objects


async def _kinds(client: WireClient, provider: str) -> list[ResourceType]:
    """The enabled kinds, by their definitions; for who may not read those, as the API's discovery names them."""
    label = f"trimtab.dev/provider={provider}" if provider else "trimtab.dev/provider"
    try:
        found = await client.read(CRDS, {"labelSelector": label})
    except ApiError as err:
        if err.status != 403:
            raise
        served = [kind for kind in await client.discover() if kind.group.endswith(f".{GROUP_SUFFIX}")]
        return [kind for kind in served if not provider or kind.group == naming.group(provider)]
    kinds = []
    for one in found.get("items") or []:
        spec = one["spec"]
        version, names = spec["versions"][0]["name"], spec["names"]
        kinds.append(ResourceType(f"{spec['group']}/{version}", names["kind"], names["plural"], namespaced=True))
    return kinds


async def plans_of(
    client: WireClient,
    objects: Sequence[JSON],
    *,
    secrets: Given | None = None,
    to_come: Collection[tuple[str, str]] = (),
    program: Mapping[str, str] | None = None,
    tell: Tell = lambda done, total: None,
) -> list[JSON]:
    """What would become of objects of providers' kinds, in the order in which it would be done; last those that a circle of references
    keeps from it.

    to_come: (namespace, name) of ProviderConfigs that are made together with them. program: version and checksum of another program of
    their provider, which is asked instead. tell: hears how far it is.
    """
    ordered, circles = waves(objects)
    foreseen: dict[str, dict[str, JSON]] = {}
    plans = []
    for wave in ordered:
        for (namespace, config), group in _grouped(wave).items():
            known = foreseen.setdefault(namespace, {})
            for start in range(0, len(group), AT_ONCE):
                question: JSON = {"objects": group[start : start + AT_ONCE], "foreseen": known}
                question |= {"secrets": (secrets or {}).get(namespace, {}), "program": program}
                found = await _ask(client, namespace, config, question, expected=(namespace, config) in to_come)
                known |= {key_of(one["apiVersion"], one["kind"], one["name"]): one.pop("outputs", {}) for one in found}
                plans += found
                tell(len(plans), len(objects))
    return plans + [identity(obj) | {"action": "", "error": why} for obj, why in circles]


async def _ask(client: WireClient, namespace: str, config: str, question: JSON, *, expected: bool) -> list[JSON]:
    try:
        answer = await told(client, ProviderConfig, namespace, config, "plan", dict(question))
    except ApiError as err:
        if err.status == 404 and expected:
            why = f"ProviderConfig {config} is made together with it: its provider can be asked then"
            return [unchecked(obj, why) for obj in question["objects"]]
        text = refusal(err, namespace, config)
        return [identity(obj) | {"action": "", "error": text} for obj in question["objects"]]
    plans: list[JSON] = answer["plans"]
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


__all__ = ["identity", "kept_objects", "plans_of", "refusal", "reviewed", "told", "unchecked"]
