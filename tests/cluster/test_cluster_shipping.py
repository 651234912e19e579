"""Outgrowing the machine: the same command ships the same app onto a Kubernetes that somebody else made, and it is kept up there.

`trimtab run` is started on the node, where pods are reached; `trimtab up` on the machine beside it, with a registry that both reach.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster_process import ClusterProcess
from engine_under_test import engine
from rollout import Load, Target, _Connection, replace_pods

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1800)]

TRIMTAB = str(Path(sys.executable).with_name("trimtab"))
ROOT = Path(__file__).parents[2]
HTTPS_PORT = 8443
REPLACEMENTS, REQUESTS, CLIENTS = 5, 5_000, 40
WITHIN_S = 300.0


@dataclass
class Shipping:
    """A cluster for which `trimtab run` runs."""

    cluster: ClusterProcess
    process: subprocess.Popen[bytes]

    def up(self, directory: Path, *, fails: bool = False) -> str:
        command = [TRIMTAB, "--kubeconfig", str(self.cluster.kubeconfig()), "up", str(directory), "--timeout", "600"]
        done = subprocess.run(
            command, env=self.cluster.environment(), capture_output=True, text=True, timeout=900, check=False
        )
        assert (done.returncode != 0) is fails, f"{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def history(self, *arguments: str) -> str:
        """What `trimtab timeline` or `why` prints of the cluster, from where `trimtab run` runs."""
        state = ("--state", str(self.cluster.folder / "state"))
        return self.cluster.run(TRIMTAB, "--kubeconfig", str(self.cluster.kubeconfig()), *arguments, *state)

    def authority(self) -> ssl.SSLContext:
        import base64

        secret = self.cluster.get("secret", "engine-ca", "-n", "trimtab-system")
        return ssl.create_default_context(cadata=base64.b64decode(secret["data"]["tls.crt"]).decode())

    async def ask(self, host: str, path: str) -> tuple[int, str]:
        target = Target((self.cluster.address, HTTPS_PORT), host, path, self.authority())
        connection = await _Connection.open(target)
        try:
            status, _ = await connection.request(target, None, keep=False)
            return status, connection.text
        finally:
            await connection.close()

    def pods(self, app: str, component: str) -> list[dict[str, Any]]:
        selector = f"app.kubernetes.io/name={app},app.kubernetes.io/component={component}"
        return list(self.cluster.get("pods", "-l", selector)["items"])


@pytest.fixture(scope="module")
def shipping(cluster: ClusterProcess) -> Iterator[Shipping]:
    log = cluster.folder / "run.log"
    command = [TRIMTAB, "--kubeconfig", str(cluster.kubeconfig()), "run", "--state", str(cluster.folder / "state")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            cluster.command(*command, "--http-port", "8080", "--https-port", str(HTTPS_PORT)), stdout=out, stderr=out
        )
    try:
        until("trimtab run does not lead", lambda: leads(cluster, process, log))
        yield Shipping(cluster, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.kill()
        process.wait()
        shutil.rmtree(cluster.folder / "state", ignore_errors=True)


def leads(cluster: ClusterProcess, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    found = cluster.get("leases", "-A")["items"]
    return any(lease["metadata"]["name"] == "trimtab-controllers" for lease in found)


def until(complaint: str, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not there():
        assert time.monotonic() < deadline, f"{complaint} after {WITHIN_S:.0f} s"
        time.sleep(0.2)


def all_ready(pods: list[dict[str, Any]]) -> bool:
    conditions = [c for pod in pods for c in pod["status"].get("conditions", []) if c["type"] == "Ready"]
    return bool(pods) and len(conditions) == len(pods) and all(c["status"] == "True" for c in conditions)


def test_shipnotes_is_shipped_with_its_database_behind_tls(shipping: Shipping) -> None:
    said = shipping.up(ROOT / "examples" / "shipnotes")

    assert f"shipnotes serves at https://shipnotes.localhost:{HTTPS_PORT}" in said
    status, page = asyncio.run(shipping.ask("shipnotes.localhost", "/"))
    assert (status, "<!doctype html>" in page) == (200, True)
    app = shipping.cluster.get("app", "shipnotes")
    ready = next(c for c in app["status"]["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"], app["status"]["ready"]) == ("True", "Serving", "2/2")
    for pod in shipping.pods("shipnotes", "web"):
        gate = next(c for c in pod["status"]["conditions"] if c["type"] == "proxy.trimtab.dev/attached")
        assert (gate["status"], gate["reason"]) == ("True", "Attached")
        hook = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]
        assert hook["host"] == shipping.cluster.get("svc", "proxy-hooks", "-n", "trimtab-system")["spec"]["clusterIP"]


def test_what_it_becomes_is_what_it_becomes_on_the_embedded_engine(shipping: Shipping, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with engine(tmp_path / "data") as running:
        running.run("up", str(ROOT / "examples" / "shipnotes"), timeout_s=600)

        def ours(*arguments: str) -> Any:
            return json.loads(running.run("get", *arguments, "-o", "json").stdout)

        listed = {kind: ours(kind, "-n", "default") for kind in (*COMPARED, "pods")}
    here = {kind: essence(listed[kind]) for kind in COMPARED}
    there = {kind: essence(shipping.cluster.get(kind)) for kind in COMPARED}
    here["pods"], there["pods"] = of_pods(listed["pods"]), of_pods(shipping.cluster.get("pods"))

    differences = {kind: difference(there[kind], here[kind]) for kind in there if there[kind] != here[kind]}
    assert not differences, "\n".join(f"{kind}:\n{text}" for kind, text in differences.items())


COMPARED = ("apps", "deployments", "statefulsets", "services", "ingresses", "jobs", "persistentvolumeclaims")


def essence(listing: Any) -> dict[str, Any]:
    """What an App's objects say, without what a server or a place decides: addresses, where images are, hook, volume, uids."""
    found = {}
    for item in listing["items"]:
        if item["metadata"]["name"] == "kubernetes":
            continue
        text = re.sub(r'"[^"]*/(shipnotes|postgres-15)@sha256:[0-9a-f]+"', r'"\1"', json.dumps(item.get("spec", {})))
        spec = json.loads(text)
        for name in ("clusterIP", "clusterIPs", "volumeName", "storageClassName", "manualSelector"):
            spec.pop(name, None)
        for claim in spec.get("volumeClaimTemplates", []):
            claim.pop("status", None)
        template = spec.get("template", {})
        for container in template.get("spec", {}).get("containers", []):
            container.pop("lifecycle", None)
        if item["kind"] == "Job":  # labels and selector hold its uid
            spec.pop("selector", None)
            template["metadata"]["labels"] = sorted(template["metadata"]["labels"])
        conditions = conditions_of(item)
        if item["kind"] == "PersistentVolumeClaim":  # ours tells in a condition by whom it was bound
            conditions = [["phase", item["status"]["phase"], None]]
        name = re.sub("migrate-[0-9a-f]+", "migrate", item["metadata"]["name"])
        labels = {k: v for k, v in item["metadata"].get("labels", {}).items() if k != "trimtab.dev/owner"}
        if item["kind"] == "Job":
            labels = {}
        if item["kind"] == "PersistentVolumeClaim":  # ours names the reconciler that made it
            labels.pop("trimtab.dev/reconciler", None)
        found[name] = {"spec": spec, "labels": labels, "conditions": sorted(conditions)}
    return found


def conditions_of(item: Any) -> list[list[str | None]]:
    return [[c["type"], c["status"], c.get("reason")] for c in item.get("status", {}).get("conditions") or []]


def of_pods(listing: Any) -> dict[str, Any]:
    """Component -> phases and conditions of its pods, without names, which end at random."""
    found: dict[str, Any] = {}
    for item in listing["items"]:
        component = item["metadata"]["labels"].get("app.kubernetes.io/component", "")
        states = found.setdefault(component, [])
        states.append([item["status"]["phase"], sorted(conditions_of(item), key=str)])
    return found


def difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    texts = (json.dumps(found, sort_keys=True, indent=1).splitlines() for found in (there, here))
    return "\n".join(difflib.unified_diff(*texts, "real", "embedded", n=3, lineterm=""))


def test_the_journal_of_run_tells_what_happened_there_and_why(shipping: Shipping) -> None:
    entries = json.loads(shipping.history("timeline", "--limit", "1000", "-o", "json"))

    told = {(entry["verb"], entry["object"]) for entry in entries}
    assert any(verb == "created" and "Deployment" in str(ref) and "shipnotes-web" in str(ref) for verb, ref in told), (
        told
    )
    reasons = shipping.history("why", "deployment/shipnotes-web")
    assert "App default/shipnotes" in reasons, reasons


def test_a_pod_and_a_container_that_are_killed_come_back(shipping: Shipping) -> None:
    pods = shipping.pods("shipnotes", "web")
    killed = pods[0]["metadata"]["name"]
    shipping.cluster.kubectl("delete", "pod", killed, "--grace-period=0", "--force")

    def replaced() -> bool:
        now = shipping.pods("shipnotes", "web")
        return killed not in {pod["metadata"]["name"] for pod in now} and len(now) == 2 and all_ready(now)

    until("the pod is not replaced", replaced)
    before = shipping.pods("shipnotes", "db")[0]["status"]["containerStatuses"][0]
    container = before["containerID"].removeprefix("containerd://")
    shipping.cluster.run(
        "ctr", "--address", "/run/containerd.sock", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", container
    )

    def restarted() -> bool:
        now = shipping.pods("shipnotes", "db")
        count = now[0]["status"]["containerStatuses"][0]["restartCount"] if now else 0
        return all_ready(now) and count > before["restartCount"]

    until("the database's container is not restarted", restarted)
    until("shipnotes does not answer", lambda: asyncio.run(shipping.ask("shipnotes.localhost", "/"))[0] == 200)


def test_a_rollout_under_load_drops_and_doubles_no_request(shipping: Shipping) -> None:
    shipping.up(ROOT / "tests" / "support" / "counter_app")

    async def main() -> tuple[dict[str, Any], list[str], list[str], int, float]:
        target = Target((shipping.cluster.address, HTTPS_PORT), "counter.localhost", "/", shipping.authority())
        load = Load(target, clients=CLIENTS)
        load.start()
        kubeconfig = str(shipping.cluster.kubeconfig())
        took = [s async for s in replace_pods(kubeconfig, "default", "counter-web", REPLACEMENTS)]
        await load.wait_for_requests(REQUESTS)
        result = await load.stop()
        executed = json.loads((await shipping.ask("counter.localhost", "/executed"))[1])
        return result.summary(), result.doubled(executed), result.lost(executed), len(took), sum(took) / len(took)

    summary, doubled, lost, replacements, seconds = asyncio.run(main())

    print(
        json.dumps(
            {**summary, "doubled": len(doubled), "replacements": replacements, "replacement_s": round(seconds, 2)}
        )
    )
    assert summary["failed"] == 0, summary["first_failures"]
    assert (doubled, lost) == ([], [])
    events = shipping.cluster.get("events", "-A", "--field-selector", "reason=FailedPreStopHook")["items"]
    assert events == [], "a kubelet could not ask whether the proxy had let go"


def test_without_a_default_storage_class_up_says_so_before_it_builds(shipping: Shipping) -> None:
    default = "storageclass.kubernetes.io/is-default-class"
    shipping.cluster.kubectl("annotate", "storageclass", "disks", f"{default}-")
    try:
        said = shipping.up(ROOT / "examples" / "shipnotes", fails=True)
    finally:
        shipping.cluster.kubectl("annotate", "storageclass", "disks", f"{default}=true")

    assert said.startswith("trimtab: no default StorageClass: the database's volume would wait forever (it has disks)")
