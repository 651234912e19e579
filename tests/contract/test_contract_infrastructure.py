"""Infrastructure under the contract kit: what an object says exists once, whatever crashes in between, and is gone with the object.

The provider is played: its answers come late, get lost, or are errors. What only a person can say (an answer to a creation never came: is
it there?) the world says, by the commands in the condition's message.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simulated_api import make_api
from store_release import EARLIER
from trimtab.api import ObjectMeta
from trimtab.api.core import Secret
from trimtab.client.clock import Clock
from trimtab.components.infrastructure import COMPONENT
from trimtab.components.infrastructure.kinds import (
    Connection,
    Managed,
    ManagedSpec,
    PolicySpec,
    Provider,
    ProviderConfig,
    ProviderConfigSpec,
    ProviderSpec,
    Reference,
    SecretKey,
    Source,
    managed_kind,
)
from trimtab.components.infrastructure.programs.paces import Paces
from trimtab.components.infrastructure.programs.pool import Talk
from trimtab.components.infrastructure.programs.rate import Rate
from trimtab.components.infrastructure.programs.removals import Removals
from trimtab.components.infrastructure.programs.shelf import Shelf
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import Providers
from trimtab.components.infrastructure.protocol.provider import (
    Applied,
    Diagnostic,
    Imported,
    Planned,
    ProviderError,
    State,
)
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, ProviderSchema, Schema
from trimtab.components.infrastructure.protocol.types import STRING
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Value
from trimtab.components.infrastructure.reconcile import managed
from trimtab.components.infrastructure.remote import Clusters, OverHttp
from trimtab.runtime.contract import Case, Scenario, Stage, contract

FIELDS = {
    "id": Attribute(STRING, computed=True),
    "name": Attribute(STRING, required=True),
    "size": Attribute(STRING, optional=True),
    "parent": Attribute(STRING, optional=True),
    "key": Attribute(STRING, computed=True, sensitive=True),
}
SCHEMA = ProviderSchema(
    provider=Schema(block=Block()), resources={"grove_tree": Schema(block=Block(attributes=FIELDS))}
)
Tree = managed_kind("grove", "grove_tree")


class Grove:
    """A cloud and its provider in one, which outlives the process that asks: slow, failing, and its answers get lost."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.there: dict[str, dict[str, Any]] = {}
        self.twice: list[str] = []
        self.faults = 0.1
        self.made = 0
        self.older = False
        """Whether those who ask may remember less than there is: they come from a backup."""
        self.plugin = SimpleNamespace(name="grove", running=True)

    def named(self, name: str) -> list[str]:
        return [key for key, one in self.there.items() if one["name"] == name]

    async def _answer(self) -> None:
        await asyncio.sleep(self.clock.random.uniform(0.01, 2.0))
        if self.clock.random.random() < self.faults:
            raise ProviderError("the connection broke", code="UNAVAILABLE")

    async def read(self, kind: str, state: State) -> State:
        await self._answer()
        found = self.there.get(state.value["id"])
        return State(None) if found is None else State(dict(found))

    async def validate(self, kind: str, config: Value) -> tuple[Diagnostic, ...]:
        return ()

    async def plan(self, kind: str, prior: State, config: Value) -> Planned:
        if config is None:
            return Planned(None)
        made_up = {"id": UNKNOWN, "key": UNKNOWN}
        return Planned({**config, **({k: prior.value[k] for k in made_up} if prior.value else made_up)})

    async def apply(self, kind: str, prior: State, planned: Planned, config: Value) -> Applied:
        await self._answer()
        if planned.value is None:
            self.there.pop(prior.value["id"], None)
        elif prior.value is None:
            if self.named(config["name"]):
                if not self.older:
                    self.twice.append(f"{config['name']} was to be made a second time")
                return Applied(State(None), (Diagnostic(True, f"the name {config['name']} is taken"),))
            self.made += 1
            self.there[f"t{self.made}"] = {**config, "id": f"t{self.made}", "key": "secret"}
        elif prior.value["id"] not in self.there:
            return Applied(prior, (Diagnostic(True, "it is gone"),))
        else:
            self.there[prior.value["id"]] |= config | {k: prior.value[k] for k in ("id", "key")}
        ours = f"t{self.made}" if prior.value is None else prior.value["id"]
        done = State(None if planned.value is None else dict(self.there[ours]))
        await self._answer()
        return Applied(done)

    async def upgrade(self, kind: str, version: int, state: Any) -> Value:
        return state

    async def upgrade_identity(self, kind: str, version: int, identity: Value) -> Value:
        return identity

    async def import_(self, kind: str, name: str) -> list[Imported]:
        await self._answer()
        if name not in self.there:
            raise ProviderError(f"there is no {kind} {name}")
        return [Imported(kind, State(dict(self.there[name])))]

    async def talk(
        self, provider: Provider, config: ProviderConfig, secrets: Mapping[str, str], openings: Any = None
    ) -> Talk:
        now = asyncio.get_running_loop().time
        anew = Removals(config.status.made_anew)
        return Talk(self, SCHEMA, Rate(50.0, now), 3, now, Path("none"), anew=anew)  # type: ignore[arg-type]

    async def run(self) -> None:
        await asyncio.Event().wait()


class Installed(Shelf):
    """A shelf with the one program."""

    def __init__(self) -> None:
        super().__init__(Path("/"))

    def schema(self, checksum: str) -> ProviderSchema | None:
        return SCHEMA

    def program(self, checksum: str) -> Path:
        return Path("/proc/self/exe")


def adapters(clock: Clock) -> Mapping[type, Any]:
    return {
        Providers: Grove(clock),
        Suspects: Suspects(),
        Paces: Paces(),
        Shelf: Installed(),
        Clusters: OverHttp(),
    }


def grove(stage: Stage) -> Grove:
    found: Grove = stage.adapter(Providers)  # type: ignore[type-abstract,assignment]
    return found


def carry(before: Mapping[type, Any], after: Mapping[type, Any]) -> None:
    after[Providers].there.update(before[Providers].there)
    after[Providers].made = before[Providers].made
    after[Providers].faults = before[Providers].faults
    after[Providers].older = True


def leaks(stage: Stage) -> list[str]:
    return [f"{one['name']} is left" for one in grove(stage).there.values()] + grove(stage).twice


def tree(name: str, parent: str = "", **spec: Any) -> Managed:
    references = [Reference(field="parent", source=Source(kind="Tree", name=parent, field="id"))] if parent else []
    return Tree(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ManagedSpec(for_provider={"name": name}, interval="1m", references=references, **spec),
    )


async def person(stage: Stage) -> None:
    """Says what only a person can, as soon as a condition asks for it."""
    while True:
        await stage.changed(Tree)
        for found in await stage.list(Tree):
            said = next((c.message for c in found.status.conditions if c.type == "Synced" and c.status == "False"), "")
            retry = re.search(r"annotate --overwrite .* (\S+)=(\S+)$", said)
            patch: dict[str, Any] = {}
            if there := (retry is not None or "is taken" in said) and grove(stage).named(found.name):
                patch = {"spec": {"policy": {"adopt": f"id:{there[0]}"}}}
            elif retry is not None:
                patch = {"metadata": {"annotations": {retry[1]: retry[2]}}}
            if patch:
                await stage.client.patch(found, patch, manager="user")


async def grow(stage: Stage) -> None:
    found = await stage.get(Tree, "oak")
    assert found is not None
    await stage.client.patch(found, {"spec": {"forProvider": {"size": "big"}}}, manager="user")


async def steal(stage: Stage) -> None:
    """Somebody deletes one behind everybody's back, and the troubles end."""
    while (found := await stage.get(Tree, "oak")) is None or found.status.id not in grove(stage).there:
        await stage.changed(Tree)
    del grove(stage).there[found.status.id]
    grove(stage).faults = 0.0


async def all_there(stage: Stage) -> str | None:
    for found in await stage.list(Tree):
        ready = [c.status for c in found.status.conditions if c.type in ("Ready", "Synced")]
        live = grove(stage).there.get(found.status.id)
        if ready != ["True", "True"] or live is None or live["name"] != found.name:
            said = [c.message for one in await stage.list(Tree) for c in one.status.conditions if c.type == "Synced"]
            return f"{found.name}: {ready}, {live}; {said}"
        if found.name == "oak" and live["size"] != "big":
            return f"it did not grow: {live}"
        if found.name == "leaf" and [live["parent"]] != grove(stage).named("oak"):
            return f"it hangs on {live['parent']}, not on {grove(stage).named('oak')}"
    secret = await stage.get(Secret, "oak-key")
    if secret is None or not secret.data:
        return "there is no connection Secret"
    return None if len(grove(stage).there) == 2 else f"{grove(stage).there}"


async def fell(stage: Stage) -> None:
    """The objects first: without their credential nobody could delete what they made."""
    for found in await stage.list(Tree):
        await stage.delete(found)
    while await stage.list(Tree):
        await stage.changed(Tree)
    for one in CREDENTIAL:
        await stage.delete(one)


CREDENTIAL = [
    Provider(metadata=ObjectMeta(name="grove"), spec=ProviderSpec(source="trimtab/grove", kinds=["grove_tree"])),
    Secret(metadata=ObjectMeta(name="grove", namespace="default"), data={"token": "bWU="}),
    ProviderConfig(
        metadata=ObjectMeta(name="default", namespace="default"),
        spec=ProviderConfigSpec(provider="grove", secrets={"token": SecretKey(name="grove", key="token")}),
    ),
]
JUDGED = replace(
    COMPONENT,
    # A kind as it joins when it is enabled; what joins it is another test's.
    kinds=(*COMPONENT.kinds, Tree),
    reconcilers=(*COMPONENT.reconcilers, managed(Tree, "grove_tree")),
    services=(),
)
SCENARIOS = [
    Scenario(
        "two-trees",
        objects=[
            *CREDENTIAL,
            tree("oak", connection=Connection("oak-key", {"key": "{{ key }}"}), policy=PolicySpec(replace="auto")),
            tree("leaf", "oak"),
        ],
        steps=[grow, steal],
        world=person,
        goal=all_there,
        adapters=adapters,
        carry=carry,
        leaks=leaks,
        uninstall=fell,
        ignore=[Secret, Tree, ProviderConfig],
        within_s=3600.0,
    )
]


CASES = contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER)
QUICK = ("seeds-0",)
"""Each of its seeds costs what five of another component's do: the others run at night."""


@pytest.mark.parametrize(
    "case", [replace(c, long=c.long or (c.name.startswith("seeds") and c.name not in QUICK)) for c in CASES], ids=str
)
def test_contract(case: Case) -> None:
    case.run()
