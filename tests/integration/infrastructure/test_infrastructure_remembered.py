"""What is remembered of resources, against a real API server and a cloud: answers that never came, what is hidden or refused, states that are too long."""

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
from trimtab.components.infrastructure.kinds import PolicySpec
from trimtab.components.infrastructure.loop import keeping
from trimtab.components.infrastructure.loop.remembering import kept_of

GIVEN: dict[str, Any] = {"name": "web", "region": "eu", "disk": [{"label": "root", "size": 20}]}
SERVER = "cloud_server"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as one:
        yield one


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
    await world.until(lambda: world.tells(SERVER, "which held what is known of it, is gone"), "it is missed")
    message = (await world.condition(SERVER, "web", "Synced"))[2]
    assert f'{{"spec":{{"policy":{{"adopt":"id:{there.status.id}"}}}}}}' in message
    await obey(world, SERVER, "web", message, there.status.id)
    await world.ready(SERVER, "web")
    assert [one["id"] for one in world.cloud.all("servers")] == [there.status.id]
