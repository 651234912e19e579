"""Pod Security: what the pods of a namespace may ask of their node, by the namespace's labels.

    pod-security.kubernetes.io/enforce: restricted     pods beyond it are refused
    pod-security.kubernetes.io/warn: restricted        whoever writes a pod, or a workload that would make one, is told

The levels and their checks are those of the Pod Security Standards in their latest version (an older `-version` label is
taken as the latest: every later one is at least as strict). Each check gives one short text, in the words of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trimtab.api import JSON
from trimtab.api.security import SAFE_SYSCTLS
from trimtab.server.kinds import Kind
from trimtab.server.strategies.base import Surroundings

LABEL = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")
MODES = ("enforce", "audit", "warn")

_BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
_RESTRICTED_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_PODS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (),
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): ("spec", "template"),
    ("apps", "Deployment"): ("spec", "template"),
    ("apps", "ReplicaSet"): ("spec", "template"),
    ("apps", "StatefulSet"): ("spec", "template"),
    ("apps", "DaemonSet"): ("spec", "template"),
    ("batch", "Job"): ("spec", "template"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""Where an object has the pod that it is, or would make."""
WARNED_PODS_MAX = 20


def level_of(labels: Mapping[str, str], mode: str) -> str:
    """The level of a namespace in one mode; `privileged`, which allows everything, where there is no valid label."""
    level = labels.get(LABEL + mode, "privileged")
    return level if level in LEVELS else "privileged"


def label_problems(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(path, text) of each label of ours that says nothing."""
    for mode in MODES:
        level = labels.get(LABEL + mode)
        if level is not None and level not in LEVELS:
            allowed = ", ".join(LEVELS)
            yield f"metadata.labels[{LABEL}{mode}]", f'Invalid value: "{level}": must be one of {allowed}'
        version = labels.get(f"{LABEL}{mode}-version")
        if version is not None and version != "latest" and not _is_version(version):
            yield (
                f"metadata.labels[{LABEL}{mode}-version]",
                f'Invalid value: "{version}": must be "latest" or "v1.x"',
            )


def _is_version(text: str) -> bool:
    return text.startswith("v1.") and text[3:].isdigit()


def standard(labels: Mapping[str, str], mode: str) -> str:
    """`restricted:latest`, as messages have it."""
    return f"{level_of(labels, mode)}:{labels.get(f'{LABEL}{mode}-version', 'latest')}"


def pod_in(kind: Kind, obj: JSON) -> JSON | None:
    """The pod that an object is, or would make; None for objects of other kinds."""
    path = _PODS.get((kind.group, kind.kind))
    if path is None:
        return None
    found: Any = obj
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def verdict(labels: Mapping[str, str], pod: JSON, *, is_pod: bool) -> tuple[str, str]:
    """Why a namespace with these labels refuses a pod, and what whoever writes it is warned of. A workload is warned of
    only: its pods are refused when they come."""
    enforced = violations(level_of(labels, "enforce"), pod) if is_pod else ""
    if enforced:
        return f'violates PodSecurity "{standard(labels, "enforce")}": {enforced}', ""
    warned = violations(level_of(labels, "warn"), pod)
    return "", f'would violate PodSecurity "{standard(labels, "warn")}": {warned}' if warned else ""


def stricter_warnings(around: Surroundings, new: JSON, old: JSON | None) -> list[str]:
    """What somebody is told who labels a namespace whose pods are beyond the label already."""
    labels = new["metadata"].get("labels") or {}
    before = ((old or {}).get("metadata") or {}).get("labels") or {}
    level = level_of(labels, "enforce")
    if old is None or LEVELS.index(level) <= LEVELS.index(level_of(before, "enforce")):
        return []
    name = new["metadata"]["name"]
    found = {pod["metadata"]["name"]: reasons(text) for pod in around.pods_of(name) if (text := violations(level, pod))}
    if not found:
        return []
    first = (
        f'existing pods in namespace "{name}" violate the new PodSecurity enforce level "{standard(labels, "enforce")}"'
    )
    return [first, *(f"{pod}: {text}" for pod, text in list(found.items())[:WARNED_PODS_MAX])]


def violations(level: str, pod: JSON) -> str:
    """What in a pod (or a pod template) is beyond a level: `privileged (container "c" must not ...), ...`; empty when
    nothing is."""
    if level == "privileged":
        return ""
    spec = pod.get("spec") or {}
    checks = dict(_BASELINE)
    if level == "restricted":
        checks = {reason: check for reason, check in _BASELINE.items() if reason not in _REPLACED} | dict(_RESTRICTED)
    found = [(reason, details) for reason, check in checks.items() if (details := check(spec))]
    return ", ".join(f"{reason} ({'; '.join(details)})" for reason, details in found)


def reasons(text: str) -> str:
    """The short form of `violations`, without what is in brackets."""
    out, depth = [], 0
    for character in text:
        depth += character == "("
        if not depth:
            out.append(character)
        depth -= character == ")"
    return "".join(out).replace(" ,", ",").strip()


# The checks. Each is given the pod's spec and gives the details of what is wrong.

Check = Callable[[JSON], list[str]]


def _containers(spec: JSON) -> Iterator[JSON]:
    for name in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(name) or ()


def _security(of: JSON) -> JSON:
    return of.get("securityContext") or {}


def _quoted(names: Sequence[str], plural: str = "containers") -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"{plural if len(names) > 1 else plural[:-1]} {listed}"


def _named(spec: JSON, wrong: Callable[[JSON], bool], text: str) -> list[str]:
    names = [container["name"] for container in _containers(spec) if wrong(container)]
    return [f"{_quoted(names)} {text}"] if names else []


def _escalation(spec: JSON) -> list[str]:
    return _named(
        spec,
        lambda c: _security(c).get("allowPrivilegeEscalation") is not False,
        "must set securityContext.allowPrivilegeEscalation=false",
    )


def _added(container: JSON, allowed: frozenset[str]) -> list[str]:
    return [name for name in (_security(container).get("capabilities") or {}).get("add") or () if name not in allowed]


def _adding(spec: JSON, allowed: frozenset[str]) -> list[str]:
    names = [c["name"] for c in _containers(spec) if _added(c, allowed)]
    added = sorted({name for c in _containers(spec) for name in _added(c, allowed)})
    if not names:
        return []
    listed = ", ".join(f'"{name}"' for name in added)
    return [f"{_quoted(names)} must not include {listed} in securityContext.capabilities.add"]


def _capabilities(spec: JSON) -> list[str]:
    return _adding(spec, _BASELINE_CAPABILITIES)


def _capabilities_restricted(spec: JSON) -> list[str]:
    dropping = _named(
        spec,
        lambda c: "ALL" not in ((_security(c).get("capabilities") or {}).get("drop") or ()),
        'must set securityContext.capabilities.drop=["ALL"]',
    )
    return dropping + _adding(spec, frozenset({"NET_BIND_SERVICE"}))


def _host_namespaces(spec: JSON) -> list[str]:
    set_ = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    return [", ".join(set_)] if set_ else []


def _host_paths(spec: JSON) -> list[str]:
    names = [volume["name"] for volume in spec.get("volumes") or () if "hostPath" in volume]
    return [_quoted(names, "volumes")] if names else []


def _host_ports(spec: JSON) -> list[str]:
    ports = {c["name"]: [p["hostPort"] for p in c.get("ports") or () if p.get("hostPort")] for c in _containers(spec)}
    names = [name for name, found in ports.items() if found]
    if not names:
        return []
    every = sorted({port for found in ports.values() for port in found})
    return [
        f"{_quoted(names)} {'use' if len(names) > 1 else 'uses'} "
        f"hostPort{'s' if len(every) > 1 else ''} {', '.join(map(str, every))}"
    ]


def _privileged(spec: JSON) -> list[str]:
    return _named(spec, lambda c: bool(_security(c).get("privileged")), "must not set securityContext.privileged=true")


def _proc_mount(spec: JSON) -> list[str]:
    wrong = [c for c in _containers(spec) if _security(c).get("procMount") not in (None, "Default")]
    if not wrong:
        return []
    kinds = ", ".join(sorted({f'"{_security(c)["procMount"]}"' for c in wrong}))
    return [f"{_quoted([c['name'] for c in wrong])} must not set securityContext.procMount to {kinds}"]


def _volumes(spec: JSON) -> list[str]:
    wrong: dict[str, str] = {}
    for volume in spec.get("volumes") or ():
        if forbidden := [kind for kind in volume if kind != "name" and kind not in _RESTRICTED_VOLUMES]:
            wrong[volume["name"]] = forbidden[0]
    if not wrong:
        return []
    kinds = ", ".join(f'"{kind}"' for kind in sorted(set(wrong.values())))
    verb = "use" if len(wrong) > 1 else "uses"
    types = "types" if len(set(wrong.values())) > 1 else "type"
    return [f"{_quoted(list(wrong), 'volumes')} {verb} restricted volume {types} {kinds}"]


def _non_root(spec: JSON) -> list[str]:
    pod = _security(spec).get("runAsNonRoot")
    wrong = [c["name"] for c in _containers(spec) if _security(c).get("runAsNonRoot") is False]
    if wrong:
        return [f"{_quoted(wrong)} must not set securityContext.runAsNonRoot=false"]
    if pod is True:
        return []
    silent = [c["name"] for c in _containers(spec) if _security(c).get("runAsNonRoot") is None]
    if pod is False:
        return ["pod must not set securityContext.runAsNonRoot=false"] if silent else []
    return [f"pod or {_quoted(silent)} must set securityContext.runAsNonRoot=true"] if silent else []


def _root_user(spec: JSON) -> list[str]:
    pod = ["pod"] if _security(spec).get("runAsUser") == 0 else []
    names = [c["name"] for c in _containers(spec) if _security(c).get("runAsUser") == 0]
    setters = pod + ([_quoted(names)] if names else [])
    return [f"{' and '.join(setters)} must not set runAsUser=0"] if setters else []


def _selinux(spec: JSON) -> list[str]:
    found: set[str] = set()
    setters = [("pod", _security(spec)), *((f'container "{c["name"]}"', _security(c)) for c in _containers(spec))]
    names = []
    for name, context in setters:
        options = context.get("seLinuxOptions") or {}
        bad = [f'type "{options["type"]}"'] if options.get("type", "") not in _SELINUX_TYPES else []
        bad += [f"{part} may not be set" for part in ("user", "role") if options.get(part)]
        if bad:
            names.append(name)
            found.update(bad)
    return (
        [f"{' and '.join(names)} set forbidden securityContext.seLinuxOptions: {'; '.join(sorted(found))}"]
        if names
        else []
    )


def _seccomp(of: JSON) -> str:
    return str((_security(of).get("seccompProfile") or {}).get("type") or "")


def _seccomp_unconfined(spec: JSON) -> list[str]:
    setters = ["pod"] if _seccomp(spec) == "Unconfined" else []
    names = [c["name"] for c in _containers(spec) if _seccomp(c) == "Unconfined"]
    setters += [_quoted(names)] if names else []
    return (
        [f'{" and ".join(setters)} must not set securityContext.seccompProfile.type to "Unconfined"'] if setters else []
    )


def _seccomp_restricted(spec: JSON) -> list[str]:
    if wrong := _seccomp_unconfined(spec):
        return wrong
    if _seccomp(spec):
        return []
    silent = [c["name"] for c in _containers(spec) if not _seccomp(c)]
    text = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return [f"pod or {_quoted(silent)} {text}"] if silent else []


def _app_armor(spec: JSON) -> list[str]:
    def unconfined(of: JSON) -> bool:
        return (_security(of).get("appArmorProfile") or {}).get("type") == "Unconfined"

    setters = ["pod"] if unconfined(spec) else []
    names = [c["name"] for c in _containers(spec) if unconfined(c)]
    setters += [_quoted(names)] if names else []
    text = 'must not set AppArmor profile type to "Unconfined"'
    return [f"{' and '.join(setters)} {text}"] if setters else []


def _sysctls(spec: JSON) -> list[str]:
    names = [s["name"] for s in _security(spec).get("sysctls") or () if s.get("name") not in SAFE_SYSCTLS]
    return [", ".join(names)] if names else []


_BASELINE: Mapping[str, Check] = {
    "forbidden AppArmor profile": _app_armor,
    "non-default capabilities": _capabilities,
    "host namespaces": _host_namespaces,
    "hostPath volumes": _host_paths,
    "hostPort": _host_ports,
    "privileged": _privileged,
    "procMount": _proc_mount,
    "seLinuxOptions": _selinux,
    "seccompProfile": _seccomp_unconfined,
    "forbidden sysctls": _sysctls,
}
_RESTRICTED: Mapping[str, Check] = {
    "allowPrivilegeEscalation != false": _escalation,
    "unrestricted capabilities": _capabilities_restricted,
    "restricted volume types": _volumes,
    "runAsNonRoot != true": _non_root,
    "runAsUser=0": _root_user,
    "seccompProfile": _seccomp_restricted,
}
_REPLACED = frozenset({"non-default capabilities", "hostPath volumes", "seccompProfile"})
"""Baseline checks in whose place a stricter one stands."""
