"""What this node cannot honour and whose neglect would be unsafe, or would leave a pod that never starts: refused when the
pod is created, with the field and what to do instead. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.api import JSON
from trimtab.components.node.security_admission import check_container_security, check_pod_security, unlabelled
from trimtab.runtime import Denied

VOLUME_TYPES = (
    "configMap",
    "downwardAPI",
    "emptyDir",
    "hostPath",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
PROJECTIONS = ("configMap", "downwardAPI", "secret", "serviceAccountToken")

POD_FIELDS = {
    "hostUsers": "user namespaces are not supported; leave it out, or set it to true",
}


def check_pod(new: JSON, old: JSON | None) -> list[str]:
    """An admission check of Pods: returns warnings.

    Raises:
        Denied: naming the field and the fix.
    """
    spec: dict[str, Any] = new.get("spec") or {}
    if old is not None:  # of a pod's spec almost nothing can change, but ephemeral containers can be added
        known = {one.get("name") for one in (old.get("spec") or {}).get("ephemeralContainers") or ()}
        for path, container in _containers(spec, ("ephemeralContainers",)):
            if container.get("name") not in known:
                _check_container(path, container)
        return []
    _check_pod_fields(spec)
    check_pod_security(spec, (new.get("metadata") or {}).get("annotations") or {})
    _check_volumes(spec)
    warnings = unlabelled("spec.securityContext", spec.get("securityContext") or {})
    for path, container in _containers(spec):
        _check_container(path, container)
        warnings += unlabelled(f"{path}.securityContext", container.get("securityContext") or {})
    return warnings


def _containers(
    spec: dict[str, Any], kinds: Sequence[str] = ("initContainers", "containers")
) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in kinds:
        for number, container in enumerate(spec.get(kind) or ()):
            yield f"spec.{kind}[{number}]", container


def _check_pod_fields(spec: dict[str, Any]) -> None:
    for name, message in POD_FIELDS.items():
        if spec.get(name) not in (None, True, ""):
            raise Denied(f"spec.{name}", message)
    system = (spec.get("os") or {}).get("name", "linux")
    if system != "linux":
        raise Denied("spec.os.name", f"this node runs linux, not {system}")
    if spec.get("hostnameOverride"):
        raise Denied("spec.hostnameOverride", "it is not supported; use hostname and subdomain")


def _check_volumes(spec: dict[str, Any]) -> None:
    for number, volume in enumerate(spec.get("volumes") or ()):
        types = sorted(name for name, value in volume.items() if name != "name" and value is not None)
        unknown = [name for name in types if name not in VOLUME_TYPES]
        if unknown:
            raise Denied(
                f"spec.volumes[{number}].{unknown[0]}",
                f"volumes of this type are not supported; use one of {', '.join(VOLUME_TYPES)}",
            )
        for count, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
            foreign = sorted(name for name, value in source.items() if value is not None and name not in PROJECTIONS)
            if foreign:
                raise Denied(
                    f"spec.volumes[{number}].projected.sources[{count}].{foreign[0]}",
                    f"sources of this type are not supported; use one of {', '.join(PROJECTIONS)}",
                )


def _check_container(path: str, container: dict[str, Any]) -> None:
    check_container_security(path, container)
    if container.get("volumeDevices"):
        raise Denied(f"{path}.volumeDevices", "raw block volumes are not supported; use volumeMounts")
    for number, port in enumerate(container.get("ports") or ()):
        if port.get("hostPort") and ":" in (port.get("hostIP") or ""):
            raise Denied(f"{path}.ports[{number}].hostIP", "pods have no IPv6 here; name an IPv4 address of the node")
    for number, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{path}.volumeMounts[{number}]"
        if mount.get("recursiveReadOnly") == "Enabled":
            raise Denied(f"{where}.recursiveReadOnly", 'Enabled is not supported; use "IfPossible", or leave it out')
        if mount.get("mountPropagation") not in (None, "None"):
            raise Denied(f"{where}.mountPropagation", 'only "None" is supported: mounts do not leave a container')
