"""Pods get their account's name, pull secrets and token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api_in_process import Api, running_api
from trimtab.server import ServerSettings

PODS = "/api/v1/namespaces/default/pods"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    (tmp_path / "ca.crt").write_text("a certificate")
    settings = ServerSettings(ca_file=tmp_path / "ca.crt", service_account_key=tmp_path / "sa.key")
    async with running_api(settings=settings) as running:
        await running.eventually(f"{ACCOUNTS}/default", lambda answer: answer.status == 200)
        yield running


def pod(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "a:1"}], **spec}}


async def made(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = (await api.post(PODS, body)).ok()["spec"]
    return spec


async def test_every_container_gets_the_token_of_the_default_account(api: Api) -> None:
    spec = await made(api, pod(initContainers=[{"name": "first", "image": "a:1"}]))

    assert spec["serviceAccountName"] == spec["serviceAccount"] == "default"
    [volume] = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert volume["projected"] == {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [
                        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                    ]
                }
            },
        ],
    }
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["volumeMounts"] == [{"name": volume["name"], "readOnly": True, "mountPath": MOUNT}]


@pytest.mark.parametrize(
    ("of_pod", "of_account", "mounted"),
    [(None, None, True), (None, False, False), (True, False, True), (False, None, False), (False, True, False)],
)
async def test_a_pod_may_go_without_and_its_word_wins_over_its_accounts(
    api: Api, of_pod: bool | None, of_account: bool | None, mounted: bool
) -> None:
    (await api.post(ACCOUNTS, {"metadata": {"name": "bot"}, "automountServiceAccountToken": of_account})).ok()
    body = pod(serviceAccountName="bot", automountServiceAccountToken=of_pod)

    spec = await made(api, body)

    assert ("volumes" in spec) is mounted


async def test_a_mount_of_the_pods_own_stays_and_a_copied_volume_is_used_again(api: Api) -> None:
    own = {"name": "mine", "mountPath": MOUNT}
    spec = await made(
        api,
        pod(
            containers=[{"name": "main", "image": "a:1", "volumeMounts": [own]}],
            volumes=[{"name": "mine", "emptyDir": {}}],
        ),
    )
    assert spec["volumes"] == [{"name": "mine", "emptyDir": {}}]
    assert spec["containers"][0]["volumeMounts"] == [own]

    copied = await made(api, pod("copy", volumes=[{"name": "kube-api-access-abcde", "emptyDir": {}}]))
    assert [volume["name"] for volume in copied["volumes"]] == ["kube-api-access-abcde"]
    assert copied["containers"][0]["volumeMounts"][0]["name"] == "kube-api-access-abcde"


async def test_the_accounts_pull_secrets_are_the_pods_unless_it_has_some(api: Api) -> None:
    (await api.post(ACCOUNTS, {"metadata": {"name": "puller"}, "imagePullSecrets": [{"name": "registry"}]})).ok()

    assert (await made(api, pod(serviceAccountName="puller")))["imagePullSecrets"] == [{"name": "registry"}]
    own = pod("own", serviceAccountName="puller", imagePullSecrets=[{"name": "other"}])
    assert (await made(api, own))["imagePullSecrets"] == [{"name": "other"}]


async def test_an_account_that_does_not_exist_is_refused(api: Api) -> None:
    answer = await api.post(PODS, pod(serviceAccountName="nobody"))

    assert (answer.status, answer.message) == (
        403,
        'pods "web" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found',
    )


async def test_applying_a_pod_again_keeps_its_token(api: Api) -> None:
    body = {"apiVersion": "v1", "kind": "Pod", **pod()}
    first = (await api.apply(f"{PODS}/web", body, manager="me")).ok()
    again = (await api.apply(f"{PODS}/web", body, manager="me")).ok()

    assert again["spec"] == first["spec"]
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_without_a_ca_no_token_is_mounted() -> None:
    async with running_api() as bare:
        assert "volumes" not in await made(bare, pod())


async def test_what_pods_need_of_a_namespace_comes_back(api: Api) -> None:
    configs = "/api/v1/namespaces/default/configmaps"
    await api.eventually(f"{configs}/kube-root-ca.crt", lambda answer: answer.status == 200)
    before = (await api.get(f"{ACCOUNTS}/default")).ok()

    (await api.delete(f"{ACCOUNTS}/default")).ok()
    (await api.delete(f"{configs}/kube-root-ca.crt")).ok()

    await api.eventually(f"{configs}/kube-root-ca.crt", lambda answer: answer.status == 200)
    after = await api.eventually(f"{ACCOUNTS}/default", lambda answer: answer.status == 200)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    (await api.patch(f"{configs}/kube-root-ca.crt", {"data": {"ca.crt": "forged"}})).ok()
    await api.eventually(f"{configs}/kube-root-ca.crt", lambda answer: answer.body["data"]["ca.crt"] == "a certificate")
