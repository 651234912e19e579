"""Brings the app's data into a cluster that was made anew: waits for the app in there, then runs the Job JOB in there to its end.

Runs in a pod of our own cluster, with the standard library only. JOB: the spec of a Job, in JSON. APP: the app that has to be ready.
"""

import base64
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request

PATIENCE_S = 600
LOOK_S = 0.5
NAMESPACE = "default"


def api():
    """(server, token, TLS context) of the kubeconfig."""
    with open("/run/trimtab/connection/kubeconfig") as file:
        text = file.read()

    def field(name):
        return re.search(rf"^\s*-?\s*{name}:\s*(\S+)\s*$", text, re.M)[1].strip("'\"")

    authority = base64.b64decode(field("certificate-authority-data")).decode()
    return field("server"), field("token"), ssl.create_default_context(cadata=authority)


SERVER, TOKEN, TLS = api()


def call(method, path, body=None):
    """The answer; None for what is not there, or when the cluster does not answer just now."""
    head = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SERVER + path, data, head, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30, context=TLS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as err:
        with err:
            if err.code in (404, 409) or err.code >= 500:
                return None
            sys.exit(f"{method} {path}: {err.code} {json.load(err).get('message')}")
    except OSError:
        return None


def condition(path, *types):
    """Waits until the object has one of these conditions; returns its type."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = call("GET", path) or {}
        for one in found.get("status", {}).get("conditions", []):
            if one["type"] in types and one["status"] == "True":
                return one["type"]
        time.sleep(LOOK_S)
    sys.exit(f"{path} was not {' or '.join(types)} within {PATIENCE_S} s")


name = f"restore-{os.environ['TRIMTAB_RESTORE']}"
jobs = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
condition(f"/apis/trimtab.dev/v1alpha1/namespaces/{NAMESPACE}/apps/{os.environ['APP']}", "Ready")
metadata = {"name": name, "namespace": NAMESPACE}
call(
    "POST", jobs, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": json.loads(os.environ["JOB"])}
)
if condition(f"{jobs}/{name}", "Complete", "Failed") == "Failed":
    sys.exit(f"job {name} in the cluster failed: trimtab --kubeconfig ... logs job/{name}")
print("the data is back")
