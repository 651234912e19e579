"""What the demo declares: the credential of the cloud, the API of `acme_platform.py`, and a claim of it.

    shop.py --url http://127.0.0.1:17500 --app app.yaml > shop.yaml        app.yaml: `trimtab up DIR --print`

The claim is all that somebody who wants an app in a cluster of its own has to write.
"""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import yaml

GROUP = "acme.example/v1alpha1"
NAME, NAMESPACE, APP = "shop", "default", "shipnotes"
SECRET = "shop-platform-connection"
BUCKET = f"buckets/{NAME}"
DEFINITION = Path(__file__).with_name("acme_platform.py")


def meta(name):
    return {"name": name, "namespace": NAMESPACE}


def credential(url, token):
    """The administrator's: with which the cloud is asked."""
    config = {"provider": "cloud", "config": {"url": url}, "secrets": {"token": {"name": "cloud", "key": "token"}}}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta("cloud"), "stringData": {"token": token}},
        {
            "apiVersion": "trimtab.dev/v1alpha1",
            "kind": "ProviderConfig",
            "metadata": meta("default"),
            "spec": {**config, "requestsPerSecond": 20, "removalsPerInterval": 10},
        },
    ]


def claim(url, app):
    """A Platform. Pods in the cluster reach the cloud at their node's address."""
    spec = {"app": app, "bucket": f"http://$(HOST_IP):{urlsplit(url).port}/{BUCKET}"}
    return {"apiVersion": GROUP, "kind": "Platform", "metadata": meta(NAME), "spec": spec}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--app", type=Path, required=True)
    parser.add_argument("--credential", action="store_true", help="the credential instead; CLOUD_TOKEN has the token")
    chosen = parser.parse_args()
    (app,) = [one for one in yaml.safe_load_all(chosen.app.read_text()) if one]
    made = credential(chosen.url, os.environ["CLOUD_TOKEN"]) if chosen.credential else [claim(chosen.url, app)]
    yaml.safe_dump_all(made, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
