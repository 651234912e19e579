"""A Terraform provider that others wrote, a real program: its plans are Terraform's own, and its objects are kept."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import plan_peers
from engine_under_test import wait_for
from hetzner import Hetzner
from infrastructure_engine import CloudEngine, bare_engine
from trimtab.components.infrastructure.loop.keeping import Keeper
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.protocol.provider import Provider

HCLOUD = Path(os.environ.get("TRIMTAB_PROVIDERS", "/nonexistent")) / "hcloud"
needs_provider = pytest.mark.skipif(
    not HCLOUD.exists(), reason="no provider built by .ci/providers (TRIMTAB_PROVIDERS)"
)
GROUP = "hcloud.tf.trimtab.dev/v1"


async def test_plans_of_a_real_provider_are_those_of_terraform(tmp_path: Path) -> None:
    await plan_peers.agree(plan_peers.planners()["hcloud"], tmp_path)


def public_key() -> str:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[tuple[Keeper, Hetzner]]:
    with Hetzner() as cloud:
        provider = await Provider.start([str(HCLOUD)], tmp_path, name="hcloud", environment={"HOME": str(tmp_path)})
        try:
            schema = await provider.schema()
            await provider.configure({"token": "a" * 64, "endpoint": cloud.endpoint})
            yield Keeper(provider, "hcloud_ssh_key", schema.resources["hcloud_ssh_key"]), cloud
        finally:
            await provider.close()


@needs_provider
async def test_what_nobody_touches_does_not_drift(keeper: tuple[Keeper, Hetzner]) -> None:
    kept, config = Kept.fresh(), {"name": "mine", "public_key": public_key(), "labels": {"team": "blue"}}

    async def save(_: Kept) -> None:
        pass

    kept = await keeper[0].carry_out(kept, await keeper[0].look(kept, config), save)

    looks = [await keeper[0].look(kept, config) for _ in range(100)]

    assert {(look.action, look.drifted) for look in looks} == {("none", ())}
    assert keeper[1].order == ["POST ssh_keys"]


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[CloudEngine, Hetzner]]:
    with Hetzner() as cloud, bare_engine() as engine:
        engine.engine.run("provider", "install", "hetznercloud/hcloud@1.59.0", "--path", str(HCLOUD))
        engine.engine.run("provider", "enable", "hcloud", "hcloud_ssh_key", "hcloud_network", "hcloud_network_subnet")
        spec = {"provider": "hcloud", "config": {"endpoint": cloud.endpoint}, "requestsPerSecond": 500}
        secret = {"token": {"name": "hcloud", "key": "token"}}
        engine.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hcloud"}, "stringData": {"token": "a" * 64}},
            {
                "apiVersion": "trimtab.dev/v1alpha1",
                "kind": "ProviderConfig",
                "metadata": {"name": "default"},
                "spec": spec | {"secrets": secret},
            },
        )
        yield engine, cloud


def managed(kind: str, name: str, given: dict[str, Any], **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    whole = {"forProvider": given, "interval": "1s", **spec}
    return {"apiVersion": GROUP, "kind": kind, "metadata": metadata, "spec": whole}


@needs_provider
def test_a_real_provider_keeps_a_network_and_its_subnet(world: tuple[CloudEngine, Hetzner]) -> None:
    engine, cloud = world
    subnet = {"type": "cloud", "networkZone": "eu-central", "ipRange": "10.0.1.0/24"}
    refers = [{"field": "networkId", "source": {"kind": "Network", "name": "inner", "field": "id"}}]
    engine.apply(
        managed("NetworkSubnet", "first", subnet, references=refers),
        managed("Network", "inner", {"name": "inner", "ipRange": "10.0.0.0/16"}),
    )
    engine.until("NetworkSubnet", "first")
    [network] = cloud.all("networks")
    assert [one["ip_range"] for one in network["subnets"]] == ["10.0.1.0/24"]

    cloud.change("networks", network["id"], name="hacked")
    wait_for(lambda: cloud.all("networks")[0]["name"] == "inner", 60, "the name set back")

    engine.engine.run("delete", "Network", "inner", "-n", "default", "--no-wait")
    engine.engine.run("delete", "NetworkSubnet", "first", "-n", "default")
    wait_for(lambda: not cloud.all("networks"), 60, "the network deleted, once its subnet is")
    assert cloud.order[-2:] == ["POST networks actions delete_subnet", "DELETE networks"]


@needs_provider
def test_a_key_comes_back_also_when_the_cloud_is_busy(world: tuple[CloudEngine, Hetzner]) -> None:
    engine, cloud = world
    engine.apply(managed("SshKey", "mine", {"name": "mine", "publicKey": public_key()}))
    engine.until("SshKey", "mine")
    [key] = cloud.all("ssh_keys")

    cloud.remove("ssh_keys", key["id"])
    cloud.busy = 3

    wait_for(lambda: cloud.all("ssh_keys"), 90, "the key made anew")
    engine.until("SshKey", "mine")
    engine.engine.run("delete", "SshKey", "mine", "-n", "default")
    wait_for(lambda: not cloud.all("ssh_keys"), 60, "the key deleted")


@needs_provider
def test_what_the_provider_refuses_is_said_in_its_words(world: tuple[CloudEngine, Hetzner]) -> None:
    done = world[0].apply(managed("Network", "odd", {"name": "odd", "ipRange": "ten"}), check=False)

    assert done.returncode != 0
    assert "invalid CIDR address: ten" in done.stderr
