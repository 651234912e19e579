"""Another cluster's `trimtab run`, from the side of who asks it: where it is, whether it answers, and what is left of it."""

from __future__ import annotations

import asyncio
import fcntl
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api_in_process import running_api
from trimtab.api import ObjectMeta, from_wire
from trimtab.api.cluster import Lease
from trimtab.client import ApiError, Client
from trimtab.client.asgi import AsgiTransport
from trimtab.components.infrastructure.commands.commanding import runs_here
from trimtab.components.infrastructure.kinds import Provider, ProviderConfig, ProviderSpec
from trimtab.components.infrastructure.questions import outside, webhooks
from trimtab.engine import beside
from trimtab.engine.departing import depart
from trimtab.engine.errors import EngineError
from trimtab.engine.registry import beside_kubernetes
from trimtab.runtime.commands import Refused
from trimtab.runtime.settings import Settings
from trimtab.server import create_app

SERVER = "https://prod.example.com:6443"


@dataclass
class Elsewhere:
    """A target that is another cluster."""

    place: Settings
    state: Path | None = None
    is_embedded: bool = False

    def runner(self) -> Settings:
        return self.place

    def client(self) -> Any:
        raise NotImplementedError


@asynccontextmanager
async def cluster(tmp_path: Path, *, prepared: bool = True) -> AsyncIterator[tuple[Client, Elsewhere]]:
    settings = beside.settings_for(SERVER, beside.Options(tmp_path))
    async with running_api() as api:
        client = Client(AsgiTransport(create_app(api.server, trusted=True)))
        if prepared:
            await beside.prepare(client, settings, beside_kubernetes(["infrastructure"]))
        yield client, Elsewhere(settings)
        await client.close()


async def led_by(client: Client, holder: str) -> None:
    spec = {"holderIdentity": holder, "renewTime": datetime.now(UTC).isoformat()}
    lease = {"metadata": {"name": "trimtab-controllers", "namespace": "trimtab-system"}, "spec": spec}
    await client.apply(
        from_wire(Lease, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease}), manager="t"
    )


async def test_programs_are_installed_where_run_works(tmp_path: Path) -> None:
    async with cluster(tmp_path, prepared=False) as (client, target):
        with pytest.raises(Refused, match="this cluster knows no providers yet: `trimtab run` with the same --context"):
            await runs_here(target, client.wire)
    async with cluster(tmp_path) as (client, target):
        await runs_here(target, client.wire)  # nobody works for it: for who is to

        await led_by(client, "node-7.example.com-4711")
        with pytest.raises(
            Refused, match=r"runs on node-7\.example\.com, and programs lie where it runs: run this there"
        ):
            await runs_here(target, client.wire)

        await led_by(client, f"{socket.gethostname()}-4711")
        with pytest.raises(
            Refused, match=r"\(process 4711 here\) keeps its programs elsewhere than in .*: give its --state"
        ):
            await runs_here(target, client.wire)

        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await runs_here(target, client.wire)


async def test_a_question_that_nobody_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "TAKEN_WITHIN_S", 0.0)
    async with cluster(tmp_path) as (client, _):
        assert await outside.reviewed(client.wire)
        with pytest.raises(ApiError, match=r"no `trimtab run` of this cluster answered within 0 s: is it running\?"):
            await outside.told(client.wire, ProviderConfig, "default", "default", "plan", {"objects": []})
        assert (await client.wire.list(outside.REVIEWS))["items"] == []


async def test_an_api_server_that_does_not_come_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhooks, "TRIAL_S", 0.1)
    async with cluster(tmp_path) as (client, _):
        await webhooks.look_for_itself(SimpleNamespace(client=client), "https://10.9.9.9:9443/key", asyncio.Event())

        assert (await client.wire.list(outside.REVIEWS))["items"] == []
    [said] = caplog.messages
    assert said.startswith(
        "the cluster's API server does not reach https://10.9.9.9:9443, where it would ask about writes of providers' kinds: they pass"
    )


async def test_what_an_engine_of_ours_is_asked_goes_by_its_subresources(tmp_path: Path) -> None:
    async with cluster(tmp_path, prepared=False) as (client, _):
        assert not await outside.reviewed(client.wire)


async def test_a_cluster_is_left_only_once_nothing_is_kept_there(tmp_path: Path) -> None:
    said: list[str] = []
    async with cluster(tmp_path) as (client, target):
        await led_by(client, "node-7-4711")
        with pytest.raises(EngineError, match=r"`trimtab run` works for this cluster \(node-7-4711\): end it first"):
            await depart(client.wire, target.place, really=True, say=said.append)
        await led_by(client, "")

        one = Provider(metadata=ObjectMeta(name="cloud"), spec=ProviderSpec(source="x/cloud"))
        await client.create(one, manager="t")
        with pytest.raises(
            EngineError, match=r"there is still Provider cloud: .* a Provider goes by `trimtab provider dis"
        ):
            await depart(client.wire, target.place, really=True, say=said.append)
        await client.wire.delete(Provider.resource_type, "cloud")

        (tmp_path / "providers").mkdir()
        (tmp_path / "mine").write_text("somebody else's")
        await depart(client.wire, target.place, really=False, say=said.append)
        assert said.pop().startswith("would delete of the cluster: 6 kinds, 4 roles and bindings, ")
        assert (tmp_path / "providers").exists()

        await depart(client.wire, target.place, really=True, say=said.append)
        assert not await outside.reviewed(client.wire)
        assert [one.name for one in tmp_path.iterdir()] == ["mine"]
