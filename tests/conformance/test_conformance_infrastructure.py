"""Infrastructure beside an API server that is not its own: `trimtab run --only infrastructure`, a provider, a cloud.

The tests are in the order of a story, which begins with an installed provider and ends with a cluster in which nothing of it is left.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_process import ApiProcess
from composing_world import LAB
from engine_under_test import wait_for
from infrastructure_engine import READS, CloudEngine, provider_program, server
from kubectl_command import Kubectl, whole
from kubernetes_process import KubernetesProcess
from run_under_test import RunUnderTest, run_beside
from wheels import wheel

pytestmark = [pytest.mark.engine, *([] if os.environ.get("TRIMTAB_KUBERNETES") else [pytest.mark.long])]
"""At every change against the real server alone: what is kept on our own has tests of its own."""
GROUP = "cloud.tf.trimtab.dev/v1"
EXAMPLE = Path(__file__).parents[2] / "examples" / "lab"


@pytest.fixture(scope="module")
def world(kubeconfig: Path) -> Iterator[CloudEngine]:
    with run_beside(kubeconfig) as made:
        made.install()
        made.enable("cloud_server", "cloud_network", "cloud_cluster")
        made.credential()
        yield made


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


def test_run_needs_no_rights_but_those_of_its_role(
    world: CloudEngine, kubectl_as_admin: Kubectl, tmp_path: Path
) -> None:
    """From here on it has no others."""
    kubectl, run = kubectl_as_admin, world.engine
    assert isinstance(run, RunUnderTest)
    run.stop()
    run.user = kubectl.account("runner", world.folder)
    begun = run.run_once()
    assert begun.returncode == 1
    assert "the cluster does not let this user prepare it: " in begun.stderr
    assert "whoever runs it then needs the ClusterRole trimtab:controllers" in begun.stderr
    assert len(begun.stderr.splitlines()) == 1

    to = ("--clusterrole=trimtab:controllers", "--serviceaccount=default:runner")
    kubectl.done("create", "clusterrolebinding", "runner", *to)
    runner = Kubectl(run.user)
    wait_for(lambda: runner.rights()("list", "servers.cloud.tf.trimtab.dev"), 60, "the roles are one")
    run.start()

    kubectl.done("apply", given=server("web", size="large"))
    wait_for(lambda: world.cloud.all("servers")[0]["size"] == "large", 60, run.logs)
    kubectl.done("apply", given=server("web", size="small"))
    wait_for(lambda: world.cloud.all("servers")[0]["size"] == "small", 60, run.logs)
    guarded = ("clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io")
    guarded += ("customresourcedefinitions.apiextensions.k8s.io", "compositedefinitions.trimtab.dev", "pods")
    assert [kind for kind in guarded if runner.rights()("create", kind)] == []


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
    alone = [one for one in yaml.safe_load_all(published) if one["kind"] == "CompositeDefinition"]
    kubectl.done("apply", given=alone[0])
    said = world.until("CompositeDefinition", "labs.acme.example", status="False", reason="NotGranted")["message"]
    command = "trimtab composition grant labs.acme.example | kubectl apply -f -"
    assert command in said
    assert not kubectl.names("crds", "--selector=trimtab.dev/composed-api")
    kubectl.done("apply", given=world.engine.run("composition", "grant", "labs.acme.example").stdout)
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


def test_accounts_may_do_what_their_roles_say(world: CloudEngine, kubectl_as_admin: Kubectl, tmp_path: Path) -> None:
    """Each has one role in one namespace: of Kubernetes' own with what is aggregated into them, or of ours alone."""
    kubectl = kubectl_as_admin
    roles = {"reader": "view", "maker": "edit", "claimer": "trimtab:composition:labs.acme.example:edit"}
    roles["server-maker"] = "trimtab:provider:cloud:edit"
    users = {name: Kubectl(kubectl.account(name, tmp_path)) for name in roles}
    group = "rbac.authorization.k8s.io"
    bindings = [
        {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": {"name": name}}
        | {"roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role}}
        | {"subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]}
        for name, role in roles.items()
    ]
    kubectl.done("apply", given={"apiVersion": "v1", "kind": "List", "items": bindings})
    wait_for(lambda: users["maker"].rights()("create", "labs.acme.example"), 60, "the roles are one")

    own = (
        "providerconfigs",
        "clustermanifests",
        "infrastructurereviews",
        "compositedefinitions",
        "providers",
        "effects",
    )
    kinds = ("servers.cloud.tf.trimtab.dev", "labs.acme.example", "secrets", *(f"{kind}.trimtab.dev" for kind in own))
    here = {name: user.rights() for name, user in users.items()}
    assert {name: [kind for kind in kinds if may("create", kind)] for name, may in here.items()} == {
        "reader": [],
        "maker": [*kinds[:6]],
        "claimer": ["labs.acme.example"],
        "server-maker": ["servers.cloud.tf.trimtab.dev"],
    }
    elsewhere = [user.rights("kube-system") for user in users.values()]
    assert not any(may("list", kind) for may in elsewhere for kind in kinds)
    assert here["reader"]("list", "labs.acme.example")
    assert not here["reader"]("get", "secrets")

    lab = {"apiVersion": "acme.example/v1alpha1", "kind": "Lab", "metadata": {"name": "theirs"}}
    lab["spec"] = {"region": "eu", "hosts": 1}
    alone = server("alone")
    (tmp_path / "alone.json").write_text(json.dumps(alone))
    for name, given in (("reader", lab), ("server-maker", lab), ("claimer", alone)):
        refused = users[name]("apply", given=given)
        assert refused.returncode == 1
        assert f'User "system:serviceaccount:default:{name}" cannot' in refused.stderr
    users["claimer"].done("apply", given=lab)
    users["server-maker"].done("apply", given=alone)
    world.until("Lab", "theirs")
    world.until("Server", "alone")

    def plans(name: str, what: Path) -> subprocess.CompletedProcess[str]:
        command = world.engine.command("plan", "-f", str(what))
        command[command.index("--kubeconfig") + 1] = str(users[name].kubeconfig)
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)

    alone["spec"]["forProvider"]["size"] = "big"
    (tmp_path / "alone.json").write_text(json.dumps(alone))
    planned = plans("maker", tmp_path / "alone.json")
    assert planned.returncode == 2, planned.stderr
    assert '~ size: "small" -> "big"  # spec' in planned.stdout
    refused = plans("server-maker", tmp_path / "alone.json")
    assert refused.returncode == 1
    assert 'cannot create resource "infrastructurereviews"' in refused.stdout + refused.stderr

    users["claimer"].done("delete", "labs.acme.example", "theirs")
    users["server-maker"].done("delete", "servers.cloud.tf.trimtab.dev", "alone")
    assert [one["name"] for one in world.cloud.all("servers")] == ["web"]


def test_a_namespace_goes_with_all_of_it_at_once(
    world: CloudEngine, kubectl_as_admin: Kubectl, kubeconfig: Path
) -> None:
    kubectl, start = Kubectl(kubeconfig, "leaving"), len(world.cloud.log)
    kubectl.done("create", "namespace", "leaving")
    world.cloud.kubeconfig = whole(kubeconfig)
    world.credential(namespace="leaving")
    refers = [{"field": "network", "source": {"kind": "Network", "name": "main", "field": "id"}}]
    network = {"apiVersion": GROUP, "kind": "Network", "metadata": {"name": "main"}}
    network["spec"] = {"forProvider": {"name": "main", "range": "10.0.0.0/16"}, "interval": "1s"}
    cluster = {"apiVersion": GROUP, "kind": "Cluster", "metadata": {"name": "prod"}}
    connection = {"secretName": "prod", "data": {"kubeconfig": "{{ kubeconfig | b64decode }}"}}
    cluster["spec"] = {"forProvider": {"name": "prod"}, "interval": "1s", "connection": connection}
    inside = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ClusterManifests", "metadata": {"name": "in-prod"}}
    within = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "in-there", "namespace": "default"}}
    inside["spec"] = {"kubeconfig": {"name": "prod", "key": "kubeconfig"}, "manifests": [within], "interval": "1s"}
    lab = {"apiVersion": "acme.example/v1alpha1", "kind": "Lab", "metadata": {"name": "lab"}}
    lab["spec"] = {"region": "eu", "hosts": 1}
    kept = server("db", spec={"references": refers, "policy": {"delete": "deny"}}, namespace="leaving")
    kubectl.done("apply", given={"apiVersion": "v1", "kind": "List", "items": [kept, network, cluster, inside, lab]})
    for kind, name in (("Server", "db"), ("Network", "main"), ("Lab", "lab"), ("ClusterManifests", "in-prod")):
        world.until(kind, name, namespace="leaving")
    assert kubectl_as_admin.names("configmaps", "in-there") == ["configmap/in-there"]
    # What is being made while the namespace goes, and its answer is late.
    begun = len(world.cloud.log)
    world.cloud.faults = {"slow_s": 1.0}
    kubectl.done("apply", given=server("late", namespace="leaving"))
    wait_for(lambda: any(method == "POST" for _, method, _ in world.cloud.log[begun:]), 60, "it is being made")

    kubectl.done("delete", "namespace", "leaving", "--wait=false")

    world.until("Server", "db", "Synced", "False", "DeleteDenied", namespace="leaving")
    world.until("Network", "main", "Synced", "False", "InUse", namespace="leaving")
    world.cloud.faults = {}

    def left() -> list[str]:
        return sorted(one["name"] for kind in ("servers", "networks", "clusters") for one in world.cloud.all(kind))

    wait_for(lambda: left() == ["db", "main", "web"], 60, lambda: f"the others go: {left()} {world.engine.logs()}")
    assert kubectl_as_admin.names("configmaps", "in-there") == []
    secrets = kubectl.names("secrets")
    assert {"secret/cloud-default", "secret/db-server-state", "secret/main-network-state"} <= set(secrets)
    status = json.loads(kubectl.done("get", "namespace", "leaving", "-o", "json"))["status"]
    assert status["phase"] == "Terminating"

    let = json.dumps({"spec": {"policy": {"delete": "delete"}}})
    kubectl.done("patch", "servers.cloud.tf.trimtab.dev", "db", "--type=merge", "-p", let)
    wait_for(
        lambda: not kubectl_as_admin.names("namespace", "leaving", "--ignore-not-found"), 90,
        lambda: f"the namespace goes: {kubectl.done('get', 'namespace', 'leaving', '-o', 'yaml')}{world.engine.logs()}",
    )  # fmt: skip
    assert left() == ["web"]
    made = [path.split("/")[1] for _, method, path in world.cloud.log[start:] if method == "POST"]
    deleted = [path.split("/")[1] for _, method, path in world.cloud.log[start:] if method == "DELETE"]
    assert deleted[-2:] == ["servers", "networks"]
    assert sorted(made) == sorted(deleted) == ["clusters", "networks", "networks", "servers", "servers", "servers"]


def test_a_composition_comes_as_a_package_with_its_hashes(
    world: CloudEngine, kubectl_as_admin: Kubectl, tmp_path: Path
) -> None:
    """In the place of the function that the definition held itself."""
    kubectl, run = kubectl_as_admin, world.engine.run
    tmp_path.chmod(0o755)
    files = {str(path.relative_to(EXAMPLE)): path.read_text() for path in (EXAMPLE / "acme_lab").glob("*.py")}
    made = wheel(tmp_path, "acme_lab", "1.0.0", files)
    lock = tmp_path / "lock.txt"
    lock.write_text(f"acme-lab==1.0.0 --hash=sha256:{hashlib.sha256(made.read_bytes()).hexdigest()}\n")
    said = run("composition", "install", "acme-lab==1.0.0", "--path", str(tmp_path), "--lock", str(lock)).stdout
    assert said == "acme-lab==1.0.0: installed, 1 package\n"

    named = ("--package", "acme-lab==1.0.0", "--function", "acme_lab:compose")
    kubectl.done("apply", given=run("composition", "render", *named).stdout)
    world.until("CompositeDefinition", "labs.acme.example")
    lab = {"apiVersion": "acme.example/v1alpha1", "kind": "Lab", "metadata": {"name": "two"}}
    lab["spec"] = {"region": "eu", "hosts": 2}
    kubectl.done("apply", given=lab)
    world.until("Lab", "two")
    assert len(json.loads(kubectl.done("get", "labs.acme.example", "two", "-o", "json"))["status"]["addresses"]) == 2
    kubectl.done("delete", "labs.acme.example", "two")
    assert [one["name"] for one in world.cloud.all("servers")] == ["web"]
    kubectl.done("delete", "compositedefinitions", "labs.acme.example")
    run("composition", "remove", "acme-lab==1.0.0")


def test_a_job_brings_back_what_was_in_a_lost_resource(
    world: CloudEngine, kubectl_as_admin: Kubectl, api: KubernetesProcess | ApiProcess | None
) -> None:
    if not isinstance(api, KubernetesProcess):
        pytest.skip("no controller of Jobs beside this API")
    kubectl = kubectl_as_admin
    cluster: dict[str, Any] = {"apiVersion": GROUP, "kind": "Cluster", "metadata": {"name": "data"}}
    job = {
        "backoffLimit": 0,
        "template": {"spec": {"containers": [{"name": "restore", "image": "example.test/restore"}]}},
    }
    connection = {"secretName": "data", "data": {"kubeconfig": "{{ kubeconfig | b64decode }}"}}
    cluster["spec"] = {"forProvider": {"name": "data"}, "interval": "1s", "connection": connection}
    cluster["spec"]["restoreFrom"] = {"job": job}
    kubectl.done("apply", given=cluster)
    world.until("Cluster", "data")
    assert kubectl.names("jobs") == []

    world.cloud.remove("clusters", world.cloud.all("clusters")[0]["id"])
    waits = "waits for a controller of Jobs"
    wait_for(lambda: waits in world.condition("Cluster", "data", "Ready").get("message", ""), 60, world.engine.logs)
    with api.also("job-controller"):
        [pod] = wait_for(lambda: kubectl.names("pods"), 60, "the Job has a pod")
        began = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:07Z", "exitCode": 1}
        failed = {"name": "restore", "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
        failed["state"] = {"terminated": began | {"message": "connecting\nno such dump\n"}}
        kubelet(kubectl, pod, {"phase": "Failed", "containerStatuses": [failed]})
        said = world.until("Cluster", "data", status="False", reason="RestoreFailed")["message"]
        assert "no such dump (exit 1); kubectl delete job " in said
        kubectl.done("delete", *said.split("kubectl delete ")[1].split()[:2])
        [pod] = wait_for(lambda: [one for one in kubectl.names("pods") if one != pod], 60, "it is run again")
        kubelet(kubectl, pod, {"phase": "Succeeded"})
        world.until("Cluster", "data")
    assert len(world.cloud.all("clusters")) == 1
    kubectl.done("delete", "clusters.cloud.tf.trimtab.dev", "data")
    wait_for(lambda: kubectl.names("jobs,pods") == [], 60, lambda: str(kubectl.names("jobs,pods")))
    assert world.cloud.all("clusters") == []


def kubelet(kubectl: Kubectl, pod: str, status: dict[str, Any]) -> None:
    """Says of a pod what its kubelet would say."""
    kubectl.done("patch", pod, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def test_an_api_server_that_is_killed_doubles_and_leaks_nothing(
    world: CloudEngine, kubectl_as_admin: Kubectl, api: KubernetesProcess | ApiProcess | None
) -> None:
    if api is None:
        pytest.skip("this API is somebody else's, not to be killed")
    kubectl = kubectl_as_admin
    kind, run = "servers.cloud.tf.trimtab.dev", world.engine
    assert isinstance(run, RunUnderTest)
    before, after = [f"before-{number}" for number in range(3)], [f"after-{number}" for number in range(3)]

    def apply(names: Sequence[str]) -> None:
        kubectl.done("apply", given={"apiVersion": "v1", "kind": "List", "items": [server(name) for name in names]})

    def asked(method: str) -> int:
        return sum(1 for _, used, _ in world.cloud.log[start:] if used == method)

    apply(before)
    for name in before:
        world.until("Server", name)
    start = len(world.cloud.log)
    world.cloud.faults = {"slow_s": 0.7}
    kubectl.done("delete", kind, *before, "--wait=false")
    apply(after)
    wait_for(lambda: asked("POST") and asked("DELETE"), 60, "both have begun")
    api.kill()
    # Away for so long that whoever leads has to give up, and begins anew.
    lost = "the lease trimtab-system/trimtab-controllers could not be renewed for 10 s; starting anew"
    wait_for(lambda: lost in run.said(), 60, run.logs)
    api.start()
    world.cloud.faults = {}

    for name in after:
        world.until("Server", name)
    wait_for(lambda: not [one for one in kubectl.names(kind) if "before" in one], 60, world.engine.logs)
    assert sorted(one["name"] for one in world.cloud.all("servers")) == [*after, "web"]
    assert (asked("POST"), asked("DELETE")) == (3, 3)
    kubectl.done("delete", kind, *after)


def test_a_run_that_was_killed_holds_up_no_write(world: CloudEngine, kubectl_as_admin: Kubectl) -> None:
    kubectl = kubectl_as_admin
    kubectl.done("create", "namespace", "brief")
    world.credential(namespace="brief")
    kubectl.done("apply", "-n", "brief", given=server("brief", namespace="brief"))
    world.until("Server", "brief", namespace="brief")
    world.engine.stop(signal.SIGKILL)
    assert kubectl.names("validatingwebhookconfigurations") != []

    assert kubectl("apply", given=server("meanwhile")).returncode == 0
    assert kubectl("apply", "--dry-run=server", given=server("meanwhile", size="big")).returncode == 0

    kubectl.done("delete", "namespace", "brief", "--wait=false")

    world.engine.start()
    world.until("Server", "meanwhile")
    wait_for(lambda: not kubectl.names("namespace", "brief", "--ignore-not-found"), 60, "the namespace goes")
    assert sorted(one["name"] for one in world.cloud.all("servers")) == ["meanwhile", "web"]
    assert "There is no region moon" in kubectl("apply", given=server("wrong", region="moon")).stderr
    assert "does not reach" not in world.engine.said()


def test_in_the_end_nothing_of_it_is_left(world: CloudEngine, kubectl_as_admin: Kubectl) -> None:
    kubectl, run = kubectl_as_admin, world.engine.run
    too_early = run("provider", "disable", "cloud", "*", check=False)
    assert "there are objects of it, which would be deleted with it: Server default/meanwhile" in too_early.stderr
    assert kubectl("delete", "servers.cloud.tf.trimtab.dev", "--all").returncode == 0
    assert world.cloud.all("servers") == []
    kubectl.done("delete", "providerconfigs", "default")
    kubectl.done("delete", "secret", "cloud-default")

    run("provider", "disable", "cloud", "*")
    wait_for(lambda: not kubectl.names("validatingwebhookconfigurations"), 60, "nothing is asked any more")
    run("provider", "remove", "cloud")
    working = run("uninstall", "--yes", check=False)
    assert "`trimtab run` works for this cluster" in working.stderr
    world.engine.stop()
    run("uninstall", "--yes")

    wait_for(lambda: not [name for name in kubectl.names("crds") if "trimtab.dev" in name], 60, "the kinds are gone")
    assert "clusterrolebinding.rbac.authorization.k8s.io/runner" not in kubectl.names("clusterrolebindings")
    assert [name for name in kubectl.names("clusterroles,clusterrolebindings") if "/trimtab:" in name] == []
    assert kubectl.names("ingressclasses,validatingwebhookconfigurations") == []
    wait_for(
        lambda: not kubectl.names("namespace", "trimtab-system", "--ignore-not-found"), 60, "its namespace is gone"
    )
    # What has an owner the cluster's garbage collection takes; the embedded server by itself has none.
    found = json.loads(kubectl("get", "secrets,configmaps", "-o", "json").stdout)["items"]
    left = [one["metadata"] for one in found if one["metadata"]["name"] != "kube-root-ca.crt"]
    assert [meta["name"] for meta in left if not meta.get("ownerReferences")] == []
    assert not world.engine.data.exists()
