"""A whole engine: from a provider's program to objects that keep a cloud, and back to nothing, by the commands that a user gives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from cloud import Cloud
from engine_under_test import wait_for
from infrastructure_engine import READS, CloudEngine, cloud_engine, server
from trimtab.components.infrastructure.kinds import DEFINED
from trimtab.components.infrastructure.programs.shelf import confined
from trimtab.engine import datadir, local, programs, upgrade

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with cloud_engine(enabled=("cloud_server",)) as made:
        yield made


def test_an_applied_object_exists_in_the_cloud_and_comes_back_when_it_is_deleted_there(world: CloudEngine) -> None:
    world.apply(server("web"))
    world.until("Server", "web")
    [first] = world.cloud.all("servers")

    world.cloud.remove("servers", first["id"])

    wait_for(lambda: world.cloud.all("servers"), 60, "the server made anew")
    [second] = world.cloud.all("servers")
    world.cloud.change("servers", second["id"], tags={"owner": "nobody"})
    changed = f"Server default/web: Updated: changed cloud_server {second['id']}: tags (drift)"
    drifted = wait_for(
        lambda: changed in (text := world.engine.run("timeline").stdout) and text, 60, "the drift mended"
    )
    assert "Server default/web: warning: Drifted: changed outside: tags" in drifted
    assert f"Server default/web: Created: made cloud_server {first['id']}" in drifted
    assert f"Server default/web: warning: Gone: cloud_server {first['id']} is no longer there" in drifted
    assert "Drifted: changed outside: tags" in world.engine.run("why", "Server/web").stdout
    world.engine.run("delete", "Server", "web", "-n", "default")
    wait_for(lambda: not world.cloud.all("servers"), 60, "the server deleted with its object")


def test_the_dashboard_shows_what_there_is_and_what_stands_in_the_way(world: CloudEngine) -> None:
    def table() -> dict[str, Any]:
        with urlopen(f"http://127.0.0.1:{world.engine.web_port}/api/views/infrastructure/infrastructure") as answer:
            found: dict[str, Any] = json.loads(answer.read())
        assert found["note"].startswith("cloud 1.0.0 (1 kinds enabled)")
        return found

    def rows() -> dict[str, list[str]]:
        return {row[2]: row for row in table()["rows"]}

    world.apply(server("shown"))
    world.until("Server", "shown")
    [there] = world.cloud.all("servers")
    assert rows()["shown"] == ["Server", "default", "shown", "True", "", "", there["id"]]

    world.apply(server("shown", region="us"))
    denied = "ReplaceDenied: a change of region would delete it and make it anew; spec.policy.replace is deny"
    found = wait_for(lambda: (row := rows()["shown"])[5] and row, 60, "what stands in the way")
    assert found[3:] == ["True", found[4], denied, there["id"]]
    assert found[4].startswith("replace: ")
    assert table()["rows"][0] == found, "what needs attention is first, ready or not"
    assert ". 1 of " in table()["note"]
    assert table()["note"].endswith(" need attention: 1 ReplaceDenied")
    assert "1 spec" in found[4]
    assert f"Server default/shown: warning: {denied}" in world.engine.run("timeline").stdout
    with urlopen(f"http://127.0.0.1:{world.engine.web_port}/api/stream", timeout=60) as stream:
        states = (json.loads(line[6:]) for line in stream if line.startswith(b'data: {"version"'))
        counts = (view["troubled"] for told in states for view in told["views"] if view["name"] == "infrastructure")
        assert next(count for count in counts if count) == 1
    assert "infrastructure: 1 need attention, first in the dashboard's view" in world.engine.run("status").stdout
    world.engine.run("delete", "Server", "shown", "-n", "default")


def refusal(world: CloudEngine, *arguments: str) -> str:
    """What a command says that must fail, in one line."""
    done = world.engine.run(*arguments, check=False)
    assert done.returncode != 0, done.stdout
    lines: list[str] = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


REACH = """
import json, os, socket, ssl, sys, urllib.request
files, sockets, api = json.loads(os.environ["ASKED"])
def readable(path):
    try:
        return bool(os.listdir(path)) if os.path.isdir(path) else bool(open(path, "rb").read(1)) or True
    except OSError:
        return False
def answers(path):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        return True
    except OSError:
        return False
def status(path):
    try:
        return urllib.request.urlopen(api + path, context=ssl._create_unverified_context(), timeout=30).status
    except urllib.error.HTTPError as err:
        return err.code
abstract = [line.split()[-1] for line in open("/proc/net/unix") if line.split()[-1].startswith("@")]
print(json.dumps({
    "files": [one for one in files if readable(one)],
    "sockets": [one for one in sockets if answers(one)],
    "abstract": [one for one in abstract if answers(chr(0) + one[1:])],
    "api": [status("/version"), status("/api/v1/secrets"), status("/apis/trimtab.dev/v1alpha1/providerconfigs")],
    "processes": len([one for one in os.listdir("/proc") if one.isdigit()]),
    "environment": sorted(os.environ),
}))
"""


def test_a_provider_comes_to_nothing_of_the_engine(world: CloudEngine) -> None:
    """What its own code would find, whatever a user puts into `config_path` or `credentials`."""
    engine = world.engine
    settings = json.loads((engine.data / "engine.json").read_text())
    run = Path("/run/trimtab") / settings["id"]
    sockets = [str(one) for one in run.rglob("*") if one.is_socket()]
    assert len(sockets) >= 3
    secret = [
        engine.data,
        run,
        *(p for p in engine.data.iterdir()),
        "/etc/shadow",
        "/etc/passwd",
        "/var/run/secrets",
        "/var/lib",
    ]
    own = world.folder / "sockets"
    own.mkdir(exist_ok=True)
    shutil.chown(own, "trimtab")
    program = world.folder / "reach"
    program.write_text(f"#!{sys.executable}\n{REACH}")
    program.chmod(0o755)
    asked = json.dumps([list(map(str, secret)), sockets, f"https://127.0.0.1:{settings['api_port']}"])
    command = confined(program, own, READS, "trimtab")
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "ASKED": asked}
    )
    found = json.loads(done.stdout)
    assert found["files"] == []
    assert found["sockets"] == []
    assert not [one for one in found["abstract"] if "trimtab" in one or "containerd" in one]
    assert found["api"] == [200, 403, 403]
    assert found["processes"] <= 3
    assert set(found["environment"]) <= {"ASKED", "LC_CTYPE", "PATH", "PWD"}


def test_what_is_installed_and_enabled_can_be_read_by_programs(world: CloudEngine) -> None:
    [found] = world.engine.json("provider", "list")
    assert (found["name"], found["source"], found["version"]) == ("cloud", "trimtab/cloud", "1.0.0")
    assert found["kinds"] == ["cloud_server"]
    rows = {row["resource"]: row for row in world.engine.json("provider", "kinds", "cloud")}
    assert rows["cloud_server"] == {
        "resource": "cloud_server",
        "kind": "Server",
        "name": "servers.cloud.tf.trimtab.dev",
        "enabled": True,
    }
    assert rows["cloud_network"]["enabled"] is False
    assert rows["cloud_token"]["ephemeral"] == ["scope", "token", "ttl"]
    assert "cloud_token     ephemeral   scope, token, ttl " in world.engine.run("provider", "kinds", "cloud").stdout
    crds = world.engine.json("get", "customresourcedefinitions")["items"]
    mine = [one["metadata"]["name"] for one in crds if one["spec"]["group"] == "cloud.tf.trimtab.dev"]
    assert mine == ["servers.cloud.tf.trimtab.dev"]


def test_a_version_is_one_program_for_good(world: CloudEngine) -> None:
    again = world.install()
    assert "kinds of resources, 1 enabled" in again.stdout

    other = world.install("restless", check=False)

    assert other.returncode == 1
    assert "trimtab: cloud 1.0.0 was installed before with another program (sha256:" in other.stderr
    assert "if you know why and trust it, trimtab provider remove cloud and install it again" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("enable", "clod", "cloud_server"), "trimtab: there is no Provider clod: trimtab provider install NAMESPACE/clod"),
        (("enable", "cloud", "cloud_srv"), "trimtab: cloud has no resource cloud_srv: trimtab provider kinds cloud lists what it has"),
        (("enable", "cloud", "server"), "trimtab: cloud has no resource server; there are cloud_server"),
        (("disable", "cloud", "cloud_network"), "trimtab: cloud: cloud_network is not enabled"),
        (("remove", "cloud"), "trimtab: cloud: cloud_server are enabled: trimtab provider disable cloud cloud_server"),
        (("install", "trimtab"), "trimtab: trimtab: not the name of a provider; write NAMESPACE/NAME"),
        (("install", "trimtab/cloud", "--mirror", "/nowhere"), "trimtab: --mirror /nowhere: there is no such directory, and it is no address (https://...)"),
        (("install", "trimtab/cloud", "--mirror", "/tmp", "--unsigned"), "trimtab: --unsigned is of registries: what comes from a path or a mirror has no signature"),
        (("install", "trimtab/cloud", "--read", "/tmp"), "trimtab: --read goes with --path: what a registry has is a program that needs nothing else"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_command_is_said_in_one_line(world: CloudEngine, arguments: tuple[str, ...], said: str) -> None:
    assert refusal(world, "provider", *arguments).startswith(said)


def test_a_program_that_is_no_provider_is_not_installed(world: CloudEngine) -> None:
    done = world.install("gibberish", version="9.0.0", name="strange", check=False)
    assert done.returncode == 1
    assert "greets with 'hello', which is no greeting of a Terraform provider" in done.stderr
    assert [one["name"] for one in world.engine.json("provider", "list")] == ["cloud"]


def test_what_is_no_program_is_not_installed(world: CloudEngine, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("just text")
    said = refusal(world, "provider", "install", "trimtab/notes", "--path", str(tmp_path / "notes.txt"))
    assert said == f"trimtab: {tmp_path}/notes.txt: neither a program nor a zip archive of one"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"region": 7}, "spec.forProvider.region"),
        ({"region": None}, "forProvider.region is required: give it here, in initProvider, or as a reference"),
        ({"region": "moon"}, "There is no region moon"),
        ({"color": "red"}, "spec.forProvider.color"),
    ],
)
def test_a_bad_field_is_refused_when_it_is_applied(world: CloudEngine, fields: dict[str, Any], said: str) -> None:
    wrong = server("wrong")
    given = wrong["spec"]["forProvider"] | fields
    wrong["spec"]["forProvider"] = {name: value for name, value in given.items() if value is not None}
    done = world.apply(wrong, check=False)
    assert done.returncode != 0, done.stdout
    assert said in done.stderr
    assert world.get("Server", "wrong") is None


def test_credentials_that_do_not_work_are_said_and_mended_without_a_restart(world: CloudEngine) -> None:
    world.credential("old", token="expired")
    world.apply(server("late", spec={"providerRef": {"name": "old"}}))
    said = world.until("Server", "late", "Synced", "False", "ProviderError")
    assert "401 the token has expired" in said["message"]

    world.credential("old", token="secret")

    world.until("Server", "late")
    world.engine.run("delete", "Server", "late", "-n", "default")
    world.credential("none", secrets={"token": {"name": "nowhere", "key": "token"}})
    missing = world.until("ProviderConfig", "none", "Ready", "False", "SecretMissing")
    assert missing["message"] == "token: the Secret nowhere does not exist in namespace default"
    world.credential("typo", config={"url": world.cloud.url, "regoin": "eu"})
    refused = world.until("ProviderConfig", "typo", "Ready", "False", "ConfigurationRefused")
    assert "regoin" in refused["message"]


def providers_of(world: CloudEngine) -> int:
    """How many processes of a provider this engine's controllers have."""
    parents, programs = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            argv = (folder / "cmdline").read_bytes().split(b"\0")
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has just ended
        if b"/provider/terraform-provider" in argv and b"python" in argv[0]:
            programs.append(int(folder.name))

    def descends(pid: int) -> bool:
        while pid in parents and pid != controllers:
            pid = parents[pid]
        return pid == controllers

    controllers = world.engine.pid("controllers")
    return sum(map(descends, programs))


def test_one_credential_holds_up_no_other(world: CloudEngine) -> None:
    """One whose cloud answers nothing, one that is told to be slower, one that has expired; beside them one that works."""
    names = ("hanging", "busy", "expired")
    before = providers_of(world)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, Cloud() as busy:
        busy.faults = {"busy": 1_000_000}
        nowhere = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        for name, token, config in (
            ("hanging", "secret", nowhere),
            ("busy", "secret", {"url": busy.url}),
            ("expired", "old", {"url": world.cloud.url}),
        ):
            world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            world.credential(token=token, namespace=name, config=config)
            many = [server(f"s{i}", spec={"policy": {"delete": "orphan"}}) for i in range(8)]
            world.apply(*({**one, "metadata": {**one["metadata"], "namespace": name}} for one in many))

        def said(namespace: str, reason: str, text: str = "") -> bool:
            one = world.condition("Server", "s0", "Synced", namespace)
            return one.get("reason") == reason and text in one["message"]

        wait_for(lambda: said("busy", "RateLimited"), 60, world.engine.logs)
        wait_for(lambda: said("expired", "ProviderError", "the token has expired"), 60, world.engine.logs)
        world.apply(server("calm"))
        world.until("Server", "calm")
        [there] = world.cloud.all("servers")
        world.cloud.remove("servers", there["id"])
        wait_for(lambda: world.cloud.all("servers"), 60, "what works is mended, whatever becomes of the others")
        assert said("hanging", "Creating"), "it waits for its cloud still"
        assert world.condition("Server", "calm", "Ready")["status"] == "True"
        assert providers_of(world) >= max(before, 1) + len(names)
    for name in names:
        world.engine.run("delete", "namespace", name, "--no-wait")
    world.engine.run("delete", "Server", "calm", "-n", "default")
    for name in names:
        wait_for(lambda name=name: world.engine.run("get", "namespace", name, check=False).returncode != 0, 60, name)


def test_a_program_that_is_gone_is_said_with_the_command_that_brings_it_back(world: CloudEngine) -> None:
    [found] = world.engine.json("provider", "list")
    program = world.engine.data / "providers" / found["checksum"].removeprefix("sha256:") / "terraform-provider"
    away = program.rename(program.with_name("away"))
    try:
        os.kill(world.engine.pid("controllers"), signal.SIGKILL)
        gone = world.until("Provider", "cloud", "Ready", "False", "NotInstalled")
        assert gone["message"] == "its program is not on this machine: trimtab provider install trimtab/cloud@1.0.0"
    finally:
        away.rename(program)
    world.install()
    world.until("Provider", "cloud")


@pytest.mark.parametrize("by", ["command", "upgrade"])
def test_kinds_that_another_version_defined_are_said_and_defined_anew(world: CloudEngine, by: str) -> None:
    settings = datadir.load(world.engine.data)
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/servers.cloud.tf.trimtab.dev"

    def fields() -> dict[str, Any]:
        spec = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        return dict(spec["properties"])

    def definition() -> dict[str, Any]:
        found = local.get_json(settings.api_socket, path)
        assert found is not None
        return dict(found)

    versions = definition()["spec"]["versions"]
    del versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["ephemeral"]
    assert local.merge_patch(settings.api_socket, path, {"spec": {"versions": versions}}) == 200
    older = {"metadata": {"annotations": {DEFINED: "older"}}}
    assert local.merge_patch(settings.api_socket, "/apis/trimtab.dev/v1alpha1/providers/cloud", older) == 200
    said = world.until("Provider", "cloud", "Ready", "True", "DefinedBefore")["message"]
    assert said == "another version of Trimtab defined its kinds: they may lack fields: trimtab provider enable cloud"
    assert said in world.engine.run("provider", "list").stdout
    assert "ephemeral" not in fields()

    if by == "command":
        assert world.engine.run("provider", "enable", "cloud").stdout == "cloud: defined cloud_server anew\n"
    else:
        told: list[str] = []
        upgrade.define_anew(settings, programs.itself(), told.append)
        assert told == []

    world.until("Provider", "cloud", "Ready", "True", "Installed")
    assert "ephemeral" in fields()


def test_a_kind_in_use_is_not_disabled_and_one_that_is_not_is_gone(world: CloudEngine) -> None:
    world.apply(server("web"))
    world.until("Server", "web")
    said = refusal(world, "provider", "disable", "cloud", "cloud_server")
    assert said == (
        "trimtab: there are objects of it, which would be deleted with it: Server default/web; delete them first"
    )
    world.engine.run("delete", "Server", "web", "-n", "default")
    wait_for(lambda: world.get("Server", "web") is None, 60, "the object is gone")

    world.engine.run("provider", "disable", "cloud", "cloud_*")

    assert world.engine.run("get", "servers.cloud.tf.trimtab.dev", check=False).returncode != 0
    world.engine.run("provider", "remove", "cloud")
    assert json.loads(world.engine.run("provider", "list", "-o", "json").stdout) == []
    assert not list((world.engine.data / "providers").glob("*/terraform-provider"))
