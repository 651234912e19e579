"""A pod with a volume in which it counts, each number in two files, for tests of what survives what."""

from __future__ import annotations

import json
from pathlib import Path

from engine_under_test import EngineUnderTest
from node_world import busybox_image
from trimtab.content import ContentStore

WRITER = """
n=$(cat /data/last 2>/dev/null || echo 0)
echo "began after $n" >> /data/history
while true; do n=$((n + 1)); echo $n > /data/new; mv /data/new /data/last; echo $n >> /data/all; sleep 0.01; done
"""


def count_forever(
    under_test: EngineUnderTest, name: str = "counter", *, node: str | None = None, storage_class: str | None = None
) -> None:
    """Applies a StatefulSet of one such pod, on a certain node if one is named."""
    image = busybox_image(ContentStore(under_test.data / "content"))
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["/bin/sh", "-c", WRITER],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
        },
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "64Mi"}},
            **({"storageClassName": storage_class} if storage_class else {}),
        },
    }
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
            "volumeClaimTemplates": [claim],
        },
    }
    under_test.run("apply", "-f", "-", input=json.dumps(manifest))


def volume_of(under_test: EngineUnderTest) -> Path:
    """The directory of the one volume."""
    (volume,) = (under_test.data / "node" / "volumes").iterdir()
    return volume


def counted(under_test: EngineUnderTest) -> int:
    """How far it has come; 0 when it has not begun."""
    try:
        return int((volume_of(under_test) / "last").read_text())
    except (OSError, ValueError):
        return 0


def told(under_test: EngineUnderTest, name: str, file: str) -> str:
    """A file of a pod's volume, as the pod sees it; "" while it does not run."""
    done = under_test.run("exec", f"{name}-0", "--", "cat", f"/data/{file}", check=False)
    return done.stdout if done.returncode == 0 else ""


def counted_by(under_test: EngineUnderTest, name: str) -> int:
    """How far a pod has come, as it says itself; 0 while it does not run."""
    text = told(under_test, name, "last").strip()
    return int(text) if text.isdecimal() else 0
