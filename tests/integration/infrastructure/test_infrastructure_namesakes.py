"""What belongs to whom: fields that only making it needs, states of others under the same name, connection Secrets that are no longer wanted."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from managed_world import NAMESPACE, World, a_world
from trimtab.api import ObjectMeta
from trimtab.api.core import Namespace, Secret
from trimtab.components.infrastructure.kinds import (
    Connection,
    ManagedSpec,
    PolicySpec,
    ProviderConfig,
    ProviderRef,
    Reference,
    Source,
)
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.loop.remembering import STATE_FINALIZER
from trimtab.runtime.ownership import OWNER_LABEL, RECONCILER_LABEL

GIVEN: dict[str, Any] = {"name": "web", "region": "eu"}
SERVER, CLUSTER = "cloud_server", "cloud_cluster"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as one:
        yield one


async def test_what_only_making_it_needs_is_not_taken_away_and_is_given_again_when_it_is_made_anew(
    world: World,
) -> None:
    await world.make(Secret(metadata=ObjectMeta(name="root", namespace=NAMESPACE), string_data={"password": "hush"}))
    first: dict[str, Any] = {
        "network": "7",
        "disk": [{"label": "root", "size": 20}],
        "passwordSecretRef": {"name": "root", "key": "password"},
    }
    await world.declare(SERVER, "web", GIVEN, init_provider=first)
    await world.ready(SERVER, "web")
    (server,) = world.cloud.all("servers")
    assert (server["network"], server["disk"]) == ("7", [{"label": "root", "size": 20}])

    # Whoever has it changes it: it was for the beginning only, and so is the Secret.
    world.cloud.change("servers", server["id"], network="8")
    root = await world.secret("root")
    assert root is not None
    await world.client.delete(root)
    await world.declare(SERVER, "web", GIVEN | {"size": "large"}, init_provider=first)
    await world.until(lambda: world.cloud.all("servers")[0]["size"] == "large", "the change is made")
    await world.ready(SERVER, "web")
    assert world.cloud.all("servers")[0]["network"] == "8"

    world.cloud.remove("servers", server["id"])
    assert await world.says(SERVER, "web", "SecretMissing") == (
        f"spec.forProvider: there is no Secret root in namespace {NAMESPACE}: create it"
    )
    await world.make(Secret(metadata=ObjectMeta(name="root", namespace=NAMESPACE), string_data={"password": "hush"}))
    await world.until(lambda: world.cloud.all("servers"), "it is made anew")
    assert world.cloud.all("servers")[0]["network"] == "7"


async def test_the_state_of_another_providers_object_of_the_same_kind_and_name_is_not_taken(world: World) -> None:
    _, theirs = world.cloud.serve("POST", "/servers", "Bearer secret", {"name": "web", "region": "eu"})
    kept = Kept(state={**dict.fromkeys(("id", "name", "region")), "id": theirs["id"]}, version=1, key="ab" * 32)
    state = Secret(
        metadata=ObjectMeta(
            name="web-server-state",
            namespace=NAMESPACE,
            labels={RECONCILER_LABEL: "infrastructure.servers-other", OWNER_LABEL: "of-another"},
            finalizers=[STATE_FINALIZER],
        ),
        data={"state": base64.b64encode(kept.encode()).decode()},
    )
    await world.make(state)

    await world.declare(SERVER, "web", GIVEN)

    assert await world.says(SERVER, "web", "NameTaken") == (
        "the Secret web-server-state holds what is known of another object, which infrastructure.servers-other keeps: "
        "give one of the two another name"
    )
    there = await world.get(SERVER, "web")
    assert there is not None
    await world.client.delete(there)

    async def gone() -> bool:
        return await world.get(SERVER, "web") is None

    await world.until(gone, "it is gone, as it never had anything")
    left = await world.secret("web-server-state")
    assert left is not None
    assert left.metadata.finalizers == [STATE_FINALIZER]
    assert left.data == state.data
    assert [one["id"] for one in world.cloud.all("servers")] == [theirs["id"]]


async def test_a_connection_secret_goes_when_it_has_another_name_or_its_resource_is_deleted(world: World) -> None:
    given = {"name": "prod"}
    await world.declare(CLUSTER, "prod", given, connection=Connection(secret_name="first"))
    await world.ready(CLUSTER, "prod")
    assert await world.secret("first") is not None

    await world.declare(CLUSTER, "prod", given, connection=Connection(secret_name="second"))
    await world.until(lambda: named(world, "second", "first"), "it has the other name alone")

    await world.declare(CLUSTER, "prod", given)
    await world.until(lambda: named(world, None, "second"), "there is none, as none is asked for")

    await world.declare(CLUSTER, "prod", given, connection=Connection(secret_name="third"))
    await world.until(lambda: named(world, "third", "second"), "there is one again")
    there = await world.get(CLUSTER, "prod")
    assert there is not None
    await world.client.delete(there)
    await world.until(lambda: named(world, None, "third"), "who could use what is deleted has nothing to use it with")
    assert world.cloud.all("clusters") == []


async def test_what_is_left_to_itself_keeps_its_connection_secret(world: World) -> None:
    connection = Connection(secret_name="prod")
    await world.declare(CLUSTER, "prod", {"name": "prod"}, connection=connection, policy=PolicySpec(delete="orphan"))
    there = await world.ready(CLUSTER, "prod")
    await world.client.delete(there)

    async def gone() -> bool:
        return await world.get(CLUSTER, "prod") is None

    await world.until(gone, "it is gone")
    assert await world.secret("prod") is not None
    assert len(world.cloud.all("clusters")) == 1


async def test_a_connection_takes_neither_a_state_nor_the_connection_of_another(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN)
    await world.ready(SERVER, "web")
    before = await world.secret("web-server-state")
    forged = Connection(secret_name="web-server-state", data={"state": "{}"})
    await world.declare(SERVER, "thief", GIVEN | {"name": "thief"}, connection=forged)
    assert await world.says(SERVER, "thief", "ConnectionInvalid") == (
        "spec.connection.secretName: names that end in -state are of what is remembered of resources: choose another"
    )
    assert before is not None
    after = await world.secret("web-server-state")
    assert after is not None
    assert after.metadata.labels == before.metadata.labels

    await world.declare(CLUSTER, "prod", {"name": "prod"}, connection=Connection(secret_name="prod"))
    await world.ready(CLUSTER, "prod")
    theirs = await world.secret("prod")
    await world.declare(CLUSTER, "other", {"name": "other"}, connection=Connection(secret_name="prod", data={"x": "y"}))
    assert await world.says(CLUSTER, "other", "ConnectionInvalid") == (
        "spec.connection.secretName: prod is Cluster prod's: choose another"
    )
    await world.declare(SERVER, "taker", GIVEN | {"name": "taker"}, connection=Connection(secret_name="prod"))
    assert await world.says(SERVER, "taker", "ConnectionInvalid") == (
        "spec.connection.secretName: prod is Cluster prod's: choose another"
    )
    await world.make(Secret(metadata=ObjectMeta(name="mine", namespace=NAMESPACE), string_data={"x": "y"}))
    await world.declare(SERVER, "taker", GIVEN | {"name": "taker"}, connection=Connection(secret_name="mine"))
    await world.until(lambda: told(world, SERVER, "taker", "was not made for it"), "a Secret of a person is not taken")
    assert await world.says(SERVER, "taker", "ConnectionInvalid") == (
        "spec.connection.secretName: mine is there already and was not made for it. "
        'Hand it over with the annotation trimtab.dev/adopt: "true", or choose another'
    )
    taker = await world.get(SERVER, "taker")
    assert taker is not None
    assert {one.type for one in taker.status.conditions} == {"Synced", "Ready"}  # nothing of the runtime's
    there = await world.get(CLUSTER, "other")
    assert there is not None
    await world.client.delete(there)

    async def gone() -> bool:
        return await world.get(CLUSTER, "other") is None

    await world.until(gone, "the other goes, and takes nothing along")
    left = await world.secret("prod")
    assert theirs is not None
    assert left is not None
    assert left.data == theirs.data


async def test_what_another_object_keeps_is_not_taken_over(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN)
    there = (await world.ready(SERVER, "web")).status.id
    await world.declare(SERVER, "second", GIVEN, policy=PolicySpec(adopt=f"id:{there}"))
    assert await world.says(SERVER, "second", "InvalidField") == (
        f"spec.policy.adopt: cloud_server {there} is Server web's already"
    )
    assert [one["id"] for one in world.cloud.all("servers")] == [there]


async def test_nothing_reaches_into_another_namespace(world: World) -> None:
    """Neither a credential, nor an output, nor a Secret: each name is looked up in the object's own namespace."""
    await world.declare("cloud_network", "main", {"name": "main"})
    await world.ready("cloud_network", "main")
    await world.make(Secret(metadata=ObjectMeta(name="root", namespace=NAMESPACE), string_data={"password": "hush"}))
    await world.make(Namespace(metadata=ObjectMeta(name="away")))

    async def says(text: str) -> bool:
        found = await world.client.get(world.kinds[SERVER], "web", "away")
        return found is not None and any(one.message == text for one in found.status.conditions)

    async def declare(given: dict[str, Any], **spec: Any) -> None:
        made = ManagedSpec(for_provider=given, interval="1s", provider_ref=ProviderRef(name="default"), **spec)
        await world.make(world.kinds[SERVER](metadata=ObjectMeta(name="web", namespace="away"), spec=made))

    await declare(GIVEN)
    await world.until(lambda: says("there is no ProviderConfig default in namespace away"), "no credential")
    config = await world.client.get(ProviderConfig, "default", NAMESPACE)
    assert config is not None
    await world.make(ProviderConfig(metadata=ObjectMeta(name="default", namespace="away"), spec=config.spec))
    text = "ProviderConfig default: token: there is no Secret cloud in namespace away: create it"
    await world.until(lambda: says(text), "no Secret of a credential")
    token = Secret(metadata=ObjectMeta(name="cloud", namespace="away"), string_data={"token": "secret"})
    await declare(GIVEN | {"passwordSecretRef": {"name": "root", "key": "password"}})
    await world.make(token)
    await world.until(
        lambda: says("spec.forProvider: there is no Secret root in namespace away: create it"), "no Secret"
    )
    reference = Reference(field="network", source=Source(kind="Network", name="main", field="id"))
    await declare(GIVEN, references=[reference])
    await world.until(lambda: says("Network main is not there, whose id is referred to"), "no output")
    assert world.cloud.all("servers") == []


async def test_what_was_said_when_it_was_made_is_told_while_it_is_looked_for(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN | {"name": ""})
    assert await world.says(SERVER, "web", "NotVisibleYet") == (
        "making it ended with: 422 a name is needed: it is looked for"
    )


async def named(world: World, there: str | None, gone: str) -> bool:
    """Whether there is the one Secret and not the other."""
    is_there = there is None or await world.secret(there) is not None
    return is_there and await world.secret(gone) is None


async def told(world: World, resource: str, name: str, words: str) -> bool:
    """Whether its condition Synced has these words."""
    return words in (await world.condition(resource, name, "Synced"))[2]
