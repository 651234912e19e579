"""A cluster at a cloud, by that cloud's own Terraform provider: its kubeconfig, an app in it, its loss, and all of it back.

The provider is a program of others that no package has: `TRIMTAB_LINODE_PROVIDER` is the path of one (terraform-provider-linode, version 3).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shell_image
from engine_under_test import EngineUnderTest, wait_for
from infrastructure_engine import CloudEngine, bare_engine
from linode import Linode
from trimtab.content import ContentStore

PROGRAM = Path(os.environ.get("TRIMTAB_LINODE_PROVIDER", "/nonexistent"))
PATIENCE_S = 300
pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PROGRAM.exists(), reason="TRIMTAB_LINODE_PROVIDER names no terraform-provider-linode"),
    pytest.mark.skipif(os.geteuid() != 0, reason="clusters with nodes of their own need root"),
]
SECRET = "shop-kubeconfig"


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[CloudEngine, Linode]]:
    home = Path(tempfile.mkdtemp(prefix="tt-lke-"))
    home.chmod(0o755)
    with Linode(home) as cloud, bare_engine() as world:
        engine = world.engine
        shell_image.provide(ContentStore(engine.data / "content"))
        engine.run("cluster", "--clusters", str(home), "load", timeout_s=PATIENCE_S)
        engine.run("provider", "install", "linode/linode@3.0.0", "--path", str(PROGRAM))
        engine.run("provider", "enable", "linode", "linode_lke_cluster")
        polls = dict.fromkeys(("event_poll_ms", "lke_event_poll_ms", "lke_node_ready_poll_ms"), 200)
        config: dict[str, Any] = {"provider": "linode", "requestsPerSecond": 50}
        config["config"] = {"url": cloud.url, "api_version": "v4"} | polls
        config["secrets"] = {"token": {"name": "linode", "key": "token"}}
        world.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "linode"}, "stringData": {"token": "a" * 64}},
            {
                "apiVersion": "trimtab.dev/v1alpha1",
                "kind": "ProviderConfig",
                "metadata": {"name": "default"},
                "spec": config,
            },
        )
        yield world, cloud


def lke(**fields: Any) -> dict[str, Any]:
    given = {"label": "shop", "region": "eu-central", "k8sVersion": "1.33"} | fields
    given.setdefault("pool", [{"type": "g6-standard-1", "count": 1}])
    return {
        "apiVersion": "linode.tf.trimtab.dev/v1",
        "kind": "LkeCluster",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "forProvider": given,
            "interval": "2s",
            "connection": {"secretName": SECRET, "data": {"kubeconfig": "{{ kubeconfig | b64decode }}"}},
        },
    }


def app() -> dict[str, Any]:
    image = f"registry.example/{shell_image.NAME}"
    container = {
        "name": "web",
        "image": image,
        "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    labels = {"app": "web"}
    pods = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    place = {"name": "web", "namespace": "shop"}
    deployment = {"replicas": 2, "selector": {"matchLabels": labels}, "template": pods}
    manifests = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": place, "spec": deployment},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": {"greeting": "hello"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    ]
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ClusterManifests",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"kubeconfig": {"name": SECRET, "key": "kubeconfig"}, "interval": "2s", "manifests": manifests},
    }


def whole(world: CloudEngine, cloud: Linode, but: int = 0) -> int | None:
    """The number of a cluster other than `but` in which the app runs."""
    [number, *_] = [*cloud.numbers(), 0]
    if number in (0, but) or world.condition("ClusterManifests", "shop", "Ready").get("status") != "True":
        return None
    found = EngineUnderTest(cloud.data(number)).run("get", "pods", "-n", "shop", "-o", "json", check=False)
    pods = json.loads(found.stdout)["items"] if found.returncode == 0 else []
    return number if [pod["status"].get("phase") for pod in pods] == ["Running", "Running"] else None


def until_whole(world: CloudEngine, cloud: Linode, but: int = 0) -> int:
    def state() -> str:
        objects = [world.get("LkeCluster", "shop"), world.get("ClusterManifests", "shop")]
        said = [(one or {}).get("status", {}).get("conditions") for one in objects]
        return f"the app in a cluster: {said}; {cloud.order}; {cloud.failed}\n{world.engine.logs()}"

    return int(wait_for(lambda: whole(world, cloud, but), PATIENCE_S, state))


def test_a_cluster_that_is_lost_comes_back_with_everything_in_it(world: tuple[CloudEngine, Linode]) -> None:
    engine, cloud = world
    engine.apply(lke(), app())
    first = until_whole(engine, cloud)
    assert engine.engine.run("plan", "-A", check=False).returncode == 0, "what nobody touches does not drift"
    since = engine.engine.last_entry()

    cloud.lose(first)

    second = until_whole(engine, cloud, but=first)
    assert second != first
    assert cloud.order == ["POST lke clusters", "POST lke clusters"]
    entries = [entry for entry in engine.engine.timeline() if entry.get("id", 0) > since]
    told = [(entry.get("data") or {}).get("reason", "") for entry in entries]
    steps = ["Gone", "Created", "ClusterReplaced", "Applied", "Ready"]
    assert [one for one in steps if one not in told] == [], told


def test_what_changes_is_changed_and_what_is_hacked_set_back(world: tuple[CloudEngine, Linode]) -> None:
    engine, cloud = world
    engine.apply(lke(), app())
    number = until_whole(engine, cloud)
    engine.apply(lke(pool=[{"type": "g6-standard-1", "count": 2}]))
    wait_for(lambda: [len(p["nodes"]) for p in cloud.pools[number].values()] == [2], PATIENCE_S, "a second node")

    cloud.change(number, label="hacked")

    wait_for(lambda: cloud.clusters[number]["label"] == "shop", PATIENCE_S, "the label set back")
    assert cloud.numbers() == [number]


def test_what_the_provider_refuses_to_plan_is_said_in_its_words(world: tuple[CloudEngine, Linode]) -> None:
    engine, cloud = world
    odd = lke(pool=[{"type": "g6-standard-1"}])
    odd["metadata"]["name"] = "odd"
    odd["spec"].pop("connection")
    engine.apply(odd)

    message = engine.until("LkeCluster", "odd", "Synced", "False", "ProviderError")["message"]

    assert "pool.0: `count` must be defined when no autoscaler is defined" in message
    engine.engine.run("delete", "LkeCluster", "odd", "-n", "default")
    assert "odd" not in [one["label"] for one in cloud.clusters.values()]


def test_the_end_of_it(world: tuple[CloudEngine, Linode]) -> None:
    engine, cloud = world
    engine.apply(lke(), app())
    until_whole(engine, cloud)

    engine.engine.run("delete", "ClusterManifests", "shop", "-n", "default", timeout_s=PATIENCE_S)
    engine.engine.run("delete", "LkeCluster", "shop", "-n", "default", timeout_s=PATIENCE_S)

    wait_for(lambda: not cloud.numbers(), PATIENCE_S, "the cluster deleted")
    assert cloud.order[-1] == "DELETE lke clusters"
    assert engine.get("Secret", SECRET) is None
