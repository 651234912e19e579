"""Images behind a login: a real registry, and the secrets of a pod's account."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_world import BUSYBOX, NodeWorld, message_of, node_world
from registries import PASSWORD, USER, answering, docker_registry
from trimtab.content import ContentStore, Credentials, Login, RegistryClient, parse_reference

pytestmark = pytest.mark.engine


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


def secret(host: str, password: str) -> dict[str, Any]:
    config = {"auths": {host: {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}}}
    data = {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()}
    return {"kind": "Secret", "metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson", "data": data}


async def test_a_pod_pulls_with_the_login_of_its_account(world: NodeWorld, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry", login=True) as host:
        await answering(host)
        store = ContentStore(world.settings.data_path("content"))
        digest = store.resolve(BUSYBOX)
        assert digest is not None
        logins = Credentials(logins={host: Login(USER, PASSWORD)})
        async with RegistryClient(store, credentials=logins) as client:
            await client.push(digest, parse_reference(f"{host}/team/busybox:1"))
        image = {"image": f"{host}/team/busybox:1"}

        await world.run_pod("nobody", "sleep 1000", main=image)
        waits = await world.until_pod("nobody", lambda p: message_of(p)[0] == "ErrImagePull", 15, "is refused")
        assert message_of(waits)[1] == (f"{host}/team/busybox:1: the registry wants a login: add an imagePullSecret")

        await world.create(secret(host, PASSWORD))
        await world.post(
            "/api/v1/namespaces/default/serviceaccounts",
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "team"},
                "imagePullSecrets": [{"name": "login"}],
            },
        )
        await world.run_pod("member", "sleep 1000", main=image, serviceAccountName="team")
        pod = await world.until_ready("member", 20)
        assert pod.status.container_statuses[0].image_id == f"{host}/team/busybox@{digest}"
