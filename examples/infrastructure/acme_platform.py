"""An API of one's own: a `Platform` is a cluster at the cloud with an app in it, and the app's data outlives the cluster.

trimtab composition render examples/infrastructure/acme_platform.py | trimtab apply -f -

A claim of it is ready when the app in the cluster serves. When the cluster is lost Trimtab has it made anew; what is in it goes into the
new one, and the Job of `restore` brings the data back before the claim is ready again.
"""

import inspect
import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from trimtab.compose import (
    Claim,
    ClusterManifests,
    Composed,
    Inside,
    Limit,
    Managed,
    Observed,
    Policy,
    Status,
    definition,
)

SPACE = "default"
"""The namespace in the cluster."""


@dataclass
class Platform:
    """A cluster with an app in it, whose data outlives the cluster."""

    app: Annotated[dict[str, Any], "An App with a database, as `trimtab up DIR --print` writes it."]
    bucket: Annotated[str, "Where its dumps are kept; $(HOST_IP) is the address of the node on which that runs."]
    credential: Annotated[str, "The Secret of this namespace whose key `token` opens the bucket."] = "cloud"
    range: Annotated[str, Limit(immutable=True), "The network's addresses."] = "10.0.0.0/16"
    backup: Annotated[str, "When dumps are taken, as of a CronJob."] = "* * * * *"


@dataclass
class PlatformStatus:
    cluster: Annotated[str, "The cluster's id at the cloud."]
    url: Annotated[str, "Where the app serves."]


class Network(Managed[Any]):
    API_VERSION: ClassVar[str] = "cloud.tf.trimtab.dev/v1"
    KIND: ClassVar[str] = "Network"


class Cluster(Managed[Any]):
    API_VERSION: ClassVar[str] = "cloud.tf.trimtab.dev/v1"
    KIND: ClassVar[str] = "Cluster"


@definition(
    group="acme.example",
    status=PlatformStatus,
    composes=[Network, Cluster, ClusterManifests],
    connection={"kubeconfig": "{{ cluster.kubeconfig }}", "url": "{{ inside.status.outputs.url }}"},
)
def compose(xr: Claim[Platform], observed: Observed) -> Composed:
    """A network, a cluster in it, and what is in the cluster: the app with its database, and a backup of that."""
    app, spec = xr.spec.app, xr.spec.app.get("spec", {})
    name = app.get("metadata", {}).get("name")
    if not (name and spec.get("image") and spec.get("database", {}).get("image")):
        raise ValueError("spec.app: it is no App with an image and a database: trimtab up DIR --print writes one")
    net = Network("net", {"name": xr.name, "range": xr.spec.range}, interval="5s")
    cluster = Cluster(
        "cluster",
        {"name": xr.name, "network": net.output("id")},
        interval="5s",
        # A credential that the cloud replaced is to be in the Secret soon, and what went wrong half way is made anew.
        policy=Policy(replace="auto"),
        connection={"kubeconfig": "{{ kubeconfig | b64decode }}"},
        restore=restoring(xr.spec, name),
    )
    inside = ClusterManifests(
        "inside",
        cluster,
        [{**app, "metadata": meta(name)}, backup(xr.spec, name)],
        secrets=[xr.spec.credential],
        outputs={"url": Inside(kind="App", name=name, field="status.url")},
        interval="10s",
    )
    status = PlatformStatus(observed["cluster"].at("id", ""), observed["inside"].at("outputs.url", ""))
    return [net, cluster, inside, Status(status)]


# Backup and restore


def backup(spec: Platform, name: str) -> dict[str, Any]:
    """In the cluster: takes a dump out of it, again and again."""
    dump = (spec.app["spec"]["database"]["image"], ["pg_dump", "-Fc", "-f", "/dump/all", "-d", "$(DATABASE_URL)"])
    template = {"spec": job(spec, name, dump, step(spec, "keep"))}
    cron = {"schedule": spec.backup, "concurrencyPolicy": "Forbid", "jobTemplate": template}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta("backup"), "spec": cron}


def restoring(spec: Platform, name: str) -> dict[str, Any]:
    """In our own cluster: a Job that has the new cluster's kubeconfig, and lets another run in there that fills the database.

    The clusters of this cloud are reached at this machine's loopback, hence the node's network."""
    command = ["pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", "-d", "$(DATABASE_URL)"]
    fill = (spec.app["spec"]["database"]["image"], [*command, "/dump/all"])
    inside = job(spec, name, step(spec, "fetch"), fill, step(spec, "restored"))
    container = {
        "name": "restore",
        "image": spec.app["spec"]["image"],
        "command": ["python3", "-c", inspect.getsource(restore) + "restore()"],
        "env": [{"name": "JOB", "value": json.dumps(inside).replace("$(", "$$(")}, {"name": "APP", "value": name}],
    }
    return {"backoffLimit": 2, "template": {"spec": {"hostNetwork": True, "containers": [container]}}}


def meta(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": SPACE}


def step(spec: Platform, what: str) -> tuple[str, list[str]]:
    """A step of `dumps`, in the app's own image."""
    return spec.app["spec"]["image"], ["python3", "-c", inspect.getsource(dumps) + "dumps()", what]


def job(spec: Platform, name: str, *steps: tuple[str, list[str]]) -> dict[str, Any]:
    """The spec of a Job in the cluster whose steps hand /dump to each other, one after the other: (image, command) each."""
    env = [
        {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": f"{name}-db", "key": "url"}}},
        {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        {"name": "CLOUD_TOKEN", "valueFrom": {"secretKeyRef": {"name": spec.credential, "key": "token"}}},
        {"name": "BUCKET", "value": spec.bucket},
    ]
    containers = [
        {
            "name": f"step-{number}",
            "image": image,
            "command": command,
            "env": env,
            "volumeMounts": [{"name": "dump", "mountPath": "/dump"}],
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        for number, (image, command) in enumerate(steps, 1)
    ]
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
        "initContainers": containers[:-1],
        "containers": containers[-1:],
        "volumes": [{"name": "dump", "emptyDir": {}}],
    }
    return {"backoffLimit": 5, "template": {"spec": pod}}


# What runs in containers: each function is taken there as its source, so all that it needs is in itself.


def dumps() -> None:
    """The steps that talk to the bucket: keep, fetch, restored.

    A dump is kept under a name of its database's own, KEY.dump. A database that is new while there are dumps of others keeps none until
    it is restored (KEY.restored): else the empty one of a new cluster would take the place of what is to come back.
    """
    import hashlib
    import json
    import os
    import sys
    import urllib.request

    key = hashlib.sha256(os.environ["DATABASE_URL"].encode()).hexdigest()[:16]

    def bucket(method: str, name: str = "", data: bytes | None = None) -> bytes:
        head = {"Authorization": "Bearer " + os.environ["CLOUD_TOKEN"]}
        request = urllib.request.Request(os.environ["BUCKET"] + name, data, head, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    names = json.loads(bucket("GET"))
    others = [name for name in names if name.endswith(".dump") and name != f"{key}.dump"]
    match sys.argv[1]:
        case "keep" if others and f"{key}.restored" not in names:
            print("what was before is not restored yet: no dump is kept")
        case "keep":
            with open("/dump/all", "rb") as file:
                bucket("PUT", f"/{key}.dump", file.read())
            print(f"kept as {key}.dump")
        case "fetch" if others:
            with open("/dump/all", "wb") as file:
                file.write(bucket("GET", f"/{others[-1]}"))
            print(f"fetched {others[-1]}")
        case "fetch":
            sys.exit("there is no dump of an earlier database in the bucket")
        case "restored":
            bucket("PUT", f"/{key}.restored", b"")


def restore() -> None:
    """Waits until the app is ready in the new cluster, lets JOB (the spec of a Job, in JSON) run in there, and waits for its end."""
    import base64
    import json
    import os
    import re
    import ssl
    import sys
    import time
    import urllib.error
    import urllib.request
    from typing import Any

    patience_s, look_s = 600, 0.5
    with open("/run/trimtab/connection/kubeconfig") as file:
        text = file.read()

    def field(name: str) -> str:
        found = re.search(rf"^\s*-?\s*{name}:\s*(\S+)\s*$", text, re.M)
        return found[1].strip("'\"") if found else ""

    authority = base64.b64decode(field("certificate-authority-data")).decode()
    server, token, tls = field("server"), field("token"), ssl.create_default_context(cadata=authority)

    def call(method: str, path: str, body: Any = None) -> Any:
        """The answer; None for what is not there, or when the cluster does not answer just now."""
        head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(server + path, data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as err:
            with err:
                if err.code in (404, 409) or err.code >= 500:
                    return None
                sys.exit(f"{method} {path}: {err.code} {json.load(err).get('message')}")
        except OSError:
            return None

    def condition(path: str, *types: str) -> str:
        """Waits until the object has one of these conditions; returns its type."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            found = call("GET", path) or {}
            for one in found.get("status", {}).get("conditions", []):
                if one["type"] in types and one["status"] == "True":
                    return str(one["type"])
            time.sleep(look_s)
        sys.exit(f"{path} was not {' or '.join(types)} within {patience_s} s")

    name = f"restore-{os.environ['TRIMTAB_RESTORE']}"
    jobs = "/apis/batch/v1/namespaces/default/jobs"
    condition(f"/apis/trimtab.dev/v1alpha1/namespaces/default/apps/{os.environ['APP']}", "Ready")
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "default"}}
    call("POST", jobs, {**whole, "spec": json.loads(os.environ["JOB"])})
    if condition(f"{jobs}/{name}", "Complete", "Failed") == "Failed":
        sys.exit(f"job {name} in the cluster failed: trimtab --kubeconfig ... logs job/{name}")
    print("the data is back")
