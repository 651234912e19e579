"""What lasts: a creation through a stop of the engine and an API that is away, everything through a backup; what stays when an engine goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, wait_for
from infrastructure_engine import GROUP, CloudEngine, cloud_engine, server

pytestmark = pytest.mark.engine

SLOW_S = 12.0
"""Longer than a stop waits for what is being made."""
WRITES = ("POST servers", "PUT servers", "DELETE servers", "POST networks", "PUT networks", "DELETE networks")


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with cloud_engine(enabled=("cloud_server", "cloud_network", "cloud_cluster")) as made:
        yield made


def named(world: CloudEngine, name: str) -> list[dict[str, Any]]:
    return [one for one in world.cloud.all("servers") if one["name"] == name]


def writes(world: CloudEngine) -> Counter[str]:
    return Counter({what: world.cloud.calls[what] for what in WRITES})


def asked_for(world: CloudEngine, posts: int) -> None:
    wait_for(lambda: world.cloud.calls["POST servers"] > posts, 60, "the cloud is asked to make it")


def test_what_is_made_while_the_engine_stops_is_found_when_it_starts(world: CloudEngine) -> None:
    posts = world.cloud.calls["POST servers"]
    world.cloud.faults = {"slow_s": SLOW_S}
    world.apply(server("slow"))
    asked_for(world, posts)

    world.engine.run("stop")
    world.cloud.faults = {}
    wait_for(lambda: named(world, "slow"), 60, "the cloud made it, and nobody heard")
    world.engine.start("--no-node")

    world.until("Server", "slow")
    assert len(named(world, "slow")) == 1
    assert world.get("Server", "slow")["status"]["id"] == named(world, "slow")[0]["id"]  # type: ignore[index]


def test_an_api_that_is_away_in_the_middle_loses_nothing(world: CloudEngine) -> None:
    posts = world.cloud.calls["POST servers"]
    world.cloud.faults = {"slow_s": 3.0}
    world.apply(server("cut"), server("cut-too"))
    asked_for(world, posts)
    api = world.engine.pid("api")
    os.kill(api, signal.SIGSTOP)
    wait_for(lambda: len(named(world, "cut") + named(world, "cut-too")) == 2, 60, "the cloud makes them")
    os.kill(api, signal.SIGKILL)
    world.cloud.faults = {}
    wait_for(
        lambda: world.engine.run("get", "servers.cloud.tf.trimtab.dev", check=False).returncode == 0, 60, "the API"
    )

    for name in ("cut", "cut-too"):
        world.until("Server", name)
        assert len(named(world, name)) == 1


def test_a_backup_brings_everything_back_and_makes_nothing_anew(world: CloudEngine, tmp_path: Path) -> None:
    world.apply(
        {"apiVersion": GROUP, "kind": "Network", "metadata": {"name": "net", "namespace": "default"}, "spec": {"forProvider": {"name": "net"}}},
        server("kept", spec={"references": [{"field": "network", "source": {"kind": "Network", "name": "net", "field": "id"}}]}),
        server("tagged", spec={"policy": {"adopt": "ifTagged", "replace": "auto"}}, tags={"role": "web"}),
        server("plain", spec={"policy": {"replace": "auto"}}),
    )  # fmt: skip
    for name in ("kept", "tagged", "plain", "slow"):
        world.until("Server", name)
    ids = {name: named(world, name)[0]["id"] for name in ("kept", "tagged", "plain")}
    world.engine.run("backup", str(tmp_path / "backups"))
    key = tmp_path / "key"
    key.write_text((world.engine.data / "backup" / "identity.txt").read_text())
    # What happens after it: two are made anew, one is new.
    world.apply(server("tagged", region="us", spec={"policy": {"adopt": "ifTagged", "replace": "auto"}}, tags={"role": "web"}))  # fmt: skip
    world.apply(server("later", spec={"policy": {"adopt": "ifTagged"}}))
    wait_for(lambda: [o["id"] for o in named(world, "tagged")] not in ([], [ids["tagged"]]), 60, "it is made anew")
    world.until("Server", "tagged")
    world.until("Server", "later")
    gone = world.engine.run("uninstall")
    said = gone.stdout + gone.stderr
    assert "8 resources of providers stay where they are, and nobody keeps them any more:" in said
    assert f"  Server default/kept: {ids['kept']}" in said
    assert "delete their objects first: kubectl delete infrastructure --all -A" in said
    before = writes(world)

    first = world.engine
    second = EngineUnderTest(
        first.data.parent / "data2", first.api_port, first.http_port, first.https_port, first.web_port
    )
    world.engine = second
    try:
        second.run("restore", str(tmp_path / "backups"), "--key", str(key))
        second.start("--no-node")
        world.until("Provider", "cloud")
        for name in ("kept", "plain", "slow", "cut"):
            world.until("Server", name)
        [provider] = second.json("provider", "list")
        assert provider["kinds"] == ["cloud_cluster", "cloud_network", "cloud_server"]
        # Of the one that was made anew since, the region is as the backup has it: it is known again by its tag, and then made anew as
        # it said then.
        wait_for(
            lambda: [o.get("region") for o in named(world, "tagged")] == ["eu"],
            60,
            lambda: f"{world.get('Server', 'tagged')}",
        )
        world.until("Server", "tagged")
        assert "Server default/tagged: Adopted: found cloud_server" in second.run("timeline", "--limit", "1000").stdout
        assert len(named(world, "later")) == 1  # nobody knows of it: it stays
        after = writes(world)
        assert {what: after[what] - before[what] for what in WRITES if after[what] != before[what]} == {
            "POST servers": 1,
            "DELETE servers": 1,
        }
        assert [len(named(world, name)) for name in ("kept", "plain", "slow", "cut", "tagged")] == [1] * 5
        drifted = [
            e["message"]
            for e in second.json("timeline", "--limit", "1000")
            if "Drifted" in e["message"] and "tagged" not in e["message"]
        ]
        assert drifted == []
    finally:
        shutil.rmtree(first.data)


def test_what_the_commands_say_for_programs_is_the_same_in_both_forms(world: CloudEngine) -> None:
    import yaml

    for command in (
        ("provider", "list"),
        ("provider", "kinds", "cloud", "server"),
        ("plan", "-A"),
        ("composition", "list"),
        ("get", "managed"),
    ):
        as_json = world.engine.run(*command, "-o", "json", check=False)
        as_yaml = world.engine.run(*command, "-o", "yaml", check=False)
        assert as_json.returncode == as_yaml.returncode != 1, as_json.stderr
        one, other = json.loads(as_json.stdout), yaml.safe_load(as_yaml.stdout)
        assert type(one) is type(other)
    listed = world.engine.run("get", "managed").stdout
    assert "READY   SYNCED   REASON" in listed
    assert "network/net" in listed
