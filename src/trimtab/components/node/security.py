"""As whom a container runs, and what it may do: from security contexts to CRI. Pure, but for looking whether a profile is there.

Defaults that the spec leaves open are the careful ones: the default seccomp profile, masked kernel files, no privileges. What
cannot be honoured never gets here: `security_admission.py` refuses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimtab.api.core import Container, Pod
from trimtab.api.security import PodSecurityContext, SeccompProfile, SecurityContext
from trimtab.components.node.environment import ConfigProblem
from trimtab.components.node.sandboxes import ImageInfo

PROFILE_DEFAULT, PROFILE_UNCONFINED, PROFILE_LOCALHOST = 0, 1, 2
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What containers must not see or write although it is in every /proc and /sys: the lists of the Kubernetes API's default
`procMount`."""


def container_security(pod: Pod, container: Container, image: ImageInfo, profiles: Path) -> dict[str, Any]:
    """The `LinuxContainerSecurityContext`, without its namespaces. profiles: where seccomp profiles of the node's own are.

    Raises:
        ConfigProblem: the image is root's and must not be, or a profile is not on this node.
    """
    own = container.security_context or SecurityContext()
    whole_pod = pod.spec.security_context or PodSecurityContext()
    user = own.run_as_user if own.run_as_user is not None else whole_pod.run_as_user
    group = own.run_as_group if own.run_as_group is not None else whole_pod.run_as_group
    must_not_be_root = own.run_as_non_root if own.run_as_non_root is not None else whole_pod.run_as_non_root
    if must_not_be_root:
        _check_not_root(container, user, image)
    groups = list(whole_pod.supplemental_groups)
    if whole_pod.fs_group is not None and whole_pod.fs_group not in groups:
        groups.append(whole_pod.fs_group)
    privileged = bool(own.privileged)
    capabilities = own.capabilities
    out: dict[str, Any] = {
        "privileged": privileged,
        "readonly_rootfs": bool(own.read_only_root_filesystem),
        "supplemental_groups": groups,
        "no_new_privs": own.allow_privilege_escalation is False,
        "seccomp": _seccomp(own.seccomp_profile or whole_pod.seccomp_profile, privileged, profiles),
    }
    confined = own.app_armor_profile or whole_pod.app_armor_profile
    if confined is not None and not privileged:
        out["apparmor"] = {"profile_type": PROFILE_UNCONFINED if confined.type == "Unconfined" else PROFILE_DEFAULT}
    if not privileged:
        out |= {"masked_paths": MASKED_PATHS, "readonly_paths": READONLY_PATHS}
    if capabilities is not None:
        out["capabilities"] = {
            "add_capabilities": [_capability(name) for name in capabilities.add],
            "drop_capabilities": [_capability(name) for name in capabilities.drop],
        }
    if user is not None:
        out["run_as_user"] = {"value": user}
    elif group is not None:
        # CRI wants a user beside a group.
        out["run_as_user"] = {"value": image.uid or 0}
        if image.username:
            del out["run_as_user"]
            out["run_as_username"] = image.username
    if group is not None:
        out["run_as_group"] = {"value": group}
    return out


def _seccomp(profile: SeccompProfile | None, privileged: bool, profiles: Path) -> dict[str, Any]:
    if privileged or (profile is not None and profile.type == "Unconfined"):
        return {"profile_type": PROFILE_UNCONFINED}
    if profile is None or profile.type != "Localhost":
        return {"profile_type": PROFILE_DEFAULT}
    path = profiles / (profile.localhost_profile or "")
    if not path.is_file():
        raise ConfigProblem(f"the seccomp profile {profile.localhost_profile} is not on this node: put it at {path}")
    return {"profile_type": PROFILE_LOCALHOST, "localhost_ref": str(path)}


def _check_not_root(container: Container, user: int | None, image: ImageInfo) -> None:
    if user is None and image.username:
        raise ConfigProblem(
            f"container has runAsNonRoot and image has non-numeric user ({image.username}), cannot verify user is non-root; "
            f"set runAsUser of {container.name} to its number"
        )
    if (user if user is not None else image.uid or 0) == 0:
        raise ConfigProblem(
            f"container has runAsNonRoot and image will run as root; set runAsUser of {container.name} or USER of its image"
        )


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")
