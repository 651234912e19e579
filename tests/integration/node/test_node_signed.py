"""The node runs only what was signed: a real registry, signatures as pipelines write them, and pods that wait for one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_world import NodeWorld, busybox_image, message_of, node_world
from registries import PASSWORD, USER, answering, docker_registry
from trimtab.api import JSON, Ref
from trimtab.components.node.kinds import ClusterImagePolicy
from trimtab.content import ContentStore, Credentials, Login, RegistryClient, parse_reference, signing
from trimtab.content.signing import SigningKey
from trimtab.runtime.crd import ensure_crds

pytestmark = pytest.mark.engine

POLICIES = "/apis/policy.sigstore.dev/v1beta1/clusterimagepolicies"
WITHIN_S = 90
BROKEN = "SignatureValidationFailed"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node", start=False) as world:
        await ensure_crds(world.client, [ClusterImagePolicy])
        await world.start_agent()
        yield world


def policy(glob: str, key: SigningKey, **spec: Any) -> JSON:
    return {
        "apiVersion": "policy.sigstore.dev/v1beta1",
        "kind": "ClusterImagePolicy",
        "metadata": {"name": "only-ours"},
        "spec": {"images": [{"glob": glob}], "authorities": [{"key": {"data": key.public}}], **spec},
    }


async def test_only_what_was_signed_runs(world: NodeWorld, tmp_path: Path) -> None:
    ours, theirs = SigningKey(SigningKey.new()), SigningKey(SigningKey.new())
    own = ContentStore(tmp_path / "builder")
    busybox_image(own, "builder.local/app:1")
    busybox_image(own, "builder.local/other:1", user="1000")
    app, other = own.resolve("builder.local/app:1"), own.resolve("builder.local/other:1")
    assert app is not None
    assert other is not None
    with docker_registry(tmp_path / "registry") as host:
        await answering(host)
        async with RegistryClient(own, credentials=Credentials()) as client:
            for name, digest in (("app", app), ("other", other)):
                await client.push(digest, f"{host}/team/{name}:1")
            signed = parse_reference(f"{host}/team/app@{app}")
            await signing.sign(client, own, signed, theirs)
            await world.post(POLICIES, policy(f"{host}/**", ours))

            # Another's signature does not count; that of the policy's key does, whenever it comes.
            await world.run_pod("app", "sleep 1000", main={"image": f"{host}/team/app:1"})
            waits = await world.until_pod("app", lambda p: message_of(p)[0] == BROKEN, WITHIN_S, "is refused")
            assert message_of(waits)[1] == (
                f"{host}/team/app:1: policy only-ours: {app}: signed by none of the trusted keys; "
                "sign it with a key of the policy, or change the policy"
            )
            assert any(message_of(waits)[1] in line for line in world.said())
            await signing.sign(client, own, signed, ours)
            pod = await world.until_ready("app", WITHIN_S)
            assert pod.status.container_statuses[0].image_id == f"{host}/team/app@{app}"
            await world.run_pod("unmeant", "sleep 1000")
            await world.until_ready("unmeant", WITHIN_S)

            # By its digest an image slips by no policy; a changed policy is looked at at once.
            await world.run_pod("other", "sleep 1000", main={"image": f"{host}/team/other@{other}"})
            waits = await world.until_pod("other", lambda p: message_of(p)[0] == BROKEN, WITHIN_S, "is refused")
            assert f"{other}: signed by nobody; sign it" in message_of(waits)[1]
            ref = Ref("policy.sigstore.dev/v1beta1", "ClusterImagePolicy", None, "only-ours")
            await world.client.patch(ref, {"spec": {"mode": "warn"}}, manager="tester")
            await world.until_ready("other", WITHIN_S)
            await world.client.patch(ref, {"spec": {"mode": "enforce"}}, manager="tester")

    # What was seen to be signed runs without its registry.
    await world.run_pod("again", "sleep 1000", main={"image": f"{host}/team/app:1"})
    await world.until_ready("again", WITHIN_S)
    await world.run_pod("late", "sleep 1000", main={"image": f"{host}/team/other@{other}"})
    waits = await world.until_pod("late", lambda p: message_of(p)[0] == BROKEN, WITHIN_S, "is refused")
    assert f"who signed it cannot be found out: cannot reach the registry {host}" in message_of(waits)[1]


async def test_signatures_are_behind_the_login_of_the_image(world: NodeWorld, tmp_path: Path) -> None:
    ours = SigningKey(SigningKey.new())
    own = ContentStore(tmp_path / "builder")
    busybox_image(own, "builder.local/app:1")
    digest = own.resolve("builder.local/app:1")
    assert digest is not None
    with docker_registry(tmp_path / "registry", login=True) as host:
        await answering(host)
        async with RegistryClient(own, credentials=Credentials(logins={host: Login(USER, PASSWORD)})) as client:
            await client.push(digest, f"{host}/team/app:1")
            await signing.sign(client, own, parse_reference(f"{host}/team/app@{digest}"), ours)
        await world.post(POLICIES, policy("**/team/*", ours))
        login = {"auths": {host: {"username": USER, "password": PASSWORD}}}
        await world.create(
            {
                "kind": "Secret",
                "metadata": {"name": "login"},
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": json.dumps(login)},
            }
        )
        image = {"image": f"{host}/team/app:1"}
        await world.run_pod("app", "sleep 1000", main=image, imagePullSecrets=[{"name": "login"}])
        await world.until_ready("app", WITHIN_S)
