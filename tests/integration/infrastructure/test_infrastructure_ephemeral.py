"""Values that are had anew each time: opened just before they are used, renewed while they are, given back after, and kept nowhere."""

from __future__ import annotations

import base64
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import cloud_provider
from cloud import Cloud
from managed_world import NAMESPACE, World
from trimtab.api import ObjectMeta
from trimtab.api.core import Event, Secret
from trimtab.components.infrastructure.kinds import (
    Ephemeral,
    PolicySpec,
    ProviderConfig,
    ProviderConfigSpec,
    ProviderRef,
    SecretKey,
)
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.protocol.provider import Provider, ProviderError
from trimtab.components.infrastructure.questions.asking import Asker
from trimtab.runtime.effects import Effect

SERVER = "cloud_server"
GIVEN: dict[str, Any] = {"name": "web", "region": "eu"}
PIN = Ephemeral(type="cloud_token", field="token", config={"scope": "pins"})


@pytest.mark.parametrize("protocol", ["5", "6"])
async def test_an_ephemeral_resource_in_both_protocols(tmp_path: Path, protocol: str) -> None:
    command = [sys.executable, cloud_provider.__file__, protocol]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Cloud() as cloud:
        one = await Provider.start(command, tmp_path, environment=environment, name="cloud", timeout_s=120)
        try:
            await one.configure({"url": cloud.url, "token": "secret"})
            assert set((await one.schema()).ephemeral["cloud_token"].block.attributes) == {"scope", "ttl", "token"}
            [said] = await one.validate_ephemeral("cloud_token", {"scope": "moon"})
            assert str(said) == "scope: There is no scope moon"

            opened = await one.open_ephemeral("cloud_token", {"scope": "all", "ttl": 90})
            [token] = cloud.live_tokens()
            assert (opened.value["token"], opened.value["ttl"]) == (token.text, 90)
            renewed = await one.renew_ephemeral("cloud_token", opened)
            assert (token.renewed, renewed.value) == (1, opened.value)
            assert renewed.renew_at is not None
            assert opened.renew_at is not None
            assert renewed.renew_at >= opened.renew_at
            await one.close_ephemeral("cloud_token", renewed)
            assert cloud.live_tokens() == []
            with pytest.raises(ProviderError, match="ephemeral resource cloud_token: The token t1 is gone"):
                await one.renew_ephemeral("cloud_token", renewed)
            assert (await one.open_ephemeral("cloud_token", {"scope": "later"})).deferred
            with pytest.raises(ProviderError, match="cloud has no ephemeral resource cloud_key"):
                await one.open_ephemeral("cloud_key", {})
        finally:
            await one.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with Cloud() as cloud:
        async with World(tmp_path, cloud, "pins") as one:
            yield one


async def everything(world: World) -> str:
    """All that is kept anywhere: the objects, what was said of them, the journal."""
    kinds = [Secret, Event, Effect, ProviderConfig, *world.kinds.values()]
    found = [str(one) for kind in kinds for one in (await world.client.list(kind)).items]
    for secret in (await world.client.list(Secret)).items:
        found += [base64.b64decode(data).decode(errors="replace") for data in secret.data.values()]
    assert world.process is not None
    found += [str(row) for row in world.process.journal.database.execute("SELECT * FROM entries")]
    return "\n".join(found)


async def test_a_write_only_field_is_had_anew_when_it_is_sent_and_is_kept_nowhere(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN, ephemeral={"pin": PIN})
    await world.ready(SERVER, "web")
    [token] = world.cloud.tokens.values()
    assert world.cloud.all("servers")[0]["pin"] == token.text
    assert not token.live
    looks = world.cloud.calls["GET servers"]
    await world.until(lambda: world.cloud.calls["GET servers"] > looks + 3, "it is looked at again and again")
    assert len(world.cloud.tokens) == 1

    again = Ephemeral(type="cloud_token", field="token", config={"scope": "pins"}, version="2")
    await world.declare(SERVER, "web", GIVEN, ephemeral={"pin": again}, policy=PolicySpec(apply="onApproval"))
    await world.says(SERVER, "web", "ApprovalNeeded")
    found = await world.get(SERVER, "web")
    assert found is not None
    assert [(c.path, c.before, c.after) for c in found.status.plan.changes] == [
        ("pinSecretRef", "(sensitive)", "(sensitive)")
    ]
    assert len(world.cloud.tokens) == 1  # a plan opens nothing
    note = {"metadata": {"annotations": {"trimtab.dev/approve": found.status.plan.digest}}}
    await world.client.patch(found, note, manager="test")
    await world.ready(SERVER, "web")
    second = world.cloud.tokens["t2"]
    assert world.cloud.all("servers")[0]["pin"] == second.text
    assert world.cloud.live_tokens() == []

    # What the provider says of it is not repeated.
    await world.declare(SERVER, "web", GIVEN | {"name": "tells"}, ephemeral={"pin": again})
    message = await world.says(SERVER, "web", "ProviderError")
    assert message == "pin: The pin (sensitive) is too good"
    await world.until(lambda: not world.cloud.live_tokens(), "what it tries with is given back each time")
    kept = await everything(world)
    assert all(one.text not in kept for one in world.cloud.tokens.values())


async def test_a_credential_is_had_anew_renewed_while_it_is_used_and_given_back(world: World) -> None:
    source = Ephemeral(
        type="cloud_token", field="token", config={"scope": "all", "ttl": 30}, provider_ref=ProviderRef(name="default")
    )
    spec = ProviderConfigSpec(
        provider="cloud", config={"url": world.cloud.url}, ephemeral={"token": source}, requests_per_second=500
    )
    await world.make(ProviderConfig(metadata=ObjectMeta(name="short", namespace=NAMESPACE), spec=spec))
    await world.declare(SERVER, "web", GIVEN, provider_ref=ProviderRef(name="short"))
    await world.ready(SERVER, "web")
    [token] = world.cloud.live_tokens()
    await world.until(lambda: token.renewed >= 3, "it is renewed")
    assert world.cloud.live_tokens() == [token]
    for talk in world.pool.running:
        if not talk.leases:
            os.kill(talk.provider.plugin.pid, signal.SIGKILL)
    renewed = token.renewed
    await world.until(lambda: token.renewed > renewed + 1, "another process renews it")

    token.until = 0.0  # somebody revokes it
    await world.until(world.cloud.live_tokens, "another one is had")
    await world.ready(SERVER, "web")
    world.cloud.change("servers", world.cloud.all("servers")[0]["id"], name="hacked")
    await world.until(lambda: world.cloud.all("servers")[0]["name"] == "web", "with which it is kept")

    default = await world.client.get(ProviderConfig, "default", NAMESPACE)
    assert default is not None
    await world.client.delete(default)
    await world.until(lambda: _needed(world), "whose credential is needed stays")
    kept = await everything(world)
    assert all(one.text not in kept for one in world.cloud.tokens.values())
    await world.rest()
    assert world.cloud.live_tokens() == []
    await world.work()


async def _needed(world: World) -> bool:
    config = await world.client.get(ProviderConfig, "default", NAMESPACE)
    said = [c.message for c in config.status.conditions] if config is not None else []
    return said == ["it is still needed by ProviderConfig short: delete it first"]


async def test_what_cannot_be_had_is_said(world: World) -> None:
    def of(**more: Any) -> Ephemeral:
        return Ephemeral(**({"type": "cloud_token", "field": "token", "config": {"scope": "pins"}} | more))

    wrong = {
        "size": (of(), "spec.ephemeral.size: it stays in the state, and what is had anew each time must not: of write-only fields pin"),
        "pni": (of(), "spec.ephemeral.pni: forProvider has no such field"),
    }  # fmt: skip
    for field, (source, said) in wrong.items():
        await world.declare(SERVER, field, GIVEN | {"name": field}, ephemeral={field: source})
        assert await world.says(SERVER, field, "InvalidField") == said
    pins = {
        "kind": (of(type="cloud_key"), "InvalidField", "spec: ephemeral.pin: cloud has no ephemeral resource cloud_key; it has cloud_token"),
        "field": (of(field="secret"), "InvalidField", "spec: ephemeral.pin: cloud_token has no secret; it has scope, token, ttl"),
        "scope": (of(config={"scope": "moon"}), "InvalidField", "spec: ephemeral.pin: config: scope: There is no scope moon"),
        "more": (of(config={"scop": "x"}), "InvalidField", "spec: ephemeral.pin: config.scop: "),
        "later": (of(config={"scope": "later"}), "Deferred", "spec: ephemeral.pin: cloud_token cannot be opened yet: something it needs is not there yet"),
        "other": (of(provider_ref=ProviderRef(name="vault")), "NoProviderConfig", "there is no ProviderConfig vault in namespace default"),
        "secret": (of(secrets={"scope": SecretKey(name="nowhere", key="x")}), "SecretMissing", "spec: ephemeral.pin: scope: there is no Secret nowhere in namespace default: create it"),
    }  # fmt: skip
    for name, (source, reason, said) in pins.items():
        await world.declare(SERVER, name, GIVEN | {"name": name}, ephemeral={"pin": source})
        message = await world.says(SERVER, name, reason)
        assert message.startswith(said), message
    assert world.cloud.all("servers") == []
    assert world.cloud.live_tokens() == []
    itself = ProviderConfigSpec(
        provider="cloud",
        config={"url": world.cloud.url},
        ephemeral={"token": of(provider_ref=ProviderRef(name="self"))},
    )
    await world.make(ProviderConfig(metadata=ObjectMeta(name="self", namespace=NAMESPACE), spec=itself))

    async def refused() -> str:
        config = await world.client.get(ProviderConfig, "self", NAMESPACE)
        return next((c.message for c in config.status.conditions), "") if config is not None else ""

    await world.until(refused, "it is refused")
    assert await refused() == "spec: ephemeral.token: self needs self, which none can begin with"


async def test_a_question_opens_nothing_and_says_what_is_wrong(world: World) -> None:
    kind = world.kinds[SERVER].resource_type
    obj: dict[str, Any] = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "forProvider": GIVEN,
            "ephemeral": {"pin": {"type": "cloud_token", "field": "token", "config": {"scope": "pins"}}},
        },
    }

    def reads(namespace: str) -> Any:
        async def read(of: Any, name: str) -> Any:
            return await world.client.get(of, name, namespace if of.resource_type.namespaced else None)

        return read

    asker = Asker(reads, world.pool, Suspects())
    answer = await asker.plan(obj)
    assert (answer.action, answer.error) == ("create", "")
    assert [c.after for c in answer.changes if c.path == "pinSecretRef"] == ["(sensitive)"]
    assert (await asker.validate(obj)).errors == ()
    obj["spec"]["ephemeral"]["pin"]["config"] = {"scope": "moon"}
    assert (await asker.validate(obj)).errors == (("spec.ephemeral.pin", "config: scope: There is no scope moon"),)
    assert world.cloud.tokens == {}
