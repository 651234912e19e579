"""From a pod's spec to the CRI messages that make its sandbox and its containers. Pure.

Defaults that the spec leaves open are the careful ones: the default seccomp profile, masked kernel files, no privileges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.api.core import Container, Pod
from trimtab.api.quantity import milli, whole
from trimtab.api.security import PodSecurityContext
from trimtab.components.node.backoff import EARNED
from trimtab.components.node.decide import FALLBACK, IMAGE, IMAGE_ID, all_containers
from trimtab.components.node.environment import ConfigProblem, expand, unknown
from trimtab.components.node.resize import RESOURCES, text_of
from trimtab.components.node.sandboxes import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID, ImageInfo
from trimtab.components.node.security import PROFILE_DEFAULT, container_security
from trimtab.components.node.status import qos_class
from trimtab.components.node.volumes import HostVolume, sub_path

NAMESPACE_POD, NAMESPACE_CONTAINER, NAMESPACE_NODE, NAMESPACE_TARGET = 0, 1, 2, 3
PROPAGATION_PRIVATE = 0
CPU_PERIOD_US = 100_000
CPU_QUOTA_US_MIN = 1000
CPU_SHARES_MIN, CPU_SHARES_PER_CORE = 2, 1024

TERMINATION_LOG = "/dev/termination-log"
HOSTNAME_LENGTH_MAX = 63
FQDN_LENGTH_MAX = 64
"""What the kernel takes as a host's name."""


@dataclass(frozen=True)
class Resolver:
    """What goes into a pod's resolv.conf."""

    servers: tuple[str, ...]
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeFacts:
    """What every pod of this node is configured with."""

    cgroup_parent: str
    cluster_dns: Resolver
    host_dns: Resolver
    cluster_domain: str
    profiles: Path = Path("/nonexistent")
    """Where the node's seccomp profiles are."""


def pod_hostname(pod: Pod, cluster_domain: str) -> str:
    """What the pod's containers call their machine.

    Raises:
        ConfigProblem: the full name that it asks for is longer than a kernel takes.
    """
    name = (pod.spec.hostname or pod.name)[:HOSTNAME_LENGTH_MAX].rstrip("-.")
    if not (pod.spec.set_hostname_as_fqdn and pod.spec.subdomain):
        return name
    full = f"{name}.{pod.spec.subdomain}.{pod.namespace}.svc.{cluster_domain}"
    if len(full) > FQDN_LENGTH_MAX:
        raise ConfigProblem(
            f"setHostnameAsFQDN: {full} has {len(full)} characters, the kernel takes {FQDN_LENGTH_MAX}: "
            "choose a shorter hostname or subdomain, or leave it out"
        )
    return full


def labels(pod: Pod) -> dict[str, str]:
    return {POD_UID: pod.metadata.uid, POD_NAME: pod.name, POD_NAMESPACE: pod.namespace or ""}


def sandbox_config(pod: Pod, attempt: int, directory: Path, node: NodeFacts) -> dict[str, Any]:
    """The `PodSandboxConfig`. directory: the pod's own directory, below which its logs go.

    Raises:
        ConfigProblem: the pod asks for a name that cannot be.
    """
    security = pod.spec.security_context or PodSecurityContext()
    resolver = _resolver(pod, node)
    return {
        "metadata": {
            "name": pod.name,
            "uid": pod.metadata.uid,
            "namespace": pod.namespace or "",
            "attempt": attempt,
        },
        "hostname": "" if pod.spec.host_network else pod_hostname(pod, node.cluster_domain),
        "log_directory": str(directory / "logs"),
        "dns_config": {
            "servers": resolver.servers,
            "searches": resolver.searches,
            "options": resolver.options,
        },
        "labels": labels(pod),
        "linux": {
            "cgroup_parent": node.cgroup_parent,
            "sysctls": {one.name: one.value for one in security.sysctls},
            "security_context": {
                "namespace_options": _namespaces(pod),
                "seccomp": {"profile_type": PROFILE_DEFAULT},
                "supplemental_groups": security.supplemental_groups,
                "privileged": any(c.security_context and c.security_context.privileged for c in all_containers(pod)),
            },
        },
    }


def _namespaces(pod: Pod, target: str = "") -> dict[str, Any]:
    """Which namespaces the pod's containers share with each other or with the node; `target`: one of them, whose processes
    this one is among."""
    pid = NAMESPACE_POD if pod.spec.share_process_namespace else NAMESPACE_CONTAINER
    shared: dict[str, Any] = {
        "network": NAMESPACE_NODE if pod.spec.host_network else NAMESPACE_POD,
        "pid": NAMESPACE_NODE if pod.spec.host_pid else pid,
        "ipc": NAMESPACE_NODE if pod.spec.host_ipc else NAMESPACE_POD,
    }
    return shared | {"pid": NAMESPACE_TARGET, "target_id": target} if target else shared


def _resolver(pod: Pod, node: NodeFacts) -> Resolver:
    """The policy's resolver, and what `dnsConfig` adds to it."""
    policy = pod.spec.dns_policy or "ClusterFirst"
    if policy == "None":
        base = Resolver(())
    elif policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.spec.host_network):
        domain = node.cluster_domain
        searches = (f"{pod.namespace}.svc.{domain}", f"svc.{domain}", domain, *node.cluster_dns.searches)
        base = Resolver(node.cluster_dns.servers, searches, ("ndots:5",))
    else:
        base = node.host_dns
    config = pod.spec.dns_config
    if config is None:
        return base
    options = dict(option.partition(":")[::2] for option in base.options)
    options |= {option.name: option.value or "" for option in config.options}
    return Resolver(
        tuple(dict.fromkeys((*base.servers, *config.nameservers))),
        tuple(dict.fromkeys((*base.searches, *config.searches))),
        tuple(f"{name}:{value}" if value else name for name, value in options.items()),
    )


HOSTS_HEADER = "# Kubernetes-managed hosts file.\n"
"""The kubelet's own words, by which images tell whose file it is."""


def hosts_file(pod: Pod, ip: str, cluster_domain: str, of_node: str = "") -> str:
    """/etc/hosts of the pod's containers. of_node: the machine's own, which pods on its network have besides."""
    name = (pod.spec.hostname or pod.name)[:HOSTNAME_LENGTH_MAX].rstrip("-.")
    names = [name]
    if pod.spec.subdomain:
        names.insert(0, f"{name}.{pod.spec.subdomain}.{pod.namespace}.svc.{cluster_domain}")
    if pod.spec.host_network:
        text = "# Kubernetes-managed hosts file (host network).\n" + of_node
        text += "" if text.endswith("\n") else "\n"
    else:
        text = (
            f"{HOSTS_HEADER}127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ip}\t{' '.join(names)}\n"
        )
    aliases = "".join(f"{alias.ip}\t{chr(9).join(alias.hostnames)}\n" for alias in pod.spec.host_aliases)
    return text + (f"\n# Entries added by HostAliases.\n{aliases}" if aliases else "")


@dataclass(frozen=True)
class Made:
    """What was found out or made before a container can be configured."""

    attempt: int
    earned_s: int
    env: Mapping[str, str]
    volumes: Mapping[str, HostVolume]
    image: ImageInfo
    directory: Path
    """The pod's own directory."""
    node_memory_bytes: int
    target: str = ""
    """The container whose processes an ephemeral one sees."""
    profiles: Path = Path("/nonexistent")
    """Where the node's seccomp profiles are."""


def container_config(pod: Pod, container: Container, made: Made) -> dict[str, Any]:
    """The `ContainerConfig`.

    Raises:
        ConfigProblem: the spec asks for what cannot be (a mount without volume, a root image that must not be root).
    """
    env = made.env
    return {
        "metadata": {"name": container.name, "attempt": made.attempt},
        "image": {"image": made.image.id},
        "command": [expand(word, env) for word in container.command],
        "args": [expand(word, env) for word in container.args],
        "working_dir": container.working_dir or "",
        "envs": [{"key": name, "value": value.encode()} for name, value in env.items()],
        "mounts": _mounts(pod, container, made),
        "labels": {**labels(pod), CONTAINER_NAME: container.name},
        "annotations": {
            EARNED: str(made.earned_s),
            IMAGE: container.image,
            IMAGE_ID: made.image.digests[0] if made.image.digests else made.image.id,
            FALLBACK: container.termination_message_policy or "",
            RESOURCES: text_of(container),
        },
        "log_path": f"{container.name}/{made.attempt}.log",
        "stdin": bool(container.stdin),
        "stdin_once": bool(container.stdin_once),
        "tty": bool(container.tty),
        "linux": {
            "resources": container_resources(pod, container, made.node_memory_bytes),
            "security_context": container_security(pod, container, made.image, made.profiles)
            | {"namespace_options": _namespaces(pod, made.target)},
        },
    }


def termination_file(directory: Path, container: str, attempt: int) -> Path:
    """Where the container's termination message lands on the node."""
    return directory / "termination" / f"{container}-{attempt}"


def _mounts(pod: Pod, container: Container, made: Made) -> list[dict[str, Any]]:
    out = []
    for mount in container.volume_mounts:
        volume = made.volumes.get(mount.name)
        if volume is None:
            raise ConfigProblem(f"volumeMounts of {container.name}: the pod has no volume {mount.name}")
        path = volume.path
        if mount.sub_path_expr:
            path = sub_path(volume, _expanded(container, mount.sub_path_expr, made.env))
        elif mount.sub_path:
            path = sub_path(volume, mount.sub_path)
        out.append(
            {
                "container_path": mount.mount_path,
                "host_path": str(path),
                "readonly": bool(mount.read_only) or volume.read_only,
                "propagation": PROPAGATION_PRIVATE,
            }
        )
    taken = {mount["container_path"] for mount in out}
    if "/etc/hosts" not in taken:
        out.append({"container_path": "/etc/hosts", "host_path": str(made.directory / "hosts")})
    log = container.termination_message_path or TERMINATION_LOG
    if log not in taken:
        path = termination_file(made.directory, container.name, made.attempt)
        out.append({"container_path": log, "host_path": str(path)})
    return out


def _expanded(container: Container, text: str, env: Mapping[str, str]) -> str:
    if missing := unknown(text, env):
        raise ConfigProblem(f"subPathExpr of {container.name}: the variable {missing} is not in its env: add it there")
    return expand(text, env)


def container_resources(pod: Pod, container: Container, node_memory_bytes: int) -> dict[str, int]:
    """What the runtime is told of a container's requests and limits."""
    limits = container.resources.limits if container.resources is not None else {}
    requests = dict(limits) | (container.resources.requests if container.resources is not None else {})
    out = {"cpu_shares": CPU_SHARES_MIN, "oom_score_adj": oom_score(pod, container, node_memory_bytes)}
    if "cpu" in requests:
        out["cpu_shares"] = max(CPU_SHARES_MIN, milli(requests["cpu"]) * CPU_SHARES_PER_CORE // 1000)
    if "cpu" in limits:
        out["cpu_period"] = CPU_PERIOD_US
        out["cpu_quota"] = max(CPU_QUOTA_US_MIN, milli(limits["cpu"]) * CPU_PERIOD_US // 1000)
    if "memory" in limits:
        out["memory_limit_in_bytes"] = whole(limits["memory"])
    return out


def oom_score(pod: Pod, container: Container, node_memory_bytes: int) -> int:
    """Whom the kernel ends first when memory runs out: the kubelet's scores by QoS class."""
    quality = qos_class(pod)
    if quality == "Guaranteed":
        return -997
    if quality == "BestEffort":
        return 1000
    requests = container.resources.requests if container.resources is not None else {}
    wanted = whole(requests.get("memory", 0))
    return min(999, max(3, 1000 - 1000 * wanted // max(1, node_memory_bytes)))
