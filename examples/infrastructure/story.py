"""A cluster is lost, and comes back with everything in it: the demo, step by step, with the time that each takes.

    story.py --data DATA --url URL [--app app.yaml]      an engine at DATA with the provider, cloud.py at URL; CLOUD_TOKEN in the environment

Each step can be repeated: what is there already is found, not made again. Everything is done by the `trimtab` command, but for the one thing
that somebody else does: deleting the cluster at the cloud.
"""

import argparse
import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path

import shop
import yaml

CLUSTER = f"clusters.{shop.GROUP.partition('/')[0]}"
TOLD = ("Gone", "Created", "ClusterReplaced", "Applied", "Restored", "Ready")
LOOK_S = 0.3


class Story:
    """The engine at `data` and the cloud at `url`. patience_s: how long anything may take."""

    def __init__(self, trimtab, data, url, token, patience_s=600):
        self.command = [str(trimtab), "--data", str(data)]
        self.trimtab = str(trimtab)
        self.url = url
        self.token = token
        self.patience_s = patience_s

    # The command, and the cloud

    def run(self, *arguments, text=None, kubeconfig=None, must=True):
        command = [self.trimtab, "--kubeconfig", kubeconfig] if kubeconfig else self.command
        done = subprocess.run([*command, *arguments], input=text, capture_output=True, text=True, check=False)
        if must and done.returncode not in (0, 4):
            raise SystemExit(f"trimtab {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else ""

    def get(self, kind, name, kubeconfig=None):
        """An object; empty when there is none."""
        return json.loads(
            self.run("get", kind, name, "-n", shop.NAMESPACE, "-o", "json", kubeconfig=kubeconfig) or "{}"
        )

    def cloud(self, method, path, body=None):
        login = {"Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, login, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def until(self, holds, what):
        """Waits until `holds` gives something true, and returns it."""
        end = time.monotonic() + self.patience_s
        while not (found := holds()):
            if time.monotonic() > end:
                raise SystemExit(f"waited {self.patience_s} s in vain: {what}; {self.state()}")
            time.sleep(LOOK_S)
        return found

    def condition(self, kind, type_="Ready"):
        conditions = self.get(kind, shop.NAME).get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == type_), {})

    def state(self):
        """What the objects say of themselves, in a line."""
        said = [(kind, self.condition(kind)) for kind in (CLUSTER, "clustermanifests")]
        return "; ".join(f"{kind}: {one.get('status')} {one.get('reason')}: {one.get('message')}" for kind, one in said)

    # The steps

    def declare(self, app):
        """app: the objects of `trimtab up --print`."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": shop.objects(self.url, self.token, app)})
        self.run("apply", "-f", "-", text=text)

    def whole(self, but=""):
        """The id of the cluster, when it and all that is in it are ready; empty before that. but: an id that it is no longer."""
        found = self.get(CLUSTER, shop.NAME)
        number = found.get("status", {}).get("id", "")
        if number in ("", but) or self.condition(CLUSTER).get("status") != "True":
            return ""
        behind = self.get("clustermanifests", shop.NAME)
        of = {one["type"]: one["status"] for one in behind.get("status", {}).get("conditions", [])}
        looked = behind.get("status", {}).get("observedGeneration") == behind["metadata"]["generation"]
        return (
            number if looked and of.get("Ready") == "True" and self.inside("get", "app", shop.APP, must=False) else ""
        )

    def access(self):
        """The kubeconfig that the connection Secret has."""
        secret = self.get("secret", shop.SECRET)
        return base64.b64decode(secret["data"]["kubeconfig"]).decode()

    def inside(self, *arguments, text=None, must=True):
        """`trimtab --kubeconfig ... ARGUMENTS` in the cluster."""
        with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig") as file:
            file.write(self.access())
            file.flush()
            return self.run(*arguments, "-n", shop.NAMESPACE, text=text, kubeconfig=file.name, must=must)

    def app(self, path, method="GET", body=None):
        """(status, text) of a request to the app in the cluster, over TLS with the certificate checked; (0, why) when it is not reached."""
        url = json.loads(self.inside("get", "app", shop.APP, "-o", "json"))["status"]["url"]
        host, _, port = url.removeprefix("https://").partition(":")
        authority = yaml.safe_load(self.access())["clusters"][0]["cluster"]["certificate-authority-data"]
        context = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
        head = {"Host": host}
        if body is not None:
            value = json.loads(self.inside("get", "secret", f"{shop.APP}-secret-shipnotes-token", "-o", "json"))[
                "data"
            ]["value"]
            head |= {"Authorization": f"Bearer {base64.b64decode(value).decode()}", "Content-Type": "application/json"}
        try:
            plain = socket.create_connection(("127.0.0.1", int(port or 443)), timeout=20)
            with context.wrap_socket(plain, server_hostname=host) as secured:
                connection = HTTPConnection(host, timeout=20)
                connection.sock = secured
                connection.request(method, path, None if body is None else json.dumps(body), head)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
        except OSError as err:
            return 0, str(err)

    def write(self, title):
        """A note in the app."""
        status, text = self.app("/notes", "POST", {"version": "9.9", "title": title, "body": "still here"})
        if status != 201:
            raise SystemExit(f"the app did not take the note: {status} {text[:200]}")

    def has(self, title):
        return title in self.app("/")[1]

    def dump(self):
        """Lets the backup run now, and waits for it."""
        cron = json.loads(self.inside("get", "cronjob", "backup", "-o", "json"))
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": shop.meta(f"backup-{time.time_ns()}"),
            "spec": cron["spec"]["jobTemplate"]["spec"],
        }
        self.inside("apply", "-f", "-", text=json.dumps(job))

        def complete():
            found = json.loads(self.inside("get", "job", job["metadata"]["name"], "-o", "json") or "{}")
            return any(
                one["type"] == "Complete" and one["status"] == "True"
                for one in found.get("status", {}).get("conditions", [])
            )

        self.until(complete, "the backup")

    def lose(self):
        """Somebody deletes the cluster at the cloud. Returns its id."""
        number = self.get(CLUSTER, shop.NAME)["status"]["id"]
        self.cloud("DELETE", f"clusters/{number}")
        return number

    def told(self, since):
        """What the timeline says of it from then on: (seconds since, reason, sentence)."""
        span = f"{int((datetime.now().astimezone() - since).total_seconds()) + 5}s"
        out = []
        for entry in json.loads(self.run("timeline", "--since", span, "--limit", "1000", "-o", "json")):
            reason = (entry.get("data") or {}).get("reason", "")
            at = datetime.fromisoformat(entry["at"].replace("Z", "+00:00"))
            if entry["component"] == "infrastructure" and reason in TOLD and at >= since:
                out.append(((at - since).total_seconds(), reason, entry))
        return out


class Clock:
    """Prints a step when it is done, with its time."""

    def __init__(self):
        self.last = self.began = time.monotonic()

    def __call__(self, what):
        now = time.monotonic()
        print(f"{now - self.last:7.1f} s  {what}", flush=True)
        self.last = now


def tell(story, app):
    """The whole of it."""
    done = Clock()
    story.declare(app)
    done("declared: network, cluster, what is in it, a backup each minute, what brings the data back")
    number = story.until(story.whole, "the cluster with the app in it")
    done(f"cluster {number} is there, and the app serves in it")
    title = f"Written before the loss, at {datetime.now().astimezone():%H:%M:%S}"
    story.write(title)
    story.dump()
    done(f'a note is written ("{title}") and a dump is in the bucket')
    since = datetime.now().astimezone()
    story.lose()
    done(f"cluster {number} was deleted at the cloud, behind Trimtab's back")
    anew = story.until(lambda: story.whole(but=number), "the cluster to come back")
    done(f"cluster {anew} is there with everything in it")
    if not story.has(title):
        raise SystemExit("the note is lost")
    done("the app serves the note")
    print(f"\nThe timeline, in seconds since cluster {number} was deleted (trimtab timeline):")
    for at, reason, entry in story.told(since):
        took = f"  (took {entry['duration_ms'] / 1000:.1f} s)" if entry.get("duration_ms") else ""
        print(f"{at:+7.1f} s  {entry['object'].partition(' ')[0]} {reason}: {entry['message'][:100]}{took}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trimtab", default=Path(sys.executable).with_name("trimtab"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--app", type=Path, required=True)
    chosen = parser.parse_args()
    app = [one for one in yaml.safe_load_all(chosen.app.read_text()) if one]
    tell(Story(chosen.trimtab, chosen.data, chosen.url, os.environ["CLOUD_TOKEN"]), app)


if __name__ == "__main__":
    main()
