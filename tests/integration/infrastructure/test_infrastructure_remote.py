"""ClusterManifests against a real API server of another cluster: brought in, kept, pruned, and brought into the next cluster anew."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from manifests_world import NAME, NAMESPACE, SECRET, Elsewhere, ManifestsWorld
from trimtab.api import JSON, ObjectMeta, ResourceType
from trimtab.api.core import Secret
from trimtab.client import ClusterAccess
from trimtab.client.transport import Request, Whole
from trimtab.components.infrastructure.remote import ClusterManifests
from trimtab.components.infrastructure.remote.access import Cluster, Unreachable, inventory_name, reached
from trimtab.components.infrastructure.remote.kinds import CarriedSecret, OutputField
from trimtab.components.infrastructure.remote.order import Item

SPACE = ResourceType("v1", "Namespace", "namespaces", namespaced=False)
MAP = ResourceType("v1", "ConfigMap", "configmaps")
WEB = ResourceType("apps/v1", "Deployment", "deployments")
POD = ResourceType("v1", "Pod", "pods")
SECRET_KIND = ResourceType("v1", "Secret", "secrets")
WIDGET = ResourceType("shop.example/v1", "Widget", "widgets")


def config(name: str, value: str = "1", namespace: str = "shop") -> JSON:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"v": value},
    }


SHOP: JSON = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
DEPLOYMENT: JSON = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "example.test/web:1"}]},
        },
    },
}
RUNS: JSON = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
DEFINITION: JSON = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.shop.example"},
    "spec": {
        "group": "shop.example",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
A_WIDGET: JSON = {"apiVersion": "shop.example/v1", "kind": "Widget", "metadata": {"name": "one", "namespace": "shop"}}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ManifestsWorld]:
    async with ManifestsWorld(tmp_path) as one:
        yield one


async def runs(cluster: Elsewhere) -> None:
    """Its Deployment comes up, as its own controllers would say."""
    await cluster.says(WEB, "web", "shop", RUNS)


async def test_all_comes_back_in_the_cluster_after_it(world: ManifestsWorld) -> None:
    first = world.cluster()
    await world.declare([A_WIDGET, DEPLOYMENT, config("settings"), DEFINITION, SHOP])
    assert await world.says("Applied", "NoKubeconfig") == f"there is no Secret {SECRET} in namespace {NAMESPACE} yet"
    await world.behind(first.kubeconfig())
    assert await world.says("Ready", "NotReady") == "Deployment shop/web: its newest form was not looked at yet"
    await world.says("Applied", "Applied")
    assert await first.get(WIDGET, "one", "shop") is not None

    await first.says(WEB, "web", "shop", RUNS | {"readyReplicas": 1, "availableReplicas": 1})
    await world.until(lambda: _message(world, "Deployment shop/web: 1 of 2 ready"), "one is missing")
    await runs(first)
    await world.says("Ready", "WorkloadsReady")
    (said,) = await world.events("Applied")
    assert said.startswith("5 of 5 objects were not in cluster ")

    # What is removed or changed in there comes back.
    await first.client.wire.delete(MAP, "settings", "shop")
    await world.until(lambda: first.get(MAP, "settings", "shop"), "it is there again")
    await first.client.wire.patch(MAP, "settings", "shop", {"data": {"v": "hacked"}}, manager="somebody")

    async def mended() -> bool:
        found = await first.get(MAP, "settings", "shop")
        return found is not None and found["data"]["v"] == "1"

    await world.until(mended, "the change is undone")

    # The cluster is lost, and another one is behind the Secret.
    found = await world.get()
    assert found is not None
    before = found.status.cluster_uid
    await first.lost()
    assert "cannot be reached" in await world.says("Applied", "Unreachable")
    second = world.cluster()
    await world.behind(second.kubeconfig())
    assert await world.says("Ready", "NotReady") == "Deployment shop/web: its newest form was not looked at yet"
    await runs(second)
    await world.says("Ready", "WorkloadsReady")
    found = await world.get()
    assert found is not None
    (said,) = await world.events("ClusterReplaced")
    assert said == (
        f"behind Secret {SECRET} is another cluster now ({before} before, {found.status.cluster_uid} now): everything is applied anew"
    )
    assert await second.get(WIDGET, "one", "shop") is not None


async def _message(world: ManifestsWorld, message: str) -> bool:
    return (await world.condition("Ready"))[2] == message


async def test_what_is_no_longer_in_the_list_goes_and_nothing_else(world: ManifestsWorld) -> None:
    there = world.cluster()
    await world.behind(there.kubeconfig())
    await there.client.wire.create(SPACE, SHOP, manager="somebody")
    theirs = config("theirs", "of somebody else")
    await there.client.wire.create(MAP, theirs, manager="somebody")
    await world.declare([config("a"), config("b"), config("theirs", "ours")])
    assert await world.says("Applied", "Refused") == (
        "ConfigMap shop/theirs is in the cluster already and not of this object: rename it here, or annotate it there with "
        'trimtab.dev/adopt: "true"'
    )
    await world.declare([config("a")])
    await world.says("Ready", "WorkloadsReady")
    assert await there.get(MAP, "b", "shop") is None
    kept = await there.get(MAP, "theirs", "shop")
    assert kept is not None
    assert kept["data"]["v"] == "of somebody else"

    # Deleted here, gone there: what came last goes first.
    await world.declare([config("a"), DEFINITION, A_WIDGET])
    await world.says("Ready", "WorkloadsReady")
    found = await world.get()
    assert found is not None
    await world.client.delete(found)

    async def gone() -> bool:
        return await world.get() is None

    await world.until(gone, "it is deleted")
    assert await there.get(MAP, "a", "shop") is None
    assert await there.get(SPACE, "shop") is not None
    assert await there.get(MAP, "theirs", "shop") is not None
    left = (await there.client.wire.list(MAP, "kube-system"))["items"]
    assert [one["metadata"]["name"] for one in left if one["metadata"]["name"].startswith("trimtab-manifests")] == []


async def test_secrets_are_carried_over_and_what_is_in_there_can_be_shown(world: ManifestsWorld) -> None:
    there = world.cluster()
    await world.behind(there.kubeconfig())
    carried = [CarriedSecret(name="token", namespace="shop")]
    outputs = {
        "ready": OutputField(kind="Deployment", name="web", field="status.readyReplicas"),
        "first": OutputField(kind="Deployment", name="web", field="spec.template.spec.containers[0].image"),
        "none": OutputField(kind="Deployment", name="web", field="status.no.such"),
        "token": OutputField(kind="Secret", name="token", field="data.t"),
    }
    await world.declare([SHOP, DEPLOYMENT], secrets=carried, outputs=outputs)
    assert await world.says("Applied", "NoSecret") == (
        f"spec.secrets: there is no Secret token in namespace {NAMESPACE} yet"
    )
    assert await there.get(WEB, "web", "shop") is None
    meta = ObjectMeta(name="token", namespace=NAMESPACE)
    await world.client.apply(Secret(metadata=meta, data={"t": "b25l"}), manager="test")
    await world.says("Ready", "NotReady")
    await runs(there)
    await world.says("Ready", "WorkloadsReady")
    found = await world.get()
    assert found is not None
    assert found.status.outputs == {"ready": 2, "first": "example.test/web:1"}

    await world.client.apply(Secret(metadata=meta, data={"t": "dHdv"}), manager="test", force=True)

    async def follows() -> bool:
        live = await there.get(SECRET_KIND, "token", "shop")
        return live is not None and live["data"] == {"t": "dHdv"}

    await world.until(follows, "the Secret in there follows")
    twice = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": "shop"}}
    await world.declare([SHOP, twice], secrets=carried)
    said = "spec.secrets: Secret token is in spec.manifests, too: leave one out"
    assert await world.says("Applied", "InvalidManifest") == said
    await world.declare([SHOP])
    await world.says("Ready", "WorkloadsReady")
    assert await there.get(SECRET_KIND, "token", "shop") is None


async def test_a_pod_that_crashes_is_named_with_its_last_words(world: ManifestsWorld) -> None:
    there = world.cluster()
    await world.behind(there.kubeconfig())
    await world.declare([SHOP, DEPLOYMENT])
    await world.says("Applied", "Applied")
    labels = {"app": "web"}
    spec = {"containers": [{"name": "web", "image": "example.test/web:1"}]}
    meta = {"name": "web-6c9f", "namespace": "shop", "labels": labels}
    await there.client.wire.create(
        POD, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}, manager="x"
    )
    times = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z"}
    ended = {"exitCode": 1, "reason": "Error", "message": "Traceback\nKeyError: 'DATABASE_URL'\n", **times}
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container"}
    state = {"state": {"waiting": waiting}, "lastState": {"terminated": ended}}
    container = {"name": "web", "ready": False, "restartCount": 4, "image": "x", "imageID": "", **state}
    await there.says(POD, "web-6c9f", "shop", {"phase": "Running", "containerStatuses": [container]})
    await there.says(WEB, "web", "shop", RUNS | {"readyReplicas": 1, "availableReplicas": 1})
    said = "pod web-6c9f: CrashLoopBackOff: container web ended with 1: KeyError: 'DATABASE_URL'"
    await world.until(lambda: _message(world, f"Deployment shop/web: 1 of 2 ready: {said}"), "it is named")


async def test_what_is_wrong_is_said(world: ManifestsWorld) -> None:
    there = world.cluster()
    await world.behind(there.kubeconfig(token="x" * 40))
    await world.declare([SHOP, A_WIDGET])
    assert "does not accept the kubeconfig's credentials; they may have been replaced" in await world.says(
        "Applied", "CredentialsRefused"
    )
    # New credentials are used at once, whatever the back-off.
    await world.behind(there.kubeconfig())
    assert await world.says("Applied", "WaitingForKind") == (
        "Widget shop/one: the cluster has no kind Widget in shop.example/v1"
    )
    await there.client.wire.send(
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        {},
        json.dumps(DEFINITION).encode(),
    )
    await world.says("Ready", "WorkloadsReady")
    await world.declare([{"kind": "ConfigMap", "metadata": {"name": "x"}}])
    assert await world.says("Applied", "InvalidManifest") == "spec.manifests[0]: it has no apiVersion"
    await world.declare([{**config("Not_A_Name"), "metadata": {"name": "Not_A_Name", "namespace": "shop"}}])
    assert "ConfigMap shop/Not_A_Name: " in await world.says("Applied", "Refused")
    assert await there.get(WIDGET, "one", "shop") is not None  # what stands stays
    found = await world.get()
    assert found is not None
    name = inventory_name(found.metadata.uid)
    for other in ('[["v1"]]', None):  # None: the key is taken out
        await there.client.wire.patch(MAP, name, "kube-system", {"data": {"objects": other}}, manager="somebody")
        said = await world.says("Applied", "InventoryUnreadable")
        begins = f"ConfigMap kube-system/{name} in the cluster, which says what was brought in, was changed"
        assert said.startswith(begins)
    await world.until(lambda: _applied_says(world, "has no objects"), "that the key is missing is said")
    await there.client.wire.delete(MAP, name, "kube-system")
    assert "ConfigMap shop/Not_A_Name: " in await world.says("Applied", "Refused")
    await world.behind(there.kubeconfig().replace("token:", "exec: {command: sh} #"))
    assert "exec is refused" in await world.says("Applied", "KubeconfigInvalid")


async def test_a_cluster_that_is_gone_does_not_hold_up_the_end(world: ManifestsWorld) -> None:
    there = world.cluster()
    await world.behind(there.kubeconfig())
    await world.declare([SHOP], abandon_after="1s")
    await world.says("Ready", "WorkloadsReady")
    await there.lost()
    found = await world.get()
    assert found is not None
    await world.client.delete(found)

    async def gone() -> bool:
        return await world.client.get(ClusterManifests, NAME, NAMESPACE) is None

    await world.until(gone, "it is deleted")
    (said,) = await world.events("Abandoned")
    assert said.startswith(
        f"1 objects were left in cluster {found.status.cluster_uid}: the API server at https://127.0.0.1:"
    )


async def _applied_says(world: ManifestsWorld, words: str) -> bool:
    return words in (await world.condition("Applied"))[2]


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{", b'{"metadata": 7}', b'{"metadata": {}}', b'"text"', b"\xff", b'{"resources": [{}], "items": 3}']
)  # fmt: skip
async def test_what_answers_like_no_cluster_is_said_to_be_none(answer: bytes) -> None:
    class Odd:
        async def send(self, request: Request) -> Whole:
            return Whole(200, {}, answer)

        async def close(self) -> None:
            return None

    class Odds:
        def transport(self, access: ClusterAccess) -> Odd:
            return Odd()

    async def kind(cluster: Cluster) -> object:
        if await cluster.kind(Item("v1", "Pod", "", "x")) is None:
            raise Unreachable("which has no kinds")
        return None

    for ask in (Cluster.uid, kind):
        with pytest.raises(Unreachable) as said:
            async with reached(Odds(), ClusterAccess(server="https://there.test")) as cluster:
                await ask(cluster)
        assert "\n" not in str(said.value)
