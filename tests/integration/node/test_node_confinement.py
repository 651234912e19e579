"""What a real container may do: users, groups, capabilities, profiles, parameters of the kernel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_world import NodeWorld, message_of, node_world

pytestmark = pytest.mark.engine


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


async def process(world: NodeWorld, name: str) -> dict[str, str]:
    """What the kernel says of a container's first process."""
    await world.until_ready(name)
    lines = Path(f"/proc/{await world.main_pid(name)}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def capabilities(status: dict[str, str]) -> int:
    return int(status["CapEff"], 16)


NET_ADMIN, CHOWN, NET_RAW, SYS_ADMIN = (1 << number for number in (12, 0, 13, 21))


async def test_users_groups_and_capabilities(world: NodeWorld) -> None:
    await world.run_pod("plain", "sleep 1000")
    await world.run_pod(
        "tight",
        "touch /new 2> /tmp/why; sleep 1000",
        securityContext={"runAsUser": 1001, "runAsGroup": 1002, "supplementalGroups": [1003], "fsGroup": 1004},
        volumes=[{"name": "tmp", "emptyDir": {}}],
        main={
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            "securityContext": {
                "runAsNonRoot": True,
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        },
    )
    await world.run_pod(
        "some", "sleep 1000", main={"securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}}}
    )

    plain = await process(world, "plain")
    assert capabilities(plain) & CHOWN
    assert not capabilities(plain) & (NET_ADMIN | SYS_ADMIN)
    assert plain["Seccomp"] == "2"
    tight = await process(world, "tight")
    assert tight["Uid"].split()[0] == "1001"
    assert tight["Gid"].split()[0] == "1002"
    assert {"1003", "1004"} <= set(tight["Groups"].split())
    assert (capabilities(tight), tight["NoNewPrivs"]) == (0, "1")
    why = Path(f"/proc/{await world.main_pid('tight')}/root/tmp/why")
    await world.until(lambda: why.exists() and "Read-only file system" in why.read_text(), 5, "the root is read-only")
    assert why.stat().st_gid == 1004
    some = capabilities(await process(world, "some"))
    assert some & NET_ADMIN
    assert not some & CHOWN


async def test_a_profile_and_parameters_of_the_pods_own(world: NodeWorld) -> None:
    profiles = world.settings.data_path("node", "seccomp")
    profiles.mkdir(parents=True)
    names = ["mkdir", "mkdirat"]
    forbidding: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO"}],
    }
    (profiles / "no-mkdir.json").write_text(json.dumps(forbidding))
    seccomp = {"seccompProfile": {"type": "Localhost", "localhostProfile": "no-mkdir.json"}}
    sysctls = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "79"}]
    await world.run_pod(
        "own",
        "mkdir /tmp/x 2> /tmp/why; touch /tmp/done; sleep 1000",
        securityContext={**seccomp, "sysctls": sysctls},
    )
    await world.until_ready("own")
    root = Path(f"/proc/{await world.main_pid('own')}/root")

    await world.until((root / "tmp/done").exists, 5, "it was tried")

    assert "Operation not permitted" in (root / "tmp/why").read_text()
    assert (await world.output("own", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")).strip() == "79"
    assert int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) != 79

    seccomp["seccompProfile"]["localhostProfile"] = "absent.json"
    await world.run_pod("absent", "sleep 1000", securityContext=seccomp)
    waits = await world.until_pod("absent", lambda p: message_of(p)[0], 10, "says what is missing")
    assert message_of(waits) == (
        "CreateContainerConfigError",
        f"the seccomp profile absent.json is not on this node: put it at {profiles}/absent.json",
    )
