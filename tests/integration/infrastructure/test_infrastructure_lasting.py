"""What lasts: a creation through a stop of the engine, an API that is away and a full disk, everything through a backup; what stays when an
engine goes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, wait_for
from infrastructure_engine import GROUP, CloudEngine, cloud_engine, provider_program, server

pytestmark = pytest.mark.engine

SLOW_S = 12.0
"""Longer than a stop waits for what is being made."""
DISK_MIB = 300
BALLAST_BYTES = (900_000, 20_000, 500)
"""Of ConfigMaps by which the last of a full disk is taken: what the store's files have room for already is taken, too."""
WRITES = ("POST servers", "PUT servers", "DELETE servers", "POST networks", "PUT networks", "DELETE networks")


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with cloud_engine(
        "keys", enabled=("cloud_server", "cloud_network", "cloud_cluster", "cloud_key"), disk_mib=DISK_MIB
    ) as made:
        yield made


def named(world: CloudEngine, name: str) -> list[dict[str, Any]]:
    return [one for one in world.cloud.all("servers") if one["name"] == name]


def writes(world: CloudEngine) -> Counter[str]:
    return Counter({what: world.cloud.calls[what] for what in WRITES})


def refusal(engine: EngineUnderTest, *arguments: str) -> str:
    """What a command says that must fail, in one line."""
    done = engine.run(*arguments, check=False)
    assert done.returncode != 0, done.stdout
    [line] = done.stderr.strip().splitlines()
    return line


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


def written(world: CloudEngine, kind: str, name: str) -> dict[str, Any]:
    """What is written down of a resource."""
    found = world.get("secret", f"{name}-{kind}-state")
    return json.loads(base64.b64decode(found["data"]["state"])) if found is not None else {}


@contextmanager
def full_disk(world: CloudEngine) -> Iterator[str]:
    """The engine's disk is full inside, to the last byte that a write could take. Gives what a refused write was told."""
    filler = world.engine.data.parent / "filler"
    with open(filler, "wb", buffering=0) as file:
        disk = os.statvfs(filler)
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - (16 << 20))
        file.seek(0, os.SEEK_END)
        for size in (1 << 20, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        for size in BALLAST_BYTES:
            refused, number = "", 0
            while not refused:
                number += 1
                meta = {"name": f"ballast-{size}-{number}", "namespace": "default"}
                ballast = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"v": "x" * size}}
                refused = world.apply(ballast, check=False).stderr
        yield refused
    finally:
        filler.unlink()


def key_named(name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": GROUP, "kind": "Key", "metadata": meta, "spec": {"forProvider": {"name": name}}}


def test_a_full_disk_loses_nothing_and_what_could_not_be_remembered_is_not_made(world: CloudEngine) -> None:
    """Of a key nothing tells afterwards whether it was made: all that is known of it is what its answer said."""
    engine, cloud = world.engine, world.cloud
    world.apply(server("lost"))
    world.until("Server", "lost")
    pids = [engine.pid(name) for name in ("api", "controllers")]
    with ExitStack() as room:
        with cloud.holding():
            world.apply(server("held"), key_named("held"))
            for kind in ("server", "key"):
                wait_for(lambda kind=kind: written(world, kind, "held").get("pending"), 60, f"a {kind} is asked for")
            refused = room.enter_context(full_disk(world))
        wait_for(lambda: named(world, "held") and cloud.all("keys"), 60, "the cloud makes them")
        before = writes(world)
        cloud.remove("servers", named(world, "lost")[0]["id"])
        reads = cloud.calls["GET servers"]

        full = "the disk is full, the write was refused: free some space and retry"
        assert full in refused
        for command in (
            ("provider", "enable", "cloud", "cloud_bucket"),
            ("provider", "disable", "cloud", "cloud_cluster"),
            ("delete", "Server", "held", "-n", "default"),
        ):
            assert full in refusal(engine, *command)
        program = str(provider_program(world.folder))
        said = refusal(engine, "provider", "install", "trimtab/second@1.0.0", "--path", program)
        assert said == f"trimtab: the disk of {engine.data}/providers is full: free some space and try again"
        assert json.loads(engine.run("get", "Server", "-n", "default", "-o", "json").stdout)["items"]
        assert f"the disk of {engine.data} is full: free some" in engine.run("status", check=False).stdout
        wait_for(lambda: cloud.calls["GET servers"] > reads + 10, 60, "they are looked at, again and again")
        assert named(world, "lost") == []
        assert writes(world) == before
        assert written(world, "key", "held")["pending"] == "create"

    wait_for(lambda: named(world, "lost"), 60, "it is made anew, now that it can be remembered")
    for kind, name in (("Server", "held"), ("Key", "held"), ("Server", "lost")):
        world.until(kind, name)
    assert [len(named(world, "held")), len(named(world, "lost")), len(cloud.all("keys"))] == [1, 1, 1]
    assert [engine.pid(name) for name in ("api", "controllers")] == pids
    kept = cloud.all("keys")[0]["id"]
    engine.wait_timeline(f"cloud_key {kept}: what was done could not be written down at first, and is now")
    assert "is full" not in engine.run("status").stdout
    [provider] = engine.json("provider", "list")
    assert provider["kinds"] == ["cloud_cluster", "cloud_key", "cloud_network", "cloud_server"]
    for kind, name in (("Server", "held"), ("Key", "held"), ("Server", "lost")):
        engine.run("delete", kind, name, "-n", "default")
    wait_for(lambda: not named(world, "held") + named(world, "lost") + cloud.all("keys"), 60, "they are deleted")


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
        assert provider["kinds"] == ["cloud_cluster", "cloud_key", "cloud_network", "cloud_server"]
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


LAB = """
import time
from dataclasses import dataclass
from typing import Any, ClassVar
from trimtab.compose import Claim, Composed, Managed, Observed, definition

@dataclass
class Lab:
    region: str

class Server(Managed[Any]):
    API_VERSION: ClassVar[str] = "cloud.tf.trimtab.dev/v1"
    KIND: ClassVar[str] = "Server"

@definition(group="acme.example")
def compose(xr: Claim[Lab], observed: Observed) -> Composed:
    time.sleep(4)
    return [Server("host", {"name": xr.name + "-host", "region": xr.spec.region}, interval="1s")]
"""


def killed(world: CloudEngine) -> None:
    """Everything of the engine, at once."""
    processes = world.engine.json("status")["processes"]
    for process in processes:
        if process["name"] != "envoy":
            os.kill(process["pid"], signal.SIGKILL)
    world.engine.start("--no-node")


def restarted(world: CloudEngine) -> None:
    world.engine.run("stop")
    world.engine.start("--no-node")


def only_controllers_killed(world: CloudEngine) -> None:
    os.kill(world.engine.pid("controllers"), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("interrupted", "told"),
    [
        (only_controllers_killed, "controllers was killed (signal 9)"),
        (restarted, "engine started"),
        (killed, "controllers ended while no supervisor ran"),
    ],
)
def test_what_is_under_way_comes_to_its_end_whatever_becomes_of_the_engine(
    world: CloudEngine, interrupted: Callable[[CloudEngine], None], told: str
) -> None:
    """A creation, a deletion, a plan that waits for somebody, and a claim's function: all at once."""
    engine, cloud = world.engine, world.cloud
    if world.get("CompositeDefinition", "labs.acme.example", "") is None:
        source = world.folder / "lab.py"
        source.write_text(LAB)
        engine.run("apply", "-f", "-", input=engine.run("composition", "render", str(source)).stdout)
        world.until("CompositeDefinition", "labs.acme.example")
    mark = interrupted.__name__.replace("_", "-")
    made, going, waiting, lab = (f"{what}-{mark}" for what in ("made", "going", "waits", "lab"))
    world.apply(server(going), server(waiting, spec={"policy": {"apply": "onApproval"}}))
    world.until("Server", going)
    world.until("Server", waiting, "Synced", "False", "ApprovalNeeded")
    digest = world.get("Server", waiting)["status"]["plan"]["digest"]  # type: ignore[index]
    before, last = writes(world), engine.last_entry()
    with cloud.holding():
        world.apply(
            server(made),
            {
                "apiVersion": "acme.example/v1alpha1",
                "kind": "Lab",
                "metadata": {"name": lab, "namespace": "default"},
                "spec": {"region": "eu"},
            },
        )
        engine.run("delete", "Server", going, "-n", "default", "--no-wait")
        wait_for(lambda: written(world, "server", made).get("pending"), 60, "it is being made")
        wait_for(lambda: written(world, "server", going).get("pending"), 60, "it is being deleted")
        interrupted(world)

    world.until("Server", made)
    world.until("Lab", lab)
    wait_for(lambda: world.get("Server", going) is None, 60, "it is gone")
    assert [len(named(world, name)) for name in (made, going, waiting, f"{lab}-host")] == [1, 0, 0, 1]
    after = writes(world)
    assert after["POST servers"] - before["POST servers"] == 2
    found = world.get("Server", waiting)
    assert found is not None
    assert found["status"]["plan"]["digest"] == digest
    engine.wait_timeline(told, after=last)
    for name in (made, f"{lab}-host"):
        number = named(world, name)[0]["id"]
        assert [
            e["message"]
            for e in engine.timeline()
            if e["message"] in (f"cloud_server {number} had been made, unheard", f"made cloud_server {number}")
        ]
    approved = server(waiting, spec={"policy": {"apply": "onApproval"}})
    approved["metadata"]["annotations"] = {"trimtab.dev/approve": digest}
    world.apply(approved)
    world.until("Server", waiting)
    assert len(named(world, waiting)) == 1
    world.apply(server(waiting))  # its deletion would wait, too
    for kind, name in (("Server", made), ("Server", waiting), ("Lab", lab)):
        engine.run("delete", kind, name, "-n", "default")
    wait_for(lambda: not named(world, made) + named(world, waiting) + named(world, f"{lab}-host"), 60, "all is deleted")
