"""Objects of a provider's kinds against a real API server and a cloud: made, kept true, connected, referred to, deleted."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from managed_world import NAMESPACE, World, a_world
from trimtab.api import ObjectMeta
from trimtab.api.core import Event, Secret
from trimtab.client.errors import Invalid
from trimtab.components.infrastructure import reconcile
from trimtab.components.infrastructure.kinds import Connection, PolicySpec, ProviderConfig, Reference, Source
from trimtab.components.infrastructure.programs import paces

GIVEN: dict[str, Any] = {"name": "web", "region": "eu", "disk": [{"label": "root", "size": 20}]}
SERVER = "cloud_server"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as one:
        yield one


async def test_the_life_of_a_server(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN)
    there = await world.ready(SERVER, "web")
    (server,) = world.cloud.all("servers")
    assert there.status.id == server["id"]
    assert there.status.at_provider["disk"] == [{"label": "root", "size": 20, "serial": f"{server['id']}-0"}]
    assert await world.secret("web-server-state") is not None

    world.cloud.change("servers", server["id"], name="hacked")
    await world.until(lambda: world.cloud.all("servers")[0]["name"] == "web", "the drift is mended")
    world.cloud.remove("servers", server["id"])
    await world.until(lambda: world.cloud.all("servers"), "it is made anew")
    await world.declare(SERVER, "web", GIVEN | {"size": "large"})
    await world.until(lambda: world.cloud.all("servers")[0]["size"] == "large", "the change is made")

    found = await world.get(SERVER, "web")
    assert found is not None
    await world.client.delete(found)
    await world.until(lambda: not world.cloud.all("servers"), "it is deleted")

    async def gone() -> bool:
        return await world.get(SERVER, "web") is None and await world.secret("web-server-state") is None

    await world.until(gone, "nothing is left")


async def test_a_plan_waits_for_approval(world: World) -> None:
    policy = PolicySpec(apply="onApproval", replace="approve")
    await world.declare(SERVER, "web", GIVEN, policy=policy)
    message = await world.says(SERVER, "web", "ApprovalNeeded")
    found = await world.get(SERVER, "web")
    assert found is not None
    assert found.status.plan.action == "create"
    assert found.status.plan.digest in message
    assert {c.path for c in found.status.plan.changes} >= {"name", "region", "disk"}
    assert world.cloud.all("servers") == []
    note = {"metadata": {"annotations": {"trimtab.dev/approve": found.status.plan.digest}}}
    await world.client.patch(found, note, manager="test")
    await world.until(lambda: world.cloud.all("servers"), "it is made")
    await world.ready(SERVER, "web")

    await world.declare(SERVER, "web", GIVEN | {"region": "us"}, policy=policy)
    message = await world.says(SERVER, "web", "ApprovalNeeded")
    again = await world.get(SERVER, "web")
    assert again is not None
    assert message == (
        "a change of region would delete it and make it anew: what its annotation trimtab.dev/approve names is another plan; approve with: "
        f"kubectl annotate --overwrite servers.cloud.tf.trimtab.dev web -n default trimtab.dev/approve={again.status.plan.digest}"
    )
    assert world.cloud.all("servers")[0]["region"] == "eu"


def journaled(world: World) -> list[str]:
    """The messages of all that was said since the controllers started."""
    assert world.process is not None
    return [text for (text,) in world.process.journal.database.execute("SELECT message FROM entries")]


async def test_that_a_plan_waits_and_was_approved_is_said_once(world: World) -> None:
    policy = PolicySpec(apply="onApproval")
    await world.declare(SERVER, "web", GIVEN, policy=policy)
    message = await world.says(SERVER, "web", "ApprovalNeeded")
    assert journaled(world).count(message) == 1
    await world.rest()
    await world.work()
    await world.declare("cloud_network", "main", {"name": "main"})
    await world.ready("cloud_network", "main")
    await world.until(lambda: world.process is not None and world.process.idle, "it was looked at again")
    assert message not in journaled(world)

    found = await world.get(SERVER, "web")
    assert found is not None
    digest = found.status.plan.digest
    await world.client.patch(found, {"metadata": {"annotations": {"trimtab.dev/approve": digest}}}, manager="test")
    await world.ready(SERVER, "web")
    assert f"create, as approved: {digest}" in journaled(world)
    await world.declare(SERVER, "web", GIVEN | {"region": "us"})
    denied = await world.says(SERVER, "web", "ReplaceDenied")

    async def told() -> bool:
        events = (await world.client.list(Event, NAMESPACE)).items
        said = {(e.reason, e.message, e.involved_object.name) for e in events}
        return said >= {("ApprovalNeeded", message, "web"), ("ReplaceDenied", denied, "web")}

    await world.until(told, "kubectl describe shows it, too")


async def test_an_end_waits_for_approval_too(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN)
    await world.ready(SERVER, "web")
    await world.declare(SERVER, "web", GIVEN, policy=PolicySpec(apply="onApproval"))
    there = await world.ready(SERVER, "web")
    await world.client.delete(there)
    message = await world.says(SERVER, "web", "ApprovalNeeded")
    found = await world.get(SERVER, "web")
    assert found is not None
    assert (found.status.plan.action, found.status.plan.digest in message) == ("delete", True)
    assert world.cloud.all("servers") != []
    note = {"metadata": {"annotations": {"trimtab.dev/approve": found.status.plan.digest}}}
    await world.client.patch(found, note, manager="test")
    await world.until(lambda: not world.cloud.all("servers"), "it is deleted")


async def test_a_field_is_another_resources_output_and_a_connection_secret_is_made(world: World) -> None:
    reference = Reference(field="network", source=Source(kind="Network", name="main", field="id"))
    await world.declare(SERVER, "web", GIVEN, references=[reference])
    assert await world.says(SERVER, "web", "Waiting") == "Network main is not there, whose id is referred to"
    await world.declare("cloud_network", "main", {"name": "main"})
    await world.ready(SERVER, "web")
    assert world.cloud.all("servers")[0]["network"] == world.cloud.all("networks")[0]["id"]

    connection = Connection(
        secret_name="prod", data={"kubeconfig": "{{ kubeconfig | b64decode }}", "where": "cluster {{ name }}"}
    )
    await world.declare("cloud_cluster", "prod", {"name": "prod"}, connection=connection)
    there = await world.ready("cloud_cluster", "prod")
    assert "kubeconfig" not in there.status.at_provider
    secret = await world.secret("prod")
    assert secret is not None
    assert base64.b64decode(secret.data["kubeconfig"]).decode() == world.cloud.kubeconfig
    assert base64.b64decode(secret.data["where"]) == b"cluster prod"

    # Under another name it is not under the one before; it goes with what it opens.
    other = Connection(secret_name="other", data={"where": "cluster {{ name }}"})
    await world.declare("cloud_cluster", "prod", {"name": "prod"}, connection=other)
    there = await world.ready("cloud_cluster", "prod")
    assert await world.secret("prod") is None
    assert await world.secret("other") is not None
    await world.client.delete(there)

    async def gone() -> bool:
        return await world.get("cloud_cluster", "prod") is None

    await world.until(gone, "it is deleted")
    assert await world.secret("other") is None


async def test_what_exists_is_taken_over_only_when_it_is_said(world: World) -> None:
    _, server = world.cloud.serve("POST", "/servers", "Bearer secret", {"name": "old", "region": "eu"})
    await world.declare(SERVER, "old", {"name": "old", "region": "eu"}, policy=PolicySpec(adopt=f"id:{server['id']}"))
    there = await world.ready(SERVER, "old")
    assert there.status.id == server["id"]
    assert len(world.cloud.all("servers")) == 1
    await world.declare(SERVER, "none", {"name": "none", "region": "eu"}, policy=PolicySpec(adopt="id:999"))
    assert await world.says(SERVER, "none", "ProviderError") == "cloud_server 999: There is no cloud_server 999"
    # And nothing is made in its place, however often it is looked at.
    await world.declare(SERVER, "none", {"name": "never", "region": "eu"}, policy=PolicySpec(adopt="id:998"))
    await world.until(lambda: world.tells(SERVER, "There is no cloud_server 998", "none"), "the new name is looked for")
    assert [one["name"] for one in world.cloud.all("servers")] == ["old"]


async def test_what_is_wrong_is_said(world: World) -> None:
    with pytest.raises(
        Invalid, match=r"forProvider\.region is required: give it here, in initProvider, or as a reference"
    ):
        await world.declare(SERVER, "bad", {"name": "bad"})
    with pytest.raises(Invalid, match=r"spec\.forProvider\.disk\[0\]\.size: Invalid value: \"string\""):
        await world.declare(SERVER, "bad", GIVEN | {"disk": [{"label": "a", "size": "big"}]})
    given = GIVEN | {"passwordSecretRef": {"name": "nowhere", "key": "password"}}
    await world.declare(SERVER, "web", given)
    message = await world.says(SERVER, "web", "SecretMissing")
    assert message == f"spec.forProvider: there is no Secret nowhere in namespace {NAMESPACE}: create it"
    meta = ObjectMeta(name="nowhere", namespace=NAMESPACE)
    await world.make(Secret(metadata=meta, string_data={"other": "hush"}))
    await world.until(
        lambda: world.tells(SERVER, "the Secret nowhere has no key password; it has other"), "the key is named"
    )
    await world.make(Secret(metadata=meta, string_data={"password": "hush"}))
    await world.ready(SERVER, "web")
    state = await world.secret("web-server-state")
    assert state is not None
    assert b"hush" in base64.b64decode(state.data["state"])


async def test_a_credential_that_may_not_ask_as_often_as_its_objects_say_tells_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paces, "TELL_S", 0.5)
    for n in range(3):
        await world.declare(SERVER, f"web-{n}", GIVEN | {"name": f"web-{n}"})
    for n in range(3):
        await world.ready(SERVER, f"web-{n}")

    async def may_ask(per_second: float) -> None:
        found = await world.client.get(ProviderConfig, "default", NAMESPACE)
        assert found is not None
        await world.client.patch(found, {"spec": {"requestsPerSecond": per_second}}, manager="test")

    async def says(text: str) -> None:
        async def holds() -> bool:
            found = await world.client.get(ProviderConfig, "default", NAMESPACE)
            return found is not None and found.status.behind == text

        await world.until(holds, f"the ProviderConfig says: {text!r}")

    told = "3 objects want 3 looks a second at their intervals, and requestsPerSecond is 2: each is looked at every 2s or so; "
    await may_ask(2)
    await says(told + "raise requestsPerSecond or the intervals")
    await may_ask(500)
    await says("")
    await may_ask(2)
    await says(told + "raise requestsPerSecond or the intervals")
    for n in range(3):
        found = await world.get(SERVER, f"web-{n}")
        assert found is not None
        await world.client.delete(found)
    await says("")


async def test_what_lost_its_credential_makes_no_fleet_twice(world: World) -> None:
    for i in range(8):
        await world.declare(SERVER, f"web-{i}", GIVEN | {"name": f"web-{i}"})
    for i in range(8):
        await world.ready(SERVER, f"web-{i}")
    made = {one["id"] for one in world.cloud.all("servers")}
    world.cloud.faults = {"gone": 10**9}

    async def blocked() -> bool:
        reasons = [(await world.condition(SERVER, f"web-{i}", "Synced"))[1] for i in range(8)]
        return reasons.count("TooManyGone") >= 5

    await world.until(blocked, "most of them are held back")
    world.cloud.faults = {}
    for i in range(8):
        await world.ready(SERVER, f"web-{i}")
    assert len({one["id"] for one in world.cloud.all("servers")} - made) <= 3


async def test_a_restart_in_the_middle_of_a_mass_loss_does_not_count_anew(world: World) -> None:
    names = [f"web-{i}" for i in range(8)]
    for name in names:
        await world.declare(SERVER, name, GIVEN | {"name": name})
    for name in names:
        await world.ready(SERVER, name)
    for one in world.cloud.all("servers"):
        world.cloud.remove("servers", one["id"])
    await world.until(lambda: world.cloud.all("servers"), "the first is made anew")

    for _ in range(3):
        await world.rest()
        looks = world.cloud.calls["GET servers"]
        await world.work()

        async def held(looks: int = looks) -> bool:
            reasons = [(await world.condition(SERVER, name, "Synced"))[1] for name in names]
            return reasons.count("TooManyGone") == 5 and world.cloud.calls["GET servers"] > looks + 16

        await world.until(held, "the others are held back, and were looked at again")

    assert len(world.cloud.all("servers")) == 3
    said = [await world.condition(SERVER, name, "Synced") for name in names]
    held_back = {
        message for _, reason, message in said if reason == "TooManyGone"
    }  # one may say yet that it is being made
    assert held_back == {
        "more than 3 resources of ProviderConfig default were made anew, or would be within ten minutes: does its credential still see them?"
    }
    config = await world.client.get(ProviderConfig, "default", NAMESPACE)
    assert config is not None
    assert len(config.status.made_anew) == 3


async def test_a_deletion_that_is_answered_404_and_was_not_done_is_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "RETRY_S", 0.1)
    await world.declare(SERVER, "web", GIVEN)
    await world.ready(SERVER, "web")
    server = await world.get(SERVER, "web")
    assert server is not None
    world.cloud.faults = {"kept": 1}
    await world.client.delete(server)

    async def gone() -> bool:
        return await world.get(SERVER, "web") is None

    await world.until(gone, "the object is gone")
    assert world.cloud.all("servers") == []
    assert world.cloud.calls["DELETE servers"] == 2


async def test_what_is_deleted_at_once_goes_in_order(world: World) -> None:
    reference = Reference(field="network", source=Source(kind="Network", name="main", field="id"))
    await world.declare("cloud_network", "main", {"name": "main"})
    await world.declare(SERVER, "web", GIVEN, references=[reference])
    await world.ready(SERVER, "web")
    network, server = await world.get("cloud_network", "main"), await world.get(SERVER, "web")
    assert network is not None
    assert server is not None

    await world.client.delete(network)
    message = await world.says("cloud_network", "main", "InUse")
    assert message == "Server web refers to it: what refers goes first"
    assert len(world.cloud.all("networks")) == 1
    config = await world.client.get(ProviderConfig, "default", NAMESPACE)
    token = await world.secret("cloud")
    assert config is not None
    assert token is not None
    await world.client.delete(config)
    await world.client.delete(token)
    # All that it takes to delete the server is still there.
    await world.client.delete(server)

    async def gone() -> bool:
        left = [await world.get(SERVER, "web"), await world.get("cloud_network", "main"), await world.secret("cloud")]
        return left == [None] * 3 and await world.client.get(ProviderConfig, "default", NAMESPACE) is None

    await world.until(gone, "nothing is left")
    deleted = [path.split("/")[1] for _, method, path in world.cloud.log if method == "DELETE"]
    assert deleted == ["servers", "networks"]
    assert world.cloud.all("servers") == world.cloud.all("networks") == []


async def test_what_the_provider_refuses_is_not_tried_though_nobody_asked_before(world: World) -> None:
    """Here nothing asks the provider when an object is written, as when it could not be asked, or a reference told later."""
    await world.declare(SERVER, "web", GIVEN | {"region": "moon"})
    message = await world.says(SERVER, "web", "InvalidField")
    assert message == "spec.forProvider.region: There is no region moon: Regions are eu and us."
    assert world.cloud.all("servers") == []
    await world.declare(SERVER, "web", GIVEN)
    await world.ready(SERVER, "web")


async def test_what_was_just_made_is_looked_at_again_soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "QUICK_S", 0.5)
    await world.declare(SERVER, "web", GIVEN, interval="1h")
    there = await world.ready(SERVER, "web")
    world.cloud.change("servers", there.status.id, name="surprise")
    await world.until(lambda: world.cloud.all("servers")[0]["name"] == "web", "it is seen long before an hour is over")
    looks = world.cloud.calls["GET servers"]
    await world.until(lambda: world.cloud.calls["GET servers"] > looks + 1, "and again")
