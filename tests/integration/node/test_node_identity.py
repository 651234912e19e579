"""What pods are shown of themselves and of the API, on a real containerd."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_world import NodeWorld, node_world
from trimtab.components.node.tokens import claims_of

pytestmark = pytest.mark.engine

MOUNT = "var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node", identities=True) as world:
        yield world


async def test_a_token_is_renewed_in_time_while_the_pod_runs(world: NodeWorld) -> None:
    await world.run_pod("web", "sleep 1000")
    pod = await world.until_ready("web")
    inside = Path(f"/proc/{await world.main_pid('web')}/root", MOUNT)
    assert sorted(os.listdir(inside)) == sorted(
        ["..data", os.readlink(inside / "..data"), "ca.crt", "namespace", "token"]
    )
    assert (inside / "namespace").read_text() == "default"
    user = world.server.tokens.user((inside / "token").read_text())
    assert user is not None
    assert user.name == "system:serviceaccount:default:default"

    [volume] = [v.name for v in pod.spec.volumes]
    on_disk = world.settings.run_path("pods") / pod.metadata.uid / volume / "..data" / "token"
    claims = claims_of(on_disk.read_bytes())
    assert claims is not None
    bound = {"kind": "Pod", "name": "web", "uid": pod.metadata.uid}
    old, _ = world.server.tokens.issue("default", "default", claims.account_uid, (), 3, bound)
    on_disk.write_text(old)
    await world.label("web", round="2")

    await world.until(lambda: (inside / "token").read_text() != old, 10, "the token is renewed")
    renewed = claims_of((inside / "token").read_bytes())
    assert renewed is not None
    assert renewed.issued_at > claims.issued_at


async def test_facts_about_a_pod_follow_it(world: NodeWorld) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "limit", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"}},
    ]
    await world.run_pod(
        "web",
        "sleep 1000",
        labels={"round": "1"},
        volumes=[{"name": "info", "downwardAPI": {"items": items}}],
        main={
            "volumeMounts": [{"name": "info", "mountPath": "/info"}],
            "resources": {"limits": {"memory": "64Mi"}},
        },
    )
    await world.until_ready("web")
    info = Path(f"/proc/{await world.main_pid('web')}/root/info")
    assert (info / "limit").read_text() == "64"
    assert (info / "labels").read_text() == 'round="1"'

    await world.label("web", round="2")

    await world.until(lambda: (info / "labels").read_text() == 'round="2"', 5, "the label is shown")


async def test_a_token_is_for_the_only_user_who_reads_it(world: NodeWorld) -> None:
    await world.run_pod("web", f"cat /{MOUNT}/token > /tmp/mine && sleep 1000", securityContext={"runAsUser": 4711})
    await world.until_ready("web")

    token = Path(f"/proc/{await world.main_pid('web')}/root", MOUNT, "token").stat()

    assert (token.st_uid, token.st_mode & 0o777) == (4711, 0o600)
