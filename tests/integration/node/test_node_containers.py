"""What a container gets and how it is watched: files, environment, users, limits, probes, hooks, the order of things."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_world import NodeWorld, busybox_image, message_of, node_world
from trimtab.api import from_wire
from trimtab.api.core import Pod
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.client.wire import encode
from trimtab.content import ContentStore

pytestmark = pytest.mark.engine


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


async def sh(world: NodeWorld, name: str, command: str) -> str:
    pod = await world.pod(name)
    assert pod is not None
    ident = pod.status.container_statuses[0].container_id.removeprefix("containerd://")
    _, output = await world.cri.exec(ident, ["/bin/sh", "-c", command], 10)
    return output.decode()


def is_done(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


async def test_files_environment_and_identity(world: NodeWorld) -> None:
    await world.create({"kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"a.txt": "one", "B": "from map"}})
    secret = {"key": base64.b64encode(b"hidden").decode()}
    await world.create({"kind": "Secret", "metadata": {"name": "sec"}, "data": secret})
    main: dict[str, Any] = {
        "env": [
            {"name": "PLAIN", "value": "x"},
            {"name": "JOINED", "value": "$(PLAIN)-$(B)-$$(PLAIN)"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "key"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ],
        "envFrom": [{"configMapRef": {"name": "conf"}}],
        "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        "securityContext": {
            "runAsUser": 1234,
            "runAsGroup": 2345,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "conf", "mountPath": "/conf"},
            {"name": "sec", "mountPath": "/sec"},
            {"name": "scratch", "mountPath": "/scratch"},
            {"name": "scratch", "mountPath": "/part", "subPath": "deep/er"},
            {"name": "memory", "mountPath": "/memory"},
        ],
    }
    volumes = [
        {"name": "conf", "configMap": {"name": "conf", "items": [{"key": "a.txt", "path": "sub/a.txt"}]}},
        {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 0o400}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    security = {"fsGroup": 3456, "runAsNonRoot": True}
    await world.run_pod("p", "sleep 1000", main=main, volumes=volumes, securityContext=security, labels={"app": "shop"})
    pod = await world.until_ready("p")

    assert await sh(world, "p", "echo $JOINED $SECRET $POD_IP $NAME $MEMORY") == (
        f"x-from map-$(PLAIN) hidden {pod.status.pod_ip} shop 64\n"
    )
    assert await sh(world, "p", "id -u; id -g; id -G") == "1234\n2345\n2345 3456\n"
    assert await sh(world, "p", "cat /conf/sub/a.txt /sec/key") == "onehidden"
    assert await sh(world, "p", "touch /x 2>&1; touch /conf/x 2>&1 | tail -1") == (
        "touch: /x: Read-only file system\ntouch: /conf/x: Read-only file system\n"
    )
    assert await sh(
        world, "p", "echo hi > /scratch/f && echo ho > /part/g && cat /scratch/deep/er/g; stat -c %g /scratch/f"
    ) == ("ho\n3456\n")
    assert "tmpfs" in await sh(world, "p", "df /memory")
    assert "seccomp" in (await sh(world, "p", "grep -i Seccomp: /proc/self/status")).lower()
    assert (await sh(world, "p", "grep -E 'Seccomp:|CapEff|NoNewPrivs' /proc/self/status")).split() == [
        "CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2",
    ]  # fmt: skip
    assert await sh(world, "p", "hostname; grep -cw p /etc/hosts") == "p\n1\n"
    patch = {"data": {"a.txt": "two"}}
    path = "/api/v1/namespaces/default/configmaps/conf"
    await world.client.raw("PATCH", path, body=encode(patch), content_type="application/merge-patch+json")

    async def updated() -> bool:
        return await sh(world, "p", "cat /conf/sub/a.txt") == "two"

    await world.until(updated, 10, "the file follows the ConfigMap")
    assert pod.status.qos_class == "Guaranteed"


async def test_missing_configuration_is_named_and_awaited(world: NodeWorld) -> None:
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "a"}}}]
    await world.run_pod("web", "sleep 1000", main={"env": env})
    pod = await world.until_pod("web", lambda p: message_of(p)[0] == "CreateContainerConfigError", 10, "complains")
    assert message_of(pod)[1] == 'configmap "late" not found, which the variable A needs'
    await world.create({"kind": "ConfigMap", "metadata": {"name": "late"}, "data": {"a": "here"}})
    await world.until_ready("web")
    assert await sh(world, "web", "echo $A") == "here\n"


async def test_a_root_image_is_not_run_where_root_is_forbidden(world: NodeWorld) -> None:
    await world.run_pod("web", "sleep 1000", securityContext={"runAsNonRoot": True})
    pod = await world.until_pod("web", lambda p: message_of(p)[0] == "CreateContainerConfigError", 10, "is refused")
    assert message_of(pod)[1].startswith("container has runAsNonRoot and image will run as root; set runAsUser of main")


async def test_a_command_that_does_not_exist(world: NodeWorld) -> None:
    await world.run_pod("web", "", main={"command": ["/no/such"]})
    pod = await world.until_pod(
        "web", lambda p: message_of(p)[0] in ("RunContainerError", "CrashLoopBackOff"), 10, "says so"
    )
    ended = pod.status.container_statuses[0]
    assert "no such file or directory" in f"{message_of(pod)[1]} {ended.last_state}"


async def test_jobs_end_and_say_how(world: NodeWorld) -> None:
    await world.run_pod("good", "echo fine > /dev/termination-log", restartPolicy="Never")
    await world.run_pod("bad", "echo because > /dev/termination-log; exit 3", restartPolicy="Never")
    good = await world.until_pod("good", is_done, 10, "ends")
    bad = await world.until_pod("bad", is_done, 10, "ends")
    assert (good.status.phase, bad.status.phase) == ("Succeeded", "Failed")
    state = bad.status.container_statuses[0].state.terminated
    assert state is not None
    assert (state.exit_code, state.reason, state.message) == (3, "Error", "because")
    state = good.status.container_statuses[0].state.terminated
    assert state is not None
    assert (state.exit_code, state.reason, state.message) == (0, "Completed", "fine")


async def test_a_container_that_takes_too_much_memory(world: NodeWorld) -> None:
    hog = "x=a; while :; do x=$x$x; done"
    limits = {"resources": {"limits": {"memory": "16Mi"}}}
    await world.run_pod("hog", hog, main=limits, restartPolicy="Never")
    pod = await world.until_pod("hog", is_done, 20, "is ended")
    state = pod.status.container_statuses[0].state.terminated
    assert state is not None
    assert state.reason == "OOMKilled"


async def test_init_containers_and_sidecars_run_in_order(world: NodeWorld) -> None:
    mount = [{"name": "work", "mountPath": "/work"}]
    image = {"image": world.image, "volumeMounts": mount}
    inits = [
        {"name": "one", **image, "command": ["/bin/sh", "-c", "echo one >> /work/order"]},
        {
            "name": "side",
            **image,
            "restartPolicy": "Always",
            "command": [
                "/bin/sh",
                "-c",
                "echo side >> /work/order; trap 'exit 0' TERM; touch /work/up; sleep 1000 & wait",
            ],
            "startupProbe": {"exec": {"command": ["/bin/test", "-e", "/work/up"]}},
        },
        {"name": "two", **image, "command": ["/bin/sh", "-c", "echo two >> /work/order"]},
    ]
    await world.run_pod(
        "p", "echo main >> /work/order; sleep 1000",
        main={"volumeMounts": mount}, initContainers=inits, volumes=[{"name": "work", "emptyDir": {}}],
    )  # fmt: skip
    pod = await world.until_ready("p")
    assert await sh(world, "p", "cat /work/order") == "one\nside\ntwo\nmain\n"
    assert [s.name for s in pod.status.init_container_statuses if s.ready] == ["one", "side", "two"]


async def test_probes_decide_over_readiness_and_life(world: NodeWorld) -> None:
    main = {
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
        "livenessProbe": {
            "exec": {"command": ["/bin/test", "!", "-e", "/tmp/dead"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
        "startupProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "ports": [{"containerPort": 8000, "name": "http"}],
    }
    await world.run_pod("web", "exec httpd -f -p 8000 -h /tmp", main=main)
    await world.until_pod(
        "web", lambda p: p.status.container_statuses and p.status.container_statuses[0].started, 10, "starts"
    )
    pod = await world.pod("web")
    assert pod is not None
    assert not pod.status.container_statuses[0].ready
    await sh(world, "web", "echo ok > /tmp/ready")
    await world.until_ready("web")
    await sh(world, "web", "rm /tmp/ready")
    await world.until_pod("web", lambda p: not p.status.container_statuses[0].ready, 10, "is not ready any more")
    await sh(world, "web", "touch /tmp/dead")
    pod = await world.until_pod("web", lambda p: p.status.container_statuses[0].restart_count == 1, 15, "was restarted")
    assert any(
        "its liveness probe failed 1 times: /bin/test ! -e /tmp/dead: exit code 1" in text for text in world.said()
    )


async def test_hooks_run_and_grace_is_kept(world: NodeWorld) -> None:
    main = {
        "lifecycle": {
            "postStart": {"exec": {"command": ["/bin/sh", "-c", "echo started > /work/hook"]}},
            "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo stopping >> /work/hook"]}},
        },
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
    }
    directory = Path(world.settings.data).parent / "work"
    directory.mkdir()
    volumes = [{"name": "work", "hostPath": {"path": str(directory), "type": "Directory"}}]
    command = "trap 'echo term >> /work/hook; exit 0' TERM; while :; do sleep 0.05; done"
    await world.run_pod("web", command, main=main, volumes=volumes, terminationGracePeriodSeconds=10)
    pod = await world.until_ready("web")
    await world.client.delete(pod.ref)
    await world.until_gone("web")
    assert (directory / "hook").read_text() == "started\nstopping\nterm\n"

    asleep = {"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}
    await world.run_pod("asleep", "trap 'exit 0' TERM; while :; do sleep 0.05; done", main=asleep)
    pod = await world.until_ready("asleep")
    began = asyncio.get_running_loop().time()
    await world.client.delete(pod.ref)
    await world.until_gone("asleep")
    assert asyncio.get_running_loop().time() - began >= 1


async def test_a_claim_is_a_directory_that_outlives_its_pods(world: NodeWorld) -> None:
    path = world.settings.data_path("node", "volumes", "pv-1")
    claim_ref = {"namespace": "default", "name": "data"}
    volume = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": str(path)}}
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    main = {"volumeMounts": [{"name": "data", "mountPath": "/data"}], "securityContext": {"runAsUser": 999}}
    await world.run_pod(
        "one", "echo kept > /data/file; sleep 1000", main=main, volumes=volumes, securityContext={"fsGroup": 999}
    )
    pod = await world.until_pod("one", lambda p: p.status.reason == "FailedMount", 10, "waits for its claim")
    assert pod.status.message == 'volume data: persistentvolumeclaim "data" not found'
    body = {
        "metadata": {"name": "pv-1"},
        "spec": {
            **volume,
            "claimRef": claim_ref,
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}
                            ]
                        }
                    ]
                }
            },
        },
    }
    await world.client.apply(from_wire(PersistentVolume, body), manager="test")
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "pv-1"}
    claim = from_wire(PersistentVolumeClaim, {"metadata": {"name": "data", "namespace": "default"}, "spec": spec})
    await world.client.apply(claim, manager="test")
    claim.status.phase = "Bound"
    await world.client.apply(claim, manager="test", subresource="status")
    pod = await world.until_ready("one")
    await world.until(lambda: (path / "file").exists(), 5, "the file is written")
    await world.client.delete(pod.ref, grace_period_s=0)
    await world.run_pod(
        "two", "cat /data/file > /dev/termination-log", main=main, volumes=volumes, restartPolicy="Never"
    )
    pod = await world.until_pod("two", is_done, 15, "reads it")
    state = pod.status.container_statuses[0].state.terminated
    assert state is not None
    assert state.message == "kept"


async def test_an_image_of_any_registry_comes_from_the_content_store_if_it_is_there(world: NodeWorld) -> None:
    busybox_image(ContentStore(world.settings.data_path("content")), "registry.k8s.io/tools/box:7")
    main = {"image": "registry.k8s.io/tools/box:7", "imagePullPolicy": "Always"}
    await world.run_pod("public", "echo from the store > /dev/termination-log", main=main, restartPolicy="Never")
    pod = await world.until_pod("public", is_done, 20, "has ended")
    ended = pod.status.container_statuses[0].state.terminated
    assert ended is not None
    assert ended.message == "from the store"
