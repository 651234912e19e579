"""What of a security context this node cannot honour: refused when the pod is created, with the field and what to do instead.

Nothing here may be ignored: a pod that believes itself confined must be. What the machine itself lacks (AppArmor) counts. SELinux is
the exception that Kubernetes makes, too: a machine without it has no labels, and manifests that name one are written for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from trimtab.api.security import SAFE_SYSCTLS
from trimtab.components.node import machine
from trimtab.runtime import Denied

FOREIGN = {
    "windowsOptions": "Windows is not supported; leave them out",
}
BETA_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
"""The annotation that the field `appArmorProfile` followed."""


def check_pod_security(spec: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
    """Raises `Denied`."""
    security = spec.get("securityContext") or {}
    where = "spec.securityContext"
    _check_common(where, security)
    if security.get("supplementalGroupsPolicy") == "Strict":
        raise Denied(f"{where}.supplementalGroupsPolicy", 'Strict is not supported; use "Merge"')
    for number, sysctl in enumerate(security.get("sysctls") or ()):
        _check_sysctl(f"{where}.sysctls[{number}]", sysctl.get("name") or "", spec)
    for name, value in annotations.items():
        if name.startswith(BETA_APPARMOR) and value != "unconfined":
            _check_apparmor(
                f"metadata.annotations[{name}]", "Localhost" if value.startswith("localhost/") else "RuntimeDefault"
            )


def _check_sysctl(where: str, name: str, spec: Mapping[str, Any]) -> None:
    name = name.replace("/", ".")
    if name not in SAFE_SYSCTLS:
        raise Denied(
            f"{where}.name",
            f"{name} is not one that a pod may set; set it on the machine, or use one of {', '.join(SAFE_SYSCTLS)}",
        )
    for field, prefix in (("hostNetwork", "net."), ("hostIPC", "kernel.shm")):
        if spec.get(field) and name.startswith(prefix):
            raise Denied(
                f"{where}.name", f"{name} would be the machine's own in a pod with {field}; leave one of them out"
            )


def check_container_security(path: str, container: Mapping[str, Any]) -> None:
    """Raises `Denied`."""
    security = container.get("securityContext") or {}
    where = f"{path}.securityContext"
    _check_common(where, security)
    if security.get("procMount") not in (None, "Default"):
        raise Denied(f"{where}.procMount", 'Unmasked needs user namespaces, which are not supported; use "Default"')
    if security.get("privileged") and security.get("allowPrivilegeEscalation") is False:
        raise Denied(
            f"{where}.allowPrivilegeEscalation", "a privileged container cannot do without; set one of them only"
        )


def _check_common(where: str, security: Mapping[str, Any]) -> None:
    for name, message in FOREIGN.items():
        if security.get(name):
            raise Denied(f"{where}.{name}", message)
    if security.get("seLinuxOptions") and machine.selinux():
        raise Denied(
            f"{where}.seLinuxOptions", "SELinux labels are not set here, though the machine has it; leave them out"
        )
    seccomp = security.get("seccompProfile") or {}
    if seccomp.get("type") == "Localhost":
        profile = PurePosixPath(seccomp.get("localhostProfile") or "/")
        if profile.is_absolute() or ".." in profile.parts or not profile.parts:
            raise Denied(
                f"{where}.seccompProfile.localhostProfile",
                "name a file below the node's directory of profiles, like profiles/audit.json",
            )
    confined = (security.get("appArmorProfile") or {}).get("type")
    if confined is not None and confined != "Unconfined":
        _check_apparmor(f"{where}.appArmorProfile.type", confined)


def _check_apparmor(where: str, kind: str) -> None:
    if kind == "Localhost":
        raise Denied(where, 'AppArmor profiles of your own are not supported; use "RuntimeDefault"')
    if not machine.apparmor():
        raise Denied(
            where, 'this machine has no AppArmor to confine containers with; use "Unconfined", or leave it out'
        )


def unlabelled(where: str, security: Mapping[str, Any]) -> list[str]:
    """A warning for labels on a machine without SELinux."""
    if not security.get("seLinuxOptions"):
        return []
    return [f"{where}.seLinuxOptions: this machine has no SELinux, so nothing acts on them"]
