"""What Kubernetes refuses in the containers and the placement of a pod: variables, ports' names, probes, amounts, tolerations, volumes."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.api import JSON
from trimtab.api.quantity import parse_quantity
from trimtab.server import names
from trimtab.server.errors import Cause
from trimtab.server.problems import (
    duplicate,
    forbidden,
    invalid,
    invalids,
    labels,
    not_negative,
    one_of,
    required,
    unsupported,
)

PROTOCOLS = ("SCTP", "TCP", "UDP")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TIMES = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def container_problems(container: JSON, at: str, *, probed: bool) -> Iterator[Cause]:
    """What is wrong with a container by itself. probed: it may have probes and hooks that need it to run on."""
    yield from one_of(container, "imagePullPolicy", ("Always", "IfNotPresent", "Never"), at)
    yield from one_of(container, "terminationMessagePolicy", ("File", "FallbackToLogsOnError"), at)
    port_names: set[str] = set()
    for index, port in enumerate(container.get("ports") or ()):
        here, name = f"{at}.ports[{index}]", port.get("name") or ""
        if name:
            yield from invalids(f"{here}.name", name, names.port_name(name))
            if name in port_names:
                yield duplicate(f"{here}.name", name)
            port_names.add(name)
        yield from one_of(port, "protocol", PROTOCOLS, here)
    yield from _variables(container, at)
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if not mount.get("mountPath"):
            yield required(f"{at}.volumeMounts[{index}].mountPath")
        if ".." in (mount.get("subPath") or "").split("/"):
            yield invalid(f"{at}.volumeMounts.subPath", mount["subPath"], "must not contain '..'")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is not None:
            if probed:
                yield from _probe(probe, f"{at}.{name}", once=name != "readinessProbe")
            else:
                yield forbidden(f"{at}.{name}", "may not be set for init containers without restartPolicy=Always")
    for name, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict) and name != "stopSignal":
            yield from _handler(hook, f"{at}.lifecycle.{name}")
    yield from _amounts(container.get("resources") or {}, f"{at}.resources")
    user = (container.get("securityContext") or {}).get("runAsUser")
    if isinstance(user, int) and user < 0:
        yield invalid(f"{at}.securityContext.runAsUser", user, "must be between 0 and 2147483647, inclusive")


def _variables(container: JSON, at: str) -> Iterator[Cause]:
    for index, variable in enumerate(container.get("env") or ()):
        here, name = f"{at}.env[{index}]", variable.get("name") or ""
        yield from invalids(f"{here}.name", name, names.environment_name(name)) if name else [required(f"{here}.name")]
        source = variable.get("valueFrom")
        if source is None:
            continue
        if not any(source.get(kind) is not None for kind in _SOURCES):
            known = ", ".join(f"`{kind}`" for kind in _SOURCES[:-1])
            yield invalid(f"{here}.valueFrom", "", f"must specify one of: {known} or `{_SOURCES[-1]}`")
        elif variable.get("value"):
            yield invalid(f"{here}.valueFrom", "", "may not be specified when `value` is not empty")
        for kind in ("configMapKeyRef", "secretKeyRef"):
            if source.get(kind) is not None:
                key = source[kind].get("key") or ""
                where = f"{here}.valueFrom.{kind}.key"
                yield from invalids(where, key, names.config_key(key)) if key else [required(where)]
    for index, source in enumerate(container.get("envFrom") or ()):
        kinds = [kind for kind in ("configMapRef", "secretRef") if source.get(kind) is not None]
        if not kinds:
            yield invalid(f"{at}.envFrom", "", "must specify one of: `configMapRef` or `secretRef`")
        for kind in kinds:
            if not source[kind].get("name"):
                yield required(f"{at}.envFrom[{index}].{kind}.name")


def _probe(probe: JSON, at: str, *, once: bool) -> Iterator[Cause]:
    yield from _handler(probe, at)
    for name in _TIMES:
        yield from not_negative(probe, name, at)
    if once and probe.get("successThreshold") not in (None, 1):
        yield invalid(f"{at}.successThreshold", probe["successThreshold"], "must be 1")


def _handler(handler: JSON, at: str) -> Iterator[Cause]:
    kinds = [kind for kind in _HANDLERS if handler.get(kind) is not None]
    if not kinds:
        yield required(at, "must specify a handler type")
    for kind in kinds[1:]:
        yield forbidden(f"{at}.{kind}", "may not specify more than 1 handler type")
    for kind in kinds[:1]:
        here, action = f"{at}.{kind}", handler[kind]
        if kind == "exec" and not action.get("command"):
            yield required(f"{here}.command")
        if kind in ("httpGet", "tcpSocket"):
            yield from port_problems(action.get("port"), f"{here}.port")
        if kind == "httpGet":
            yield from one_of(action, "scheme", ("HTTP", "HTTPS"), here)


def port_problems(port: object, at: str) -> Iterator[Cause]:
    """Of a port's number or name."""
    if isinstance(port, int):
        yield from invalids(at, port, names.port_number(port))
    elif isinstance(port, str):
        yield from invalids(at, port, names.port_name(port))


def _amounts(resources: JSON, at: str) -> Iterator[Cause]:
    limits = resources.get("limits") or {}
    for part in ("limits", "requests"):
        for name, text in sorted((resources.get(part) or {}).items()):
            here, amount = f"{at}.{part}[{name}]", parse_quantity(str(text))
            if amount < 0:
                yield invalid(here, str(text), "must be greater than or equal to 0")
            if "/" in name:
                if "kubernetes.io/" not in name and amount != int(amount):
                    yield invalid(here, str(text), "must be an integer")
                if part == "requests" and "kubernetes.io/" not in name and name not in limits:
                    yield required(f"{at}.limits", "Limit must be set for non overcommitable resources")
            elif name not in ("cpu", "memory", "ephemeral-storage") and not name.startswith("hugepages-"):
                yield invalid(here, name, "must be a standard resource type or fully qualified")
                yield invalid(here, name, "must be a standard resource for containers")


def placement_problems(spec: JSON, at: str) -> Iterator[Cause]:
    """What is wrong with where a pod wants to run, and with what it is called there."""
    yield from one_of(spec, "dnsPolicy", ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"), at)
    yield from labels(spec.get("nodeSelector") or {}, f"{at}.nodeSelector")
    for name in ("serviceAccountName", "nodeName"):
        if spec.get(name):
            yield from invalids(f"{at}.{name}", spec[name], names.dns_subdomain(spec[name]))
    for name in ("hostname", "subdomain"):
        if spec.get(name):
            yield from invalids(f"{at}.{name}", spec[name], names.dns_label(spec[name]))
    deadline = spec.get("activeDeadlineSeconds")
    if isinstance(deadline, int) and deadline < 1:
        yield invalid(f"{at}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    if (spec.get("os") or {}).get("name") not in (None, "linux", "windows"):
        yield unsupported(f"{at}.os", spec["os"]["name"], ("linux", "windows"))
    user = (spec.get("securityContext") or {}).get("runAsUser")
    if isinstance(user, int) and user < 0:
        yield invalid(f"{at}.securityContext.runAsUser", user, "must be between 0 and 2147483647, inclusive")
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        name = gate.get("name") or ""
        yield from invalids(f"{at}.schedulingGates[{index}]", name, names.qualified_name(name))
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from _toleration(toleration, f"{at}.tolerations[{index}]")
    for index, spread in enumerate(spec.get("topologySpreadConstraints") or ()):
        here = f"{at}.topologySpreadConstraints[{index}]"
        if (spread.get("maxSkew") or 0) <= 0:
            yield invalid(f"{here}.maxSkew", spread.get("maxSkew") or 0, "must be greater than zero")
        if not spread.get("topologyKey"):
            yield required(f"{here}.topologyKey", "can not be empty")
        yield from one_of(spread, "whenUnsatisfiable", ("DoNotSchedule", "ScheduleAnyway"), here)


def _toleration(toleration: JSON, at: str) -> Iterator[Cause]:
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    if key:
        yield from invalids(f"{at}.key", key, names.qualified_name(key))
    elif operator != "Exists":
        text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield invalid(f"{at}.operator", toleration.get("operator") or "", text)
    effect = toleration.get("effect") or ""
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        yield invalid(f"{at}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
    if operator == "Exists" and toleration.get("value"):
        yield invalid(f"{at}.operator", toleration["value"], "value must be empty when `operator` is 'Exists'")
    if effect and effect not in _EFFECTS:
        yield unsupported(f"{at}.effect", effect, _EFFECTS)


def volume_source_problems(spec: JSON, at: str) -> Iterator[Cause]:
    """What is wrong with the names and sources of a pod's volumes."""
    seen: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        here, name = f"{at}.volumes[{index}]", volume.get("name") or ""
        yield from invalids(f"{here}.name", name, names.dns_label(name)) if name else [required(f"{here}.name")]
        if name in seen:
            yield duplicate(f"{here}.name", name)
        seen.add(name)
        sources = [kind for kind, source in volume.items() if kind != "name" and source is not None]
        for kind in sources[1:]:
            yield forbidden(f"{here}.{kind}", "may not specify more than 1 volume type")
        for kind, part in (("secret", "secretName"), ("configMap", "name"), ("persistentVolumeClaim", "claimName")):
            if volume.get(kind) is not None and not volume[kind].get(part):
                yield required(f"{here}.{kind}.{part}")
        if volume.get("hostPath") is not None:
            yield from host_path_problems(volume["hostPath"], f"{here}.hostPath.path")


def host_path_problems(source: JSON, at: str) -> Iterator[Cause]:
    path = source.get("path") or ""
    if not path:
        yield required(at)
    elif ".." in path.split("/"):
        yield invalid(at, path, "must not contain '..'")
