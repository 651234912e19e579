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

PLATFORM = "platforms.acme.example"
LOST = ("Gone", "ResourceNotReady", "Created", "ClusterReplaced", "Applied", "Restored", "Ready", "AllReady")
ENDED = ("Removed", "Deleted")
LOOK_S = 0.3
UNKNOWN = "(known after apply)"
NOT_FOUND = 4
"""How the command ends when there is no such object."""


class Story:
    """The engine at `data` and the cloud at `url`. patience_s: how long anything may take."""

    def __init__(self, trimtab, data, url, token, patience_s=600):
        self.command = [str(trimtab), "--data", str(data)]
        self.trimtab = str(trimtab)
        self.url = url
        self.token = token
        self.patience_s = patience_s

    # The command, and the cloud

    def run(self, *arguments, text=None, kubeconfig=None, must=True, expected=(0,)):
        command = [self.trimtab, "--kubeconfig", kubeconfig] if kubeconfig else self.command
        done = subprocess.run([*command, *arguments], input=text, capture_output=True, text=True, check=False)
        if must and done.returncode not in (*expected, NOT_FOUND):
            raise SystemExit(f"trimtab {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout if done.returncode in expected else ""

    def get(self, kind, name):
        """An object; empty when there is none."""
        return json.loads(self.run("get", kind, name, "-n", shop.NAMESPACE, "-o", "json") or "{}")

    def cloud(self, method, path, body=None):
        login = {"Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, login, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def left(self):
        """What there is at the cloud."""
        return {kind: [one["id"] for one in self.cloud("GET", kind)] for kind in ("clusters", "networks")}

    def until(self, holds, what):
        """Waits until `holds` gives something true, and returns it."""
        end = time.monotonic() + self.patience_s
        while not (found := holds()):
            if time.monotonic() > end:
                raise SystemExit(f"waited {self.patience_s} s in vain: {what}; {self.state()}")
            time.sleep(LOOK_S)
        return found

    def condition(self, type_="Ready"):
        """Of the claim, and of its newest form; empty before that was looked at."""
        found = self.get(PLATFORM, shop.NAME)
        status = found.get("status", {})
        if status.get("observedGeneration") != found.get("metadata", {}).get("generation"):
            return {}
        return next((one for one in status["conditions"] if one["type"] == type_), {})

    def state(self):
        """What the claim says of itself, in a line."""
        one = self.condition()
        return f"{one.get('status')} {one.get('reason')}: {one.get('message')}"

    # The steps

    def publish(self):
        """The administrator's part: the cloud's credential, and the API."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": shop.credential(self.url, self.token)})
        self.run("apply", "-f", "-", text=text)
        self.run("apply", "-f", "-", text=self.run("composition", "render", str(shop.DEFINITION)))
        self.until(self.served, "the API to be served")

    def served(self):
        made = self.get("compositedefinitions", PLATFORM)
        return made.get("status", {}).get("observedGeneration") == made["metadata"]["generation"] and any(
            one["type"] == "Ready" and one["status"] == "True" for one in made["status"]["conditions"]
        )

    def plan(self, app):
        """What a claim would be made of, as `trimtab plan -o json` has it. app: the object of `trimtab up --print`."""
        done = self.run("plan", "-f", "-", "-o", "json", text=json.dumps(shop.claim(self.url, app)), expected=(0, 2))
        return json.loads(done)

    def declare(self, app):
        self.run("apply", "-f", "-", text=json.dumps(shop.claim(self.url, app)))

    def whole(self, but=""):
        """The id of the cluster when the claim is ready; empty before that. but: an id that it is no longer."""
        number = self.get(PLATFORM, shop.NAME).get("status", {}).get("cluster", "")
        return number if number not in ("", but) and self.condition().get("status") == "True" else ""

    def access(self):
        """The kubeconfig that the claim's connection Secret has."""
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
        url = self.get(PLATFORM, shop.NAME)["status"]["url"]
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
        number = self.get(PLATFORM, shop.NAME)["status"]["cluster"]
        self.cloud("DELETE", f"clusters/{number}")
        return number

    def end(self):
        """Deletes the claim, waits until it and all that it was made of are gone, and throws the dumps away, which outlive it."""
        self.run("delete", PLATFORM, shop.NAME, "-n", shop.NAMESPACE)
        self.until(lambda: not self.get(PLATFORM, shop.NAME), "the end of the claim")
        self.cloud("DELETE", shop.BUCKET)

    def told(self, since, of=LOST):
        """What the timeline says of it from then on: (seconds since, reason, entry). of: reasons."""
        span = f"{int((datetime.now().astimezone() - since).total_seconds()) + 5}s"
        out = []
        for entry in json.loads(self.run("timeline", "--since", span, "--limit", "1000", "-o", "json")):
            reason = (entry.get("data") or {}).get("reason", "")
            at = datetime.fromisoformat(entry["at"].replace("Z", "+00:00"))
            said = entry["component"] == "infrastructure" and entry["verb"] in ("said", "warned")
            if said and reason in of and at >= since:
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
    story.publish()
    done("Platform is a kind of the API: one Python function, examples/infrastructure/acme_platform.py")
    foreseen = story.plan(app)
    done("trimtab plan -f shop.yaml: what a claim of it would be made of")
    print(outline(foreseen))
    story.declare(app)
    done("one claim is declared, shop.yaml")
    number = story.until(story.whole, "the claim to be ready")
    done(f"it is ready: cluster {number} is there, and the app serves in it")
    title = f"Written before the loss, at {datetime.now().astimezone():%H:%M:%S}"
    story.write(title)
    story.dump()
    done(f'a note is written ("{title}") and a dump is in the bucket')
    since = datetime.now().astimezone()
    story.lose()
    done(f"cluster {number} was deleted at the cloud, behind Trimtab's back")
    anew = story.until(lambda: story.whole(but=number), "the cluster to come back")
    done(f"the claim is ready: cluster {anew} is there with everything in it")
    if not story.has(title):
        raise SystemExit("the note is lost")
    done("the app serves the note")
    story.until(lambda: any(reason == "AllReady" for _, reason, _ in story.told(since)), "the timeline")
    print(f"\nThe timeline, in seconds since cluster {number} was deleted (trimtab timeline):")
    print(play(story.told(since)))
    since, done.last = datetime.now().astimezone(), time.monotonic()
    print()
    story.end()
    if any(story.left().values()):
        raise SystemExit(f"left at the cloud: {story.left()}")
    done("the claim is deleted, and all that it was made of, in order; nothing is left at the cloud")
    print(play(story.told(since, ENDED)))


def outline(foreseen):
    """A plan's objects, a line each, with what nobody can know yet."""
    lines = []
    for one in foreseen["objects"]:
        unknown = [change["path"] for change in one.get("changes", ()) if change.get("after") == UNKNOWN]
        lines.append(
            f"             {one['action']:7}{one['kind']} {one['name']}"
            + (f": {', '.join(unknown)} (known after apply)" if unknown else "")
        )
    return "\n".join(lines)


def play(told):
    """Entries of the timeline, a line each."""
    lines = []
    for at, reason, entry in told:
        took = f"  (took {entry['duration_ms'] / 1000:.1f} s)" if entry.get("duration_ms") else ""
        lines.append(f"{at:+7.1f} s  {entry['object'].partition(' ')[0]} {reason}: {entry['message'][:100]}{took}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trimtab", default=Path(sys.executable).with_name("trimtab"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--app", type=Path, required=True)
    chosen = parser.parse_args()
    (app,) = [one for one in yaml.safe_load_all(chosen.app.read_text()) if one]
    tell(Story(chosen.trimtab, chosen.data, chosen.url, os.environ["CLOUD_TOKEN"]), app)


if __name__ == "__main__":
    main()
