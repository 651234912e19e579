"""Objects of a provider's kinds against a real API server and a cloud: made, kept true, connected, referred to, deleted."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import string
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud import Cloud
from managed_world import NAMESPACE, World, a_world
from trimtab.api import ObjectMeta
from trimtab.api.core import Event, Secret
from trimtab.client.errors import Invalid
from trimtab.components.infrastructure import reconcile
from trimtab.components.infrastructure.kinds import Connection, PolicySpec, ProviderConfig, Reference, Source
from trimtab.components.infrastructure.loop import keeping
from trimtab.components.infrastructure.loop.remembering import kept_of
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
    await world.until(lambda: _says(world, "There is no cloud_server 998", "none"), "the new name is looked for")
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
    await world.until(lambda: _says(world, "the Secret nowhere has no key password; it has other"), "the key is named")
    await world.make(Secret(metadata=meta, string_data={"password": "hush"}))
    await world.ready(SERVER, "web")
    state = await world.secret("web-server-state")
    assert state is not None
    assert b"hush" in base64.b64decode(state.data["state"])


async def _says(world: World, text: str, name: str = "web") -> bool:
    return text in (await world.condition(SERVER, name, "Synced"))[2]


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


async def test_an_answer_that_never_came_makes_nothing_twice(world: World) -> None:
    world.cloud.faults = {"lost": 1}
    await world.declare(SERVER, "web", GIVEN)
    await world.until(lambda: world.cloud.all("servers"), "it is made, unheard")
    # The provider itself heard nothing, and says that it failed; it is looked for, and found.
    there = await world.ready(SERVER, "web")
    assert [one["id"] for one in world.cloud.all("servers")] == [there.status.id]


class Forgetful(Cloud):
    """A cloud that hears two servers being asked for, makes the first and answers neither."""

    def __init__(self) -> None:
        super().__init__()
        self.posts = 0
        self.both = threading.Event()

    def serve(self, method: str, target: str, login: str, body: Any) -> tuple[int, Any]:
        if method != "POST":
            return super().serve(method, target, login, body)
        self.posts += 1
        if self.posts > 2:
            return super().serve(method, target, login, body)
        if self.posts == 2:
            self.both.set()
            return 0, None
        self.both.wait()
        super().serve(method, target, login, body)
        return 0, None


async def test_what_one_of_two_that_are_alike_had_made_unheard_is_taken_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SETTLE_S", 1.0)
    with Forgetful() as cloud:
        world = World(tmp_path, cloud)
        await world.start()
        try:
            await asyncio.gather(*(world.declare(SERVER, name, GIVEN) for name in ("one", "other")))
            ids = {(await world.ready(SERVER, name)).status.id for name in ("one", "other")}
            assert ids == {one["id"] for one in cloud.all("servers")}
            assert len(ids) == 2
        finally:
            cloud.both.set()
            await world.stop()


async def test_where_nobody_can_look_a_person_is_asked_with_the_commands(world: World) -> None:
    world.cloud.faults = {"lost": 1}
    await world.declare("cloud_cluster", "prod", {"name": "prod"})
    message = await world.says("cloud_cluster", "prod", "CreateUnknown")
    where = "clusters.cloud.tf.trimtab.dev prod -n default"
    begins = f"making it was begun and the answer never came. If it is there: kubectl patch {where} --type merge -p "
    assert message.startswith(begins + '\'{"spec":{"policy":{"adopt":"id:ITS-ID"}}}\'. If not: kubectl annotate')
    await obey(world, "cloud_cluster", "prod", message, world.cloud.all("clusters")[0]["id"])
    await world.ready("cloud_cluster", "prod")
    assert len(world.cloud.all("clusters")) == 1


async def test_what_was_refused_to_be_made_anew_is_remembered_and_said_to_remain(world: World) -> None:
    """As of what a credential may no longer see: it reads as gone, and cannot be made."""
    await world.declare("cloud_cluster", "prod", {"name": "prod"})
    made = await world.ready("cloud_cluster", "prod")
    world.cloud.faults = {"gone": 10**6}
    await world.says("cloud_cluster", "prod", "ProviderError")

    async def refused() -> bool:
        secret = await world.secret("prod-cluster-state")
        assert secret is not None
        kept = kept_of(secret)
        return kept is not None and kept.refused and kept.state["id"] == made.status.id

    await world.until(refused, "it is remembered")
    found = await world.get("cloud_cluster", "prod")
    assert found is not None
    await world.client.delete(found)

    async def gone() -> bool:
        return await world.get("cloud_cluster", "prod") is None

    await world.until(gone, "the object goes")

    async def told() -> list[str]:
        events = (await world.client.list(Event, NAMESPACE)).items
        return [one.message for one in events if one.reason == "MayRemain"]

    assert await world.until(told, "what may remain is said") == [
        f"cloud_cluster {made.status.id} reads as gone, and was refused to be made anew: if it is there, it stays"
    ]


async def obey(world: World, resource: str, name: str, message: str, number: str) -> None:
    """Does as the message says to somebody who sees in the cloud that it is there as `number`, or not (empty)."""
    found = await world.get(resource, name)
    assert found is not None
    take, _, retry = message.partition(". If not: ")
    patch = json.loads(take[take.index("'") + 1 : take.rindex("'")].replace("ITS-ID", number))
    key, _, token = retry.split()[-1].partition("=")
    wanted = patch if number else {"metadata": {"annotations": {key: token}}}
    await world.client.patch(found, wanted, manager="test")


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


async def test_what_the_state_was_in_is_missed_and_nothing_is_made_twice(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN)
    there = await world.ready(SERVER, "web")
    state = await world.secret("web-server-state")
    assert state is not None
    await world.client.patch(state, {"data": {"state": base64.b64encode(b"{").decode()}}, manager="test")
    message = await world.says(SERVER, "web", "StateLost")
    assert message.startswith("the Secret web-server-state: the kept state cannot be read: ")
    await world.client.patch(state, {"metadata": {"finalizers": []}}, manager="test")
    await world.client.delete(state)
    await world.until(lambda: _says(world, "which held what is known of it, is gone"), "it is missed")
    message = (await world.condition(SERVER, "web", "Synced"))[2]
    assert f'{{"spec":{{"policy":{{"adopt":"id:{there.status.id}"}}}}}}' in message
    await obey(world, SERVER, "web", message, there.status.id)
    await world.ready(SERVER, "web")
    assert [one["id"] for one in world.cloud.all("servers")] == [there.status.id]


async def test_a_tag_says_whose_it_is_whatever_was_lost(world: World) -> None:
    policy = PolicySpec(adopt="ifTagged")
    await world.declare(SERVER, "web", GIVEN | {"tags": {"team": "a"}}, policy=policy)
    there = await world.ready(SERVER, "web")
    tags = {"team": "a", "trimtab-object": there.metadata.uid}
    assert world.cloud.all("servers")[0]["tags"] == tags
    state = await world.secret("web-server-state")
    assert state is not None
    await world.client.patch(state, {"metadata": {"finalizers": []}}, manager="test")
    await world.client.delete(state)

    async def known_again() -> bool:
        found = await world.secret("web-server-state")
        return found is not None and found.metadata.uid != state.metadata.uid

    await world.until(known_again, "it is found by its tag")
    await world.ready(SERVER, "web")
    assert [one["id"] for one in world.cloud.all("servers")] == [there.status.id]
    await world.declare("cloud_network", "main", {"name": "main"}, policy=policy)
    message = await world.says("cloud_network", "main", "InvalidField")
    assert message.startswith("spec.policy.adopt: Network has neither tags nor labels that could say whose it is")


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


async def test_a_long_state_is_packed(world: World) -> None:
    tags = {f"tag-{i}": "x" * 200 for i in range(600)}
    await world.declare(SERVER, "web", GIVEN | {"tags": tags})
    await world.ready(SERVER, "web")
    state = await world.secret("web-server-state")
    assert state is not None
    assert list(state.data) == ["state.zlib"]
    await world.declare(SERVER, "web", GIVEN)
    await world.ready(SERVER, "web")
    state = await world.secret("web-server-state")
    assert state is not None
    assert list(state.data) == ["state"]


async def test_what_was_made_and_is_not_seen_yet_is_not_made_again(world: World) -> None:
    world.cloud.faults = {"hidden": 2}
    await world.declare(SERVER, "web", GIVEN)
    assert await world.says(SERVER, "web", "NotVisibleYet") == "it was made, and the cloud does not show it yet"
    await world.ready(SERVER, "web")
    assert [(m, p) for _, m, p in world.cloud.log if m == "POST"] == [("POST", "/servers")]


async def test_a_time_that_the_clock_has_not_come_to_is_now_from_the_next_look_on(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN)
    await world.ready(SERVER, "web")
    secret = await world.secret("web-server-state")
    assert secret is not None
    written = kept_of(secret)
    assert written is not None
    day = time.time() + 86400.0
    ahead = msgspec.structs.replace(written, made_at=day, changed_at=day)
    state = base64.b64encode(ahead.encode()).decode()
    await world.client.patch(secret, {"data": {"state": state}}, manager="test")
    world.cloud.faults = {"hidden": 10**9}

    async def now() -> bool:
        secret = await world.secret("web-server-state")
        kept = kept_of(secret) if secret is not None else None
        return kept is not None and 0 < kept.made_at < day - 3600 and kept.changed_at < day - 3600

    await world.until(now, "it says when it was seen to be ahead")
    assert await world.says(SERVER, "web", "NotVisibleYet") == "it was made, and the cloud does not show it yet"


def printable(length: int, seed: int) -> str:
    """A text that hardly packs."""
    letters = random.Random(seed).choices(string.ascii_letters + string.digits + "+/", k=length)
    return "".join(letters)


async def test_what_could_not_be_remembered_is_not_made(world: World) -> None:
    meta = ObjectMeta(name="long", namespace=NAMESPACE)
    await world.make(Secret(metadata=meta, string_data={"password": printable(1_000_000, 1)}))
    tags = {f"tag-{i}": printable(1000, i) for i in range(400)}
    given = GIVEN | {"passwordSecretRef": {"name": "long", "key": "password"}, "tags": tags}
    await world.declare(SERVER, "web", given)
    message = await world.says(SERVER, "web", "StateTooLong")
    assert re.fullmatch(
        r"what is to be remembered of it is too long: 1,0\d\d KiB packed, and a Secret has room for 960 KiB: give it less, or split it "
        "into several objects",
        message,
    )
    assert world.cloud.calls["POST servers"] == 0
    await world.declare(SERVER, "web", GIVEN | {"tags": tags})
    await world.ready(SERVER, "web")


async def test_what_turns_out_too_long_is_remembered_by_its_name(world: World) -> None:
    world.cloud.kubeconfig = printable(1_500_000, 2)
    await world.declare("cloud_cluster", "prod", {"name": "prod"})
    message = await world.says("cloud_cluster", "prod", "StateTooLong")
    assert message.endswith(
        "KiB packed, and a Secret has room for 1,024 KiB: give it less, or split it into several objects"
    )
    [there] = world.cloud.all("clusters")
    state = await world.secret("prod-cluster-state")
    assert state is not None
    kept = kept_of(state)
    assert kept is not None
    assert (kept.state["id"], kept.state["kubeconfig"], kept.pending) == (there["id"], None, "")
    found = await world.get("cloud_cluster", "prod")
    assert found is not None
    await world.client.delete(found)
    await world.until(lambda: not world.cloud.all("clusters"), "it is deleted all the same")


@pytest.mark.parametrize("resource", [SERVER, "cloud_network"])
async def test_what_reads_as_gone_and_is_listed_is_neither_made_again_nor_forgotten(
    world: World, resource: str
) -> None:
    given = GIVEN if resource == SERVER else {"name": "web"}
    await world.declare(resource, "web", given)
    await world.ready(resource, "web")
    world.cloud.faults = {"hidden": 100_000}
    message = "it reads as gone, and the cloud lists it: it is looked at again"
    assert await world.says(resource, "web", "NotVisibleYet") == message
    assert (await world.condition(resource, "web", "Ready"))[0] == "True"
    found = await world.get(resource, "web")
    assert found is not None
    await world.client.delete(found)
    await world.until(lambda: world.cloud.log[-1][1] == "GET", "it is looked at")
    assert await world.says(resource, "web", "NotVisibleYet") == message
    assert len(world.cloud.all(f"{resource.removeprefix('cloud_')}s")) == 1
    world.cloud.faults = {}

    async def over() -> bool:
        return await world.get(resource, "web") is None

    await world.until(over, "it is deleted")
    assert world.cloud.all(f"{resource.removeprefix('cloud_')}s") == []
    assert Counter(method for _, method, _ in world.cloud.log)["POST"] == 1
