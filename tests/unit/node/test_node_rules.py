"""Service addresses, names, environment, images, admission, configuration: the pure parts."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from trimtab.api import from_wire
from trimtab.api.core import ConfigMap, Container, Pod, Secret, Service
from trimtab.api.networking import EndpointSlice
from trimtab.components.node import containerd, machine
from trimtab.components.node.admission import check_pod
from trimtab.components.node.configs import Made, NodeFacts, Resolver, container_config, hosts_file, sandbox_config
from trimtab.components.node.cri import explain, explain_pull
from trimtab.components.node.environment import ConfigProblem, Facts, environment, expand
from trimtab.components.node.images import credentials, policy_of, registry_of
from trimtab.components.node.names import Zone, resolve
from trimtab.components.node.rules import Backend, frontends
from trimtab.components.node.sandboxes import ImageInfo
from trimtab.runtime import Denied
from trimtab.runtime.settings import Settings

FACTS = Facts("10.0.0.2", "192.0.2.1", 2, 1 << 30)


def service(name: str = "web", **spec: Any) -> Service:
    body = {"clusterIP": "10.96.0.9", "ports": [{"port": 80, "name": "http"}], **spec}
    return from_wire(Service, {"metadata": {"name": name, "namespace": "shop"}, "spec": body})


def endpoints(*states: tuple[str, dict[str, bool]], name: str = "web", hostname: str = "") -> EndpointSlice:
    listed = [{"addresses": [ip], "conditions": c} | ({"hostname": hostname} if hostname else {}) for ip, c in states]
    meta = {"name": f"{name}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}}
    return from_wire(EndpointSlice, {"metadata": meta, "endpoints": listed, "ports": [{"name": "http", "port": 8080}]})


READY, UNREADY = {"ready": True}, {"ready": False}
LEAVING = {"ready": False, "serving": True, "terminating": True}


def test_ready_endpoints_serve_and_leaving_ones_only_when_there_are_none() -> None:
    [front] = frontends([service()], [endpoints(("10.0.0.3", READY), ("10.0.0.2", READY), ("10.0.0.4", LEAVING))])
    assert front.backends == (Backend("10.0.0.2", 8080), Backend("10.0.0.3", 8080))
    assert front.name == "shop/web:http"
    [front] = frontends([service()], [endpoints(("10.0.0.3", UNREADY), ("10.0.0.4", LEAVING))])
    assert front.backends == (Backend("10.0.0.4", 8080),)
    [front] = frontends([service()], [])
    assert front.backends == ()
    assert frontends([service(clusterIP="None"), service(type="ExternalName")], []) == []


def answer(name: str, services: list[Service], slices: list[EndpointSlice]) -> Any:
    known = {(s.name, s.namespace): s for s in services}
    networks = (ipaddress.IPv4Network("10.96.0.0/16"), ipaddress.IPv4Network("10.0.0.0/24"))
    zone = Zone("cluster.local", lambda n, ns: known.get((n, ns)), lambda ns: slices, lambda: services, networks)
    return resolve(name, zone)


def test_names_of_services() -> None:
    headless = service("each", clusterIP="None")
    outside = service("out", type="ExternalName", externalName="example.org")
    slices = [endpoints(("10.0.0.3", READY), ("10.0.0.4", UNREADY), name="each", hostname="each-0")]
    known = [service(), headless, outside]
    assert answer("web.shop.svc.cluster.local", known, slices).addresses == ("10.96.0.9",)
    assert answer("each.shop.svc.cluster.local", known, slices).addresses == ("10.0.0.3",)
    assert answer("each-0.each.shop.svc.cluster.local", known, slices).addresses == ("10.0.0.3",)
    assert not answer("each-1.each.shop.svc.cluster.local", known, slices).exists
    assert answer("out.shop.svc.cluster.local", known, slices).cname == "example.org"
    assert not answer("none.shop.svc.cluster.local", known, slices).exists
    assert answer("shop.svc.cluster.local", known, slices).exists
    assert answer("example.org", known, slices) is None
    assert answer("web.shop.svc.cluster.localhost", known, slices) is None


# Environment


async def test_the_environment_of_a_container() -> None:
    pod = from_wire(Pod, {"metadata": {"name": "p", "namespace": "shop", "annotations": {"x/y": "z"}}, "spec": {}})

    async def get(kind: type[Any], name: str, namespace: str | None = None, /) -> Any:
        found: dict[tuple[type[Any], str], Any] = {
            (ConfigMap, "conf"): ConfigMap(data={"A": "1"}),
            (ConfigMap, "odd"): ConfigMap(data={"a-b": "1", "c.d": "2", "3": "3"}),
            (Secret, "sec"): Secret(data={"k": "aGlkZGVu"}),
        }
        return found.get((kind, name))

    async def env(**container: Any) -> dict[str, str]:
        return await environment(
            pod, from_wire(Container, {"name": "c", **container}), get, FACTS, {"P_A": "0", "L": "l"}
        )

    assert await env(
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "conf"}}, {"secretRef": {"name": "no", "optional": True}}],
        env=[
            {"name": "B", "value": "$(P_A)$(C)$(L)"},
            {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['x/y']"}}},
        ],
    ) == {"P_A": "1", "L": "l", "B": "1$(C)l", "X": "z"}
    odd = await env(envFrom=[{"prefix": "p.", "configMapRef": {"name": "odd"}}])
    assert odd == {"P_A": "0", "L": "l", "p.a-b": "1", "p.c.d": "2", "p.3": "3"}, "no identifiers of C, all the same"
    cases = [
        (
            {"secretKeyRef": {"name": "sec", "key": "no"}},
            "couldn't find key no in secret sec, which the variable V needs",
        ),
        ({"configMapKeyRef": {"name": "no", "key": "k"}}, 'configmap "no" not found, which the variable V needs'),
        ({"fieldRef": {"fieldPath": "spec.nonsense"}}, "the downward API has no field spec.nonsense"),
        (
            {"resourceFieldRef": {"resource": "limits.gpu"}},
            "resourceFieldRef limits.gpu: use limits or requests of cpu or memory",
        ),
    ]
    for source, problem in cases:
        with pytest.raises(ConfigProblem, match=problem.replace("(", r"\(")):
            await env(env=[{"name": "V", "valueFrom": source}])
    with pytest.raises(ConfigProblem, match='secret "no" not found'):
        await env(envFrom=[{"secretRef": {"name": "no"}}])


def test_expansion() -> None:
    assert expand("$(A)-$$(A)-$(B)-$A", {"A": "1"}) == "1-$(A)-$(B)-$A"


# Images


@pytest.mark.parametrize(
    ("image", "registry", "policy"),
    [
        ("nginx", "docker.io", "Always"),
        ("library/nginx:1", "docker.io", "IfNotPresent"),
        ("localhost:5000/a/b:latest", "localhost:5000", "Always"),
        ("ghcr.io/a/b@sha256:0", "ghcr.io", "IfNotPresent"),
        ("trimtab.local/x:1", "trimtab.local", "IfNotPresent"),
    ],
)
def test_registries_and_policies(image: str, registry: str, policy: str) -> None:
    assert registry_of(image) == registry
    assert policy_of(Container(name="c", image=image)) == policy


def test_logins() -> None:
    config = {"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "ghcr.io": {"username": "a", "password": "b"}}}
    assert credentials(config, "docker.io") == {"username": "u", "password": "p"}
    assert credentials(config, "ghcr.io") == {"username": "a", "password": "b"}
    assert credentials(config, "quay.io") is None


def test_failures_in_plain_words() -> None:
    raw = (
        'rpc error: code = NotFound desc = failed to pull and unpack image "x": failed to resolve reference "x": '
        'failed to resolve reference "x": x: not found'
    )
    assert explain_pull(explain(raw)) == "no such image"
    assert explain("") == "containerd gave no reason"


# Admission


def refusal(**spec: Any) -> str:
    with pytest.raises(Denied) as caught:
        check_pod({"spec": {"containers": [{"name": "c"}], **spec}}, None)
    return str(caught.value)


def test_what_cannot_be_honoured_is_refused() -> None:
    assert refusal(hostUsers=False).startswith("spec.hostUsers: user namespaces are not supported")
    assert refusal(volumes=[{"name": "v", "nfs": {"server": "x"}}]) == (
        "spec.volumes[0].nfs: volumes of this type are not supported; "
        "use one of configMap, downwardAPI, emptyDir, hostPath, persistentVolumeClaim, projected, secret"
    )
    deep = {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "recursiveReadOnly": "Enabled"}]}
    assert refusal(initContainers=[deep]) == (
        "spec.initContainers[0].volumeMounts[0].recursiveReadOnly: Enabled is not supported; "
        'use "IfPossible", or leave it out'
    )
    six = {"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "::1"}]}
    assert refusal(containers=[six]) == (
        "spec.containers[0].ports[0].hostIP: pods have no IPv6 here; name an IPv4 address of the node"
    )
    assert refusal(hostnameOverride="x").startswith("spec.hostnameOverride: it is not supported")
    assert check_pod({"spec": {"hostUsers": False}}, {"spec": {}}) == [], "what is there already stays"


# Configuration


def made(pod: Pod, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "attempt": 0,
        "earned_s": 0,
        "env": {"A": "1"},
        "volumes": {},
        "image": ImageInfo("sha256:1", (), None, ""),
        "directory": Path("/pods/u"),
        "node_memory_bytes": 1 << 30,
    }
    return container_config(pod, pod.spec.containers[0], Made(**(values | changes)))


def pod_of(container: dict[str, Any] | None = None, **spec: Any) -> Pod:
    body = {"containers": [{"name": "c", "image": "i", **(container or {})}], **spec}
    return from_wire(Pod, {"metadata": {"name": "p", "namespace": "shop", "uid": "u"}, "spec": body})


def test_resources_and_scores() -> None:
    limits = {"resources": {"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "100m"}}}
    found = made(pod_of(limits))["linux"]["resources"]
    assert (found["cpu_quota"], found["cpu_shares"], found["memory_limit_in_bytes"]) == (25000, 102, 64 << 20)
    assert found["oom_score_adj"] == 999
    assert made(pod_of())["linux"]["resources"]["oom_score_adj"] == 1000


def test_security_defaults_and_wishes() -> None:
    plain = made(pod_of())["linux"]["security_context"]
    assert plain["seccomp"] == {"profile_type": 0}
    assert "/proc/kcore" in plain["masked_paths"]
    wished = made(
        pod_of({"securityContext": {"capabilities": {"add": ["CAP_NET_ADMIN"]}, "allowPrivilegeEscalation": False}})
    )
    assert wished["linux"]["security_context"]["capabilities"]["add_capabilities"] == ["NET_ADMIN"]
    assert wished["linux"]["security_context"]["no_new_privs"]
    with pytest.raises(ConfigProblem, match=r"image has non-numeric user \(app\), cannot verify"):
        made(pod_of(securityContext={"runAsNonRoot": True}), image=ImageInfo("i", (), None, "app"))
    with pytest.raises(ConfigProblem, match="volumeMounts of c: the pod has no volume v"):
        made(pod_of({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))


def test_names_within_a_pod() -> None:
    node = NodeFacts("/g", Resolver(("10.0.0.1",), ("corp",)), Resolver(("192.0.2.53",)), "cluster.local")
    config = sandbox_config(pod_of(), 0, Path("/pods/u"), node)
    assert config["dns_config"] == {
        "servers": ("10.0.0.1",),
        "searches": ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp"),
        "options": ("ndots:5",),
    }
    assert sandbox_config(pod_of(hostNetwork=True), 0, Path("/x"), node)["dns_config"]["servers"] == ("192.0.2.53",)
    named = pod_of(hostname="db-0", subdomain="db")
    assert "10.0.0.7\tdb-0.db.shop.svc.cluster.local db-0\n" in hosts_file(named, "10.0.0.7", "cluster.local")


def test_the_configuration_of_containerd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(id="abc123", data=str(tmp_path), run="/run/trimtab/abc123")
    monkeypatch.setattr(machine, "cgroups", lambda: machine.Cgroups(2, "systemd"))
    import tomllib

    found = tomllib.loads(containerd.containerd_config(settings))
    cri = found["plugins"]["io.containerd.grpc.v1.cri"]
    assert found["grpc"]["address"] == "/run/trimtab/abc123/containerd.sock"
    assert cri["sandbox_image"] == "trimtab.local/pause:1"
    assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True
    assert machine.Cgroups(2, "systemd").parent("/trimtab-abc123", "a-b") == "trimtab-abc123-poda_b.slice"
    assert machine.Cgroups(1, "cgroupfs").parent("/trimtab-abc123", "a-b") == "/trimtab-abc123/poda-b"
