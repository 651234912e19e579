"""What would be, asked of a real provider without doing it: the same as the loop then does, and nothing touched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from managed_world import NAMESPACE, World, a_world
from trimtab.api import JSON, ObjectMeta, to_wire
from trimtab.components.infrastructure.kinds import (
    Maintenance,
    ManagedSpec,
    PolicySpec,
    ProviderConfig,
    ProviderRef,
    Reference,
    Source,
)
from trimtab.components.infrastructure.loop.gathering import Blocked
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import NotReady
from trimtab.components.infrastructure.questions.asking import Answer, Asker, Program, key_of
from trimtab.components.infrastructure.questions.gateway import Answers
from trimtab.components.infrastructure.questions.outside import plans_of

GIVEN: dict[str, Any] = {"name": "web", "region": "eu", "disk": [{"label": "root", "size": 20}]}
SERVER, NETWORK = "cloud_server", "cloud_network"
GROUP = "cloud.tf.trimtab.dev/v1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as one:
        yield one


def asker(world: World) -> Asker:
    def of(namespace: str) -> Any:
        async def read(kind: Any, name: str) -> Any:
            return await world.client.get(kind, name, namespace if kind.resource_type.namespaced else None)

        return read

    return Asker(of, world.pool, Suspects())


def draft(world: World, resource: str, name: str, given: dict[str, Any], **spec: Any) -> JSON:
    """An object that nobody applied."""
    made = world.kinds[resource](
        metadata=ObjectMeta(name=name, namespace=NAMESPACE),
        spec=ManagedSpec(for_provider=given, provider_ref=ProviderRef(name="default"), **spec),
    )
    return to_wire(made)


def lines(answer: Answer) -> dict[str, tuple[Any, Any]]:
    return {one.path: (one.before, one.after) for one in answer.changes}


async def test_what_would_be_made_is_said_and_nothing_is_made(world: World) -> None:
    answer = await asker(world).plan(draft(world, SERVER, "web", GIVEN | {"size": "large"}))

    assert (answer.action, answer.error, answer.digest) == ("create", "", "")
    assert lines(answer)["size"] == (None, "large")
    assert lines(answer)["address"] == (None, "(known after apply)")
    assert set(answer.outputs.unknown) >= {"id", "address"}
    assert world.cloud.all("servers") == []
    assert await world.secret("web-server-state") is None
    assert not any(method != "GET" for _, method, _ in world.cloud.log)


async def test_what_would_be_is_what_is_then_done(world: World) -> None:
    policy = PolicySpec(apply="onApproval", replace="approve")
    await world.declare(SERVER, "web", GIVEN, policy=policy)
    await world.says(SERVER, "web", "ApprovalNeeded")
    found = await world.get(SERVER, "web")
    assert found is not None

    answer = await asker(world).plan(to_wire(found))

    assert answer.digest == found.status.plan.digest
    assert list(answer.changes) == found.status.plan.changes
    assert answer.reason == "ApprovalNeeded"
    assert answer.message.endswith(
        f"kubectl annotate --overwrite servers.cloud.tf.trimtab.dev web -n default trimtab.dev/approve={answer.digest}"
    )


async def test_a_change_is_told_with_its_cause_and_what_forces_a_replacement(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN, interval="1h")
    there = await world.ready(SERVER, "web")
    world.cloud.change("servers", there.status.id, name="hacked")
    wire = to_wire(there)

    drift = await asker(world).plan(wire)
    assert (drift.action, [(c.path, c.cause) for c in drift.changes]) == ("update", [("name", "drift")])

    wire["spec"]["forProvider"]["region"] = "us"
    replaced = await asker(world).plan(wire)
    assert (replaced.action, replaced.reason) == ("replace", "ReplaceDenied")
    assert [c.path for c in replaced.changes if c.replaces] == ["region"]

    wire["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    wire["spec"]["policy"]["delete"] = "deny"
    ended = await asker(world).plan(wire)
    assert (ended.action, ended.reason) == ("delete", "DeleteDenied")
    wire["spec"]["policy"]["delete"] = "orphan"
    left = await asker(world).plan(wire)
    assert (left.action, left.message) == ("none", "spec.policy.delete is orphan: the resource stays")
    assert world.cloud.all("servers")[0]["name"] == "hacked"


async def test_what_is_referred_to_and_not_there_yet_is_unknown(world: World) -> None:
    reference = Reference(field="network", source=Source(kind="Network", name="main", field="id"))
    web = draft(world, SERVER, "web", GIVEN, references=[reference])

    alone = await asker(world).plan(web)
    assert lines(alone)["network"] == (None, "(known after apply)")
    assert (alone.reason, alone.message) == ("Waiting", "Network main is not there, whose id is referred to")

    network = await asker(world).plan(draft(world, NETWORK, "main", {"name": "main"}))
    together = await asker(world).plan(web, {key_of(GROUP, "Network", "main"): network.outputs})
    assert lines(together)["network"] == (None, "(known after apply)")
    assert together.reason == ""

    await world.declare(NETWORK, "main", {"name": "main"})
    there = await world.ready(NETWORK, "main")
    after = await asker(world).plan(web)
    assert lines(after)["network"] == (None, there.status.id)

    # What is made anew gets another id: who refers to it changes with it.
    wire = to_wire(there)
    wire["spec"]["forProvider"]["range"] = "10.1.0.0/16"
    denied = await asker(world).plan(wire)
    assert (denied.action, denied.outputs.value("id")) == ("replace", there.status.id)
    wire["spec"]["policy"]["replace"] = "approve"
    moved = await asker(world).plan(wire)
    assert moved.action == "replace"
    with_it = await asker(world).plan(web, {key_of(GROUP, "Network", "main"): moved.outputs})
    assert lines(with_it)["network"] == (None, "(known after apply)")


async def test_secrets_are_used_and_never_shown(world: World) -> None:
    web = draft(world, SERVER, "web", GIVEN | {"passwordSecretRef": {"name": "root", "key": "password"}})
    missing = await asker(world).plan(web)
    assert lines(missing)["passwordSecretRef"] == (None, "(sensitive)")
    assert (missing.reason, missing.message) == (
        "SecretMissing",
        "spec.forProvider: there is no Secret root in namespace default: create it",
    )
    about_to_be = await asker(world).plan(web, secrets={"root": {"password": "aHVzaA=="}})
    assert about_to_be.reason == ""
    assert "hush" not in repr(about_to_be)


async def test_the_provider_says_in_its_words_what_it_does_not_take(world: World) -> None:
    said = await asker(world).validate(draft(world, SERVER, "web", GIVEN | {"region": "moon"}))
    assert said.errors == (("spec.forProvider.region", "There is no region moon: Regions are eu and us."),)
    strange = await asker(world).validate(draft(world, SERVER, "web", GIVEN | {"colour": "red"}))
    assert strange.errors == (("spec.forProvider.colour", "there is no such field, or the provider alone sets it"),)
    wrong = await asker(world).validate(draft(world, SERVER, "web", GIVEN | {"size": 3}))
    assert wrong.errors == (("spec.forProvider.size", "expected string, got 3"),)
    good = await asker(world).validate(draft(world, SERVER, "web", GIVEN))
    assert good.errors == ()
    planned = await asker(world).plan(draft(world, SERVER, "web", GIVEN | {"region": "moon"}))
    assert planned.error == "spec.forProvider.region: There is no region moon: Regions are eu and us."


async def test_what_cannot_be_asked_is_said(world: World) -> None:
    lost = draft(world, SERVER, "web", GIVEN)
    lost["spec"]["providerRef"]["name"] = "other"
    assert (await asker(world).plan(lost)).error == "there is no ProviderConfig other in namespace default"
    with pytest.raises(Blocked, match="there is no ProviderConfig other"):
        await asker(world).validate(lost)
    elsewhere = Program(version="9", checksum="sha256:../../../tmp")
    foreign = await asker(world).plan(draft(world, SERVER, "web", GIVEN), program=elsewhere)
    assert foreign.error == "cloud 9 is not on this machine: trimtab provider upgrade"
    strange = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": NAMESPACE}}
    answer = await asker(world).plan(strange)
    assert answer.error == "Pod of v1 is no enabled kind of a provider: trimtab provider list"
    world.cloud.faults = {"busy": 1}
    adopt = draft(world, SERVER, "old", GIVEN, policy=PolicySpec(adopt="id:102"))
    assert "429 busy" in (await asker(world).plan(adopt)).error
    with pytest.raises(NotReady, match="the cloud asks for fewer requests"):
        await world.pool.running[0].rate.turn()


async def test_a_circle_of_references_leaves_the_others_their_plans(world: World) -> None:
    def made(name: str, *to: str) -> JSON:
        references = [Reference(field="network", source=Source(kind="Server", name=one, field="id")) for one in to]
        obj = draft(world, SERVER, name, GIVEN, references=references)
        obj["spec"]["providerRef"]["name"] = "later"
        return obj

    objects = [made("a", "b"), made("b", "a"), made("free"), made("user", "a")]
    plans = await plans_of(world.client.wire, objects, to_come={(NAMESPACE, "later")})

    circle = "they refer to each other in a circle, so that none can be made first: Server a -> Server b -> Server a"
    assert [(one["name"], one["action"], one.get("error")) for one in plans] == [
        ("free", "create", None),
        ("a", "", circle),
        ("b", "", circle),
        ("user", "", f"it refers to Server a, which cannot be made: {circle}"),
    ]


async def test_what_people_ask_does_not_wait_behind_looks(world: World) -> None:
    _, server = world.cloud.serve("POST", "/servers", "Bearer secret", GIVEN)
    found = await world.client.get(ProviderConfig, "default", NAMESPACE)
    assert found is not None
    await world.client.patch(found, {"spec": {"requestsPerSecond": 10}}, manager="test")
    answers = Answers(world.process)
    wanted = json.dumps({"resource": SERVER, "id": server["id"]}).encode()
    talk = await answers.asker.talk(NAMESPACE, "default")
    talk.rate.per_second = 10  # whenever the controllers hear of it
    looks = [asyncio.create_task(talk.rate.turn()) for _ in range(300)]
    await asyncio.sleep(0)
    try:
        answer = json.loads(await answers.told("ProviderConfig", "import", wanted, NAMESPACE, "default"))
        assert answer["manifest"]["spec"]["policy"] == {"adopt": f"id:{server['id']}"}
        assert len(talk.rate.looks) > 200
    finally:
        for one in looks:
            one.cancel()
        await asyncio.wait(looks)


async def test_what_exists_is_changed_only_in_its_window(world: World) -> None:
    day = datetime.now(UTC) + timedelta(days=3)
    closed = [Maintenance(days=[day.strftime("%a")])]  # type: ignore[list-item]
    await world.declare(SERVER, "web", GIVEN, policy=PolicySpec(maintenance=closed))
    await world.ready(SERVER, "web")  # what is not there waits for no window
    bigger = GIVEN | {"size": "large"}
    await world.declare(SERVER, "web", bigger, policy=PolicySpec(maintenance=closed))
    said = await world.says(SERVER, "web", "OutsideWindow")
    assert said == f"would update (1 field) in the window that opens {day:%a %d %b} 00:00 UTC"
    found = await world.get(SERVER, "web")
    assert found is not None
    assert (await asker(world).plan(to_wire(found))).reason == "OutsideWindow"
    nowhere = [Maintenance(time_zone="Mars/Olympus")]
    await world.declare(SERVER, "web", bigger, policy=PolicySpec(maintenance=nowhere))
    assert "spec.policy.maintenance[0].timeZone: unknown time zone" in await world.says(SERVER, "web", "InvalidField")
    assert world.cloud.all("servers")[0]["size"] == "small"
    await world.declare(SERVER, "web", bigger, policy=PolicySpec(maintenance=[*closed, Maintenance()]))
    await world.until(lambda: world.cloud.all("servers")[0]["size"] == "large", "a window is open")


async def test_what_is_taken_over_is_planned_as_it_is(world: World) -> None:
    _, server = world.cloud.serve("POST", "/servers", "Bearer secret", {"name": "old", "region": "eu"})
    given = {"name": "new", "region": "eu"}
    policy = PolicySpec(adopt=f"id:{server['id']}")
    answer = await asker(world).plan(draft(world, SERVER, "old", given, policy=policy))
    assert answer.action == "update"
    assert lines(answer) == {"name": ("old", "new")}
    gone = await asker(world).plan(draft(world, SERVER, "old", given, policy=PolicySpec(adopt="id:999")))
    assert gone.error == "cloud_server 999: There is no cloud_server 999"
    assert await world.secret("old-server-state") is None
