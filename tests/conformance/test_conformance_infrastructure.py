"""Infrastructure beside an API server that is not its own: `trimtab run --only infrastructure`, a provider, a cloud.

The tests are in the order of a story, which begins with an installed provider and ends with a cluster in which nothing of it is left.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from composing_world import LAB
from engine_under_test import wait_for
from infrastructure_engine import READS, CloudEngine, provider_program, server
from run_under_test import run_beside

pytestmark = [pytest.mark.engine, *([] if os.environ.get("TRIMTAB_KUBERNETES") else [pytest.mark.long])]
"""At every change against the real server alone: what is kept on our own has tests of its own."""
GROUP = "cloud.tf.trimtab.dev/v1"


@pytest.fixture(scope="module")
def world(kubeconfig: Path) -> Iterator[CloudEngine]:
    with run_beside(kubeconfig) as made:
        made.install()
        made.enable("cloud_server", "cloud_network")
        made.credential()
        yield made


class Kubectl:
    def __init__(self, kubeconfig: Path) -> None:
        program = shutil.which("kubectl")
        if program is None:
            pytest.skip("kubectl is not on PATH: install it to check that it works with this API")
        self._start = [program, "--kubeconfig", str(kubeconfig), "-n", "default"]

    def __call__(self, *arguments: str, given: Any = None) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as cache:
            return subprocess.run(
                [*self._start, "--cache-dir", cache, *arguments, *(() if given is None else ("-f", "-"))],
                input=given if given is None or isinstance(given, str) else json.dumps(given),
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip

    def names(self, kind: str, *more: str) -> list[str]:
        """Of all that there are."""
        return self("get", kind, "-o", "name", *more).stdout.split()


def ask(url: str, authority: str) -> None:
    """Asks as an API server does."""
    trusted = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
    urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=60, context=trusted).close()


@pytest.fixture
def kubectl_as_admin(kubeconfig: Path) -> Kubectl:
    return Kubectl(kubeconfig)


def test_an_object_is_kept_as_it_says(world: CloudEngine, kubectl_as_admin: Kubectl) -> None:
    kubectl = kubectl_as_admin
    assert kubectl("apply", given=server("web", size="small")).returncode == 0
    world.until("Server", "web")
    [made] = world.cloud.all("servers")

    world.cloud.change("servers", made["id"], size="hacked")
    wait_for(lambda: world.cloud.all("servers")[0]["size"] == "small", 60, "what somebody changed is set back")

    world.cloud.remove("servers", made["id"])
    wait_for(lambda: world.cloud.all("servers"), 60, "what somebody deleted is made anew")
    world.until("Server", "web")
    said = world.engine.run("timeline", "Server/web", "--state", str(world.engine.data), "-n", "default").stdout
    assert "drift" in said or "gone" in said


def test_the_provider_speaks_when_a_write_is_made(world: CloudEngine, kubectl_as_admin: Kubectl) -> None:
    kubectl = kubectl_as_admin
    refused = kubectl("apply", given=server("wrong", region="moon"))
    assert refused.returncode == 1
    assert "spec.forProvider.region: There is no region moon" in refused.stderr

    tried = kubectl("apply", "--dry-run=server", given=server("web", size="big"))
    assert tried.returncode == 0, tried.stderr
    assert 'Warning: plan:     ~ size: "small" -> "big"  # spec' in tried.stderr
    assert world.cloud.all("servers")[0]["size"] == "small"

    hooks = json.loads(kubectl("get", "validatingwebhookconfigurations", "trimtab-infrastructure", "-o", "json").stdout)
    address, _, _ = hooks["webhooks"][0]["clientConfig"]["url"].rpartition("/")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(address.rpartition("/")[0] + "/" + "k" * 43 + "/takes", hooks["webhooks"][0]["clientConfig"]["caBundle"])

    kept = server("kept", spec={"policy": {"delete": "deny"}})
    assert kubectl("apply", given=kept).returncode == 0
    denied = kubectl("delete", "servers.cloud.tf.trimtab.dev", "kept")
    assert denied.returncode == 1
    assert "spec.policy.delete is deny, which keeps the resource and this object" in denied.stderr
    kept["spec"]["policy"] = {"delete": "delete"}
    assert kubectl("apply", given=kept).returncode == 0
    assert kubectl("delete", "servers.cloud.tf.trimtab.dev", "kept").returncode == 0


def test_a_plan_is_made_before_anything_is(world: CloudEngine, tmp_path: Path) -> None:
    refers = [{"field": "network", "source": {"kind": "Network", "name": "inner", "field": "id"}}]
    network = {"apiVersion": GROUP, "kind": "Network", "metadata": {"name": "inner"}}
    network["spec"] = {"forProvider": {"name": "inner", "range": "10.0.0.0/16"}}
    objects = [
        server("behind", spec={"references": refers}),
        network,
        server("web", size="big"),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain"}, "data": {"a": "b"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "to-come"}, "stringData": {"password": "hunter2"}},
        server("guarded", passwordSecretRef={"name": "to-come", "key": "password"}),
    ]
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    done = world.engine.run("plan", "-f", str(file), "-o", "json", check=False)

    assert done.returncode == 2, done.stderr
    told = json.loads(done.stdout)
    assert {one["name"]: one["action"] for one in told["objects"]} == {
        "plain": "create", "to-come": "create", "inner": "create", "behind": "create", "web": "update", "guarded": "create",
    }  # fmt: skip
    behind = next(one for one in told["objects"] if one["name"] == "behind")
    assert {"path": "network", "after": "(known after apply)"}.items() <= next(
        change for change in behind["changes"] if change["path"] == "network"
    ).items()
    [change] = next(one for one in told["objects"] if one["name"] == "web")["changes"]
    assert (change["path"], change["before"], change["after"], change["cause"]) == ("size", "small", "big", "spec")
    guarded = next(one for one in told["objects"] if one["name"] == "guarded")
    assert (guarded["reason"], guarded["message"]) == ("", "")  # the value was there for who planned it
    assert "hunter2" not in done.stdout
    assert world.cloud.all("networks") == []

    [there] = world.cloud.all("servers")
    assert there["id"] in world.engine.run("provider", "import", "cloud", "cloud_server").stdout
    newer = provider_program(world.folder, "newer")
    reads = [part for path in READS for part in ("--read", path)]
    upgraded = world.engine.run("provider", "upgrade", "cloud@1.1.0", "--path", str(newer), *reads)
    assert "cloud: 1.1.0 runs now, and 1.0.0 stays here" in upgraded.stdout

    same = world.engine.run("plan", "-A", check=False)
    assert (same.returncode, same.stdout) == (0, "No changes; 1 is as it should be.\n")
    assert world.engine.run("get", "infrastructurereviews", "-A", "-o", "json").stdout.count('"question"') == 0


def test_who_may_ask_is_said_by_the_clusters_own_roles(
    world: CloudEngine, kubeconfig: Path, kubectl_as_admin: Kubectl, tmp_path: Path
) -> None:
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"][0]["user"]["as"] = "anna"
    annas = tmp_path / "anna.kubeconfig"
    annas.write_text(json.dumps(config))

    def plans(*what: str) -> subprocess.CompletedProcess[str]:
        world.engine.kubeconfig, before = annas, world.engine.kubeconfig
        try:
            return world.engine.run("plan", *(what or ("-f", str(tmp_path / "web.json"))), check=False)
        finally:
            world.engine.kubeconfig = before

    (tmp_path / "web.json").write_text(json.dumps(server("web", size="big")))
    refused = plans()
    assert refused.returncode == 1
    assert 'User "anna" cannot' in refused.stdout + refused.stderr

    bound = kubectl_as_admin("create", "rolebinding", "annas", "--clusterrole=edit", "--user=anna")
    assert bound.returncode == 0, bound.stderr
    try:
        wait_for(lambda: plans().returncode == 2, 60, lambda: str(plans()))
        assert plans("-n", "default").stdout == "No changes; 1 is as it should be.\n"
        elsewhere = plans("-n", "kube-system")
        assert elsewhere.returncode == 1
        assert 'User "anna" cannot list resource' in elsewhere.stderr
    finally:
        kubectl_as_admin("delete", "rolebinding", "annas")


def test_a_claim_is_composed_of_objects_of_providers(
    world: CloudEngine, kubectl_as_admin: Kubectl, tmp_path: Path
) -> None:
    kubectl = kubectl_as_admin
    (tmp_path / "lab.py").write_text(LAB)
    published = world.engine.run("composition", "render", str(tmp_path / "lab.py")).stdout
    assert kubectl("apply", given=published).returncode == 0
    world.until("CompositeDefinition", "labs.acme.example")
    claim: dict[str, Any] = {"apiVersion": "acme.example/v1alpha1", "kind": "Lab"}
    claim |= {"metadata": {"name": "lab", "namespace": "default"}, "spec": {"region": "eu", "hosts": 1}}
    (tmp_path / "claim.json").write_text(json.dumps(claim))

    planned = world.engine.run("plan", "-f", str(tmp_path / "claim.json"), check=False)
    assert planned.returncode == 2, planned.stderr
    assert "+ Network default/lab-net: create" in planned.stdout
    assert "+ network: (known after apply)" in planned.stdout

    assert kubectl("apply", given=claim).returncode == 0
    world.until("Lab", "lab")
    assert len(world.cloud.all("networks")) == 1

    assert kubectl("delete", "labs.acme.example", "lab").returncode == 0
    wait_for(lambda: not world.cloud.all("networks"), 60, "the network goes, after the host in it")
    deleted = [path.split("/")[1] for _, method, path in world.cloud.log if method == "DELETE"]
    assert deleted[-2:] == ["servers", "networks"]
    assert kubectl("delete", "compositedefinitions", "labs.acme.example").returncode == 0


def test_a_run_that_was_killed_holds_up_no_write(world: CloudEngine, kubectl_as_admin: Kubectl) -> None:
    kubectl = kubectl_as_admin
    world.engine.stop(signal.SIGKILL)
    assert kubectl.names("validatingwebhookconfigurations") != []

    assert kubectl("apply", given=server("meanwhile")).returncode == 0
    assert kubectl("apply", "--dry-run=server", given=server("meanwhile", size="big")).returncode == 0

    world.engine.start()
    world.until("Server", "meanwhile")
    assert "There is no region moon" in kubectl("apply", given=server("wrong", region="moon")).stderr
    assert "does not reach" not in world.engine.said()


def test_in_the_end_nothing_of_it_is_left(world: CloudEngine, kubectl_as_admin: Kubectl) -> None:
    kubectl, run = kubectl_as_admin, world.engine.run
    too_early = run("provider", "disable", "cloud", "*", check=False)
    assert "there are objects of it, which would be deleted with it: Server default/meanwhile" in too_early.stderr
    assert kubectl("delete", "servers.cloud.tf.trimtab.dev", "--all").returncode == 0
    assert world.cloud.all("servers") == []
    kubectl("delete", "providerconfigs", "default")
    kubectl("delete", "secret", "cloud-default")

    run("provider", "disable", "cloud", "*")
    wait_for(lambda: not kubectl.names("validatingwebhookconfigurations"), 60, "nothing is asked any more")
    run("provider", "remove", "cloud")
    working = run("uninstall", "--yes", check=False)
    assert "`trimtab run` works for this cluster" in working.stderr
    world.engine.stop()
    run("uninstall", "--yes")

    wait_for(lambda: not [name for name in kubectl.names("crds") if "trimtab.dev" in name], 60, "the kinds are gone")
    assert [name for name in kubectl.names("clusterroles,clusterrolebindings") if "/trimtab:" in name] == []
    # What has an owner the cluster's garbage collection takes; the embedded server by itself has none.
    found = json.loads(kubectl("get", "secrets,configmaps", "-o", "json").stdout)["items"]
    left = [one["metadata"] for one in found if one["metadata"]["name"] != "kube-root-ca.crt"]
    assert [meta["name"] for meta in left if not meta.get("ownerReferences")] == []
    assert not world.engine.data.exists()
