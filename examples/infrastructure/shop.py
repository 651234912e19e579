"""What the demo declares: a cluster at a cloud, with the app in it, whose data a CronJob keeps in a bucket of the cloud.

    shop.py --url http://127.0.0.1:17500 --app app.yaml | trimtab apply -f -        app.yaml: `trimtab up DIR --print`

When the cluster is lost, Trimtab has it made anew; the manifests go into the new one, and the Job of `restoreFrom` brings the data back.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import yaml

GROUP = "cloud.tf.trimtab.dev/v1"
NAME, NAMESPACE, APP = "shop", "default", "shipnotes"
SECRET = "shop-kubeconfig"
BUCKET = "buckets/shop"
STEPS = Path(__file__).with_name("dumps.py").read_text()


def meta(name):
    return {"name": name, "namespace": NAMESPACE}


def env(port):
    """Of a container in the cluster: the database, and where in the cloud the dump is. Pods reach the cloud at their node's address."""
    return [
        {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": f"{APP}-db", "key": "url"}}},
        {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        {"name": "CLOUD_TOKEN", "valueFrom": {"secretKeyRef": {"name": "cloud", "key": "token"}}},
        {"name": "BUCKET", "value": f"http://$(HOST_IP):{port}/{BUCKET}"},
    ]


def job(port, *steps):
    """The spec of a Job whose steps hand /dump to each other, one after the other: (image, command) each."""
    containers = [
        {
            "name": f"step-{number}",
            "image": image,
            "command": command,
            "env": env(port),
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


def python(app, what):
    """A step of dumps.py in the app's own image."""
    return app["image"], ["python3", "-c", STEPS, what]


def backup(app, port):
    """Takes a dump out of the cluster, each minute."""
    dump = (app["database"]["image"], ["pg_dump", "-Fc", "-f", "/dump/all", "-d", "$(DATABASE_URL)"])
    spec = {
        "schedule": "* * * * *",
        "concurrencyPolicy": "Forbid",
        "jobTemplate": {"spec": job(port, dump, python(app, "keep"))},
    }
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta("backup"), "spec": spec}


def restore(app, port):
    """The Job in our own cluster: it has the new cluster's kubeconfig, and lets a Job run in there that puts the dump into the database.

    The clusters of this cloud are reached at this machine's loopback, hence the node's network."""
    command = [
        "pg_restore",
        "--clean",
        "--if-exists",
        "--no-owner",
        "--single-transaction",
        "-d",
        "$(DATABASE_URL)",
        "/dump/all",
    ]
    steps = [python(app, "fetch"), (app["database"]["image"], command), python(app, "restored")]
    inside = job(port, *steps)
    program = Path(__file__).with_name("restore.py").read_text()
    container = {
        "name": "restore",
        "image": app["image"],
        "command": ["python3", "-c", program],
        "env": [{"name": "JOB", "value": json.dumps(inside).replace("$(", "$$(")}, {"name": "APP", "value": APP}],
    }
    return {"backoffLimit": 2, "template": {"spec": {"hostNetwork": True, "containers": [container]}}}


def objects(url, token, app, interval="5s"):
    """Everything. app: the objects of `trimtab up --print`."""
    port = urlsplit(url).port
    (spec,) = [one["spec"] for one in app if one["kind"] == "App"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta("cloud"), "stringData": {"token": token}}
    config = {"provider": "cloud", "config": {"url": url}, "secrets": {"token": {"name": "cloud", "key": "token"}}}
    cluster = {
        "interval": interval,
        "forProvider": {"name": NAME},
        "references": [{"field": "network", "source": {"kind": "Network", "name": NAME, "field": "id"}}],
        "connection": {"secretName": SECRET, "data": {"kubeconfig": "{{ kubeconfig | b64decode }}"}},
        "restoreFrom": {"job": restore(spec, port)},
        # A credential that the cloud replaced is to be in the Secret soon, and what went wrong half way is made anew.
        "policy": {"replace": "auto"},
    }
    manifests = {
        "kubeconfig": {"name": SECRET, "key": "kubeconfig"},
        "interval": "10s",
        "manifests": [secret, *app, backup(spec, port)],
    }
    network = {"interval": interval, "forProvider": {"name": NAME, "range": "10.0.0.0/16"}}
    return [
        secret,
        {
            "apiVersion": "trimtab.dev/v1alpha1",
            "kind": "ProviderConfig",
            "metadata": meta("default"),
            "spec": {**config, "requestsPerSecond": 20, "removalsPerInterval": 10},
        },
        {"apiVersion": GROUP, "kind": "Network", "metadata": meta(NAME), "spec": network},
        {"apiVersion": GROUP, "kind": "Cluster", "metadata": meta(NAME), "spec": cluster},
        {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ClusterManifests", "metadata": meta(NAME), "spec": manifests},
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--app", type=Path, required=True)
    chosen = parser.parse_args()
    app = [one for one in yaml.safe_load_all(chosen.app.read_text()) if one]
    yaml.safe_dump_all(objects(chosen.url, os.environ["CLOUD_TOKEN"], app), sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
