"""kill -9 and broken connections at every step of composing: a claim is made, changed and deleted, and nothing of it is left or doubled."""

from __future__ import annotations

import pytest

from managed_world import NAMESPACE
from mortal_world import MortalWorld
from suffering import STEPS_MAX, Stages, Victim
from trimtab.api import JSON, ObjectMeta, ResourceType
from trimtab.api.core import ConfigMap
from trimtab.components.infrastructure.composition.kinds import (
    COMPOSITE_LABEL,
    ComposedKind,
    ComposeSpec,
    CompositeDefinition,
    CompositeDefinitionSpec,
    Names,
)

SHELF = ResourceType("acme.example/v1alpha1", "Shelf", "shelfs")
SOURCE = """
from dataclasses import dataclass
from trimtab.compose import Claim, Composed, Manifest, Observed

@dataclass
class Shelf:
    names: list[str]

def compose(xr: Claim[Shelf], observed: Observed) -> Composed:
    out = []
    for name in xr.spec.names:
        out.append(Manifest(name, "v1", "ConfigMap", {"data": {"of": xr.name}}, after=out[-1:]))
    return out
"""


def definition() -> CompositeDefinition:
    spec = CompositeDefinitionSpec(
        group="acme.example",
        names=Names(kind="Shelf", plural="shelfs"),
        fields={"names": {"type": "array", "items": {"type": "string"}, "required": True}},
        connection={"first": "{{ a.name }}"},
        composes=[ComposedKind("v1", "ConfigMap")],
        compose=ComposeSpec(source=SOURCE),
    )
    return CompositeDefinition(metadata=ObjectMeta(name="shelfs.acme.example"), spec=spec)


async def declare(world: MortalWorld, name: str, *names: str) -> None:
    body: JSON = {"apiVersion": SHELF.api_version, "kind": "Shelf", "metadata": {"name": name, "namespace": NAMESPACE}}
    await world.client.wire.apply(SHELF, body | {"spec": {"names": [*names]}}, manager="test", force=True)


async def ready(world: MortalWorld, name: str, *names: str) -> bool:
    """Whether a claim says that all is ready, and it is made of these."""
    found = await world.client.wire.get(SHELF, name, NAMESPACE)
    status = (found or {}).get("status") or {}
    if found is None or status.get("observedGeneration") != found["metadata"]["generation"]:
        return False
    said = {one["type"]: one["status"] for one in status["conditions"]}
    return said == {"Synced": "True", "Ready": "True"} and [one["name"] for one in status["resources"]] == [*names]


async def composed(world: MortalWorld, name: str) -> list[str]:
    found = (await world.client.list(ConfigMap, NAMESPACE, labels=f"{COMPOSITE_LABEL}={name}")).items
    return sorted(one.name for one in found)


@pytest.mark.parametrize("victim", ["controllers", pytest.param("connection", marks=pytest.mark.long)])
async def test_at_every_step_of_a_claim(world: MortalWorld, victim: Victim) -> None:
    made = definition()
    await world.make(made)

    async def served() -> bool:
        found = await world.client.get(CompositeDefinition, made.name)
        return found is not None and found.status.served and found.status.conditions[0].status == "True"

    await world.at_rest()
    await world.until(served, "the API is served")
    stages = Stages(world, victim)
    for n in range(1, STEPS_MAX):
        if len(stages.done) == 3:
            break
        name = f"one-{n}"
        await stages.suffer("make", n, lambda: declare(world, name, "a", "b"), lambda: ready(world, name, "a", "b"))  # noqa: B023
        assert await composed(world, name) == [f"{name}-a", f"{name}-b"]
        secret = await world.secret(f"{name}-shelf-connection")
        assert secret is not None
        assert list(secret.data) == ["first"]

        await stages.suffer("change", n, lambda: declare(world, name, "a", "c"), lambda: ready(world, name, "a", "c"))  # noqa: B023
        assert await composed(world, name) == [f"{name}-a", f"{name}-c"]

        async def delete(name: str = name) -> None:
            await world.client.wire.delete(SHELF, name, NAMESPACE)

        async def gone(name: str = name) -> bool:
            return await world.client.wire.get(SHELF, name, NAMESPACE) is None

        await stages.suffer("delete", n, delete, gone)
        assert await composed(world, name) == []
        assert await world.secret(f"{name}-shelf-connection") is None
    done = {stage: set(steps) for stage, steps in stages.done.items()}
    assert {"PATCH configmaps", "PATCH secrets", "PATCH shelfs", "PATCH shelfs status"} <= done["make"]
    assert {"PATCH configmaps", "DELETE configmaps", "PATCH shelfs status"} <= done["change"]
    assert {"DELETE configmaps", "DELETE secrets", "PATCH shelfs"} <= done["delete"]
