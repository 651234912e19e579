"""The environment of a container: literal values, keys of ConfigMaps and Secrets, facts about the pod itself.

Later entries win over earlier ones, `env` over `envFrom`, and `$(NAME)` stands for what was defined before it (`$$(NAME)`
for the text itself), as in the Kubernetes documentation on container environments.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from trimtab.api import Resource
from trimtab.api.core import ConfigMap, Container, EnvVar, Pod, Secret
from trimtab.api.projection import FieldSelector, ResourceFieldSelector
from trimtab.api.quantity import parse_quantity

K = TypeVar("K", bound=Resource)

_REFERENCE = re.compile(r"\$\$|\$\(([^()]*)\)")
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class ConfigProblem(ValueError):
    """What the spec asks for does not exist or does not fit; the text names it. The reason is CreateContainerConfigError."""


class Lookup(Protocol):
    """Reads one object of the API; `Context.get` is one."""

    def __call__(self, kind: type[K], name: str, namespace: str | None = None, /) -> Awaitable[K | None]: ...


@dataclass(frozen=True)
class Facts:
    """What the downward API tells besides the pod object. cpu in cores and memory in bytes are the node's."""

    pod_ip: str
    host_ip: str
    cpu: int
    memory_bytes: int


async def environment(
    pod: Pod, container: Container, get: Lookup, facts: Facts, links: Mapping[str, str]
) -> dict[str, str]:
    """Name to value, in order. links: where services are; what the spec says wins.

    Raises:
        ConfigProblem: a ConfigMap, Secret or key that is not optional is missing, or a field reference is unknown.
    """
    out = dict(links)
    for source in container.env_from:
        for what, ref in (("configmap", source.config_map_ref), ("secret", source.secret_ref)):
            if ref is None:
                continue
            entries = await _entries(what, ref.name, pod.namespace, get)
            if entries is None and not ref.optional:
                raise ConfigProblem(f'{what} "{ref.name}" not found')
            for key, text in (entries or {}).items():
                out[f"{source.prefix or ''}{key}"] = text
    for var in container.env:
        value = await _value(pod, container, var, get, facts)
        if value is not None:
            out[var.name] = expand(value, out) if var.value_from is None else value
    return out


async def _entries(what: str, name: str, namespace: str | None, get: Lookup) -> dict[str, str] | None:
    found = await (get(ConfigMap, name, namespace) if what == "configmap" else get(Secret, name, namespace))
    return None if found is None else texts(found)


async def _value(pod: Pod, container: Container, var: EnvVar, get: Lookup, facts: Facts) -> str | None:
    source = var.value_from
    if source is None:
        return var.value or ""
    if source.field_ref is not None:
        return field_value(pod, source.field_ref, facts)
    if source.resource_field_ref is not None:
        return resource_value(pod, container, source.resource_field_ref, facts)
    for what, ref in (("configmap", source.config_map_key_ref), ("secret", source.secret_key_ref)):
        if ref is None:
            continue
        found = await _entries(what, ref.name, pod.namespace, get)
        if found is None:
            if ref.optional:
                return None
            raise ConfigProblem(f'{what} "{ref.name}" not found, which the variable {var.name} needs')
        value = found.get(ref.key)
        if value is None and not ref.optional:
            raise ConfigProblem(
                f"couldn't find key {ref.key} in {what} {ref.name}, which the variable {var.name} needs"
            )
        return value
    return None


def texts(source: ConfigMap | Secret) -> dict[str, str]:
    """The entries of a ConfigMap or Secret as text."""
    if isinstance(source, ConfigMap):
        return dict(source.data)
    return {key: value.decode(errors="replace") for key, value in contents(source).items()}


def contents(source: ConfigMap | Secret) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret as bytes.

    Raises:
        ConfigProblem: a value is not base64.
    """
    out: dict[str, bytes] = {}
    encoded: Mapping[str, str] = source.binary_data if isinstance(source, ConfigMap) else source.data
    for key, value in encoded.items():
        try:
            out[key] = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise ConfigProblem(f"{source.ref}: the value of {key} is not base64") from None
    if isinstance(source, ConfigMap):
        out |= {key: value.encode() for key, value in source.data.items()}
    return out


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where NAME is known, `$$` by `$`; anything else stays as it is."""

    def replacement(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return variables.get(match.group(1), match.group(0))

    return _REFERENCE.sub(replacement, text)


def unknown(text: str, variables: Mapping[str, str]) -> str:
    """The first name of a `$(NAME)` that is not known, or ""."""
    for match in _REFERENCE.finditer(text):
        if match.group(0) != "$$" and match.group(1) not in variables:
            return match.group(1)
    return ""


def field_value(pod: Pod, ref: FieldSelector, facts: Facts) -> str:
    """A field of the pod by its path in the downward API.

    Raises:
        ConfigProblem: the downward API has no such field.
    """
    if keyed := _KEYED.fullmatch(ref.field_path):
        which = pod.metadata.labels if keyed.group(1) == "labels" else pod.metadata.annotations
        return which.get(keyed.group(2), "")
    match ref.field_path:
        case "metadata.name":
            return pod.name
        case "metadata.namespace":
            return pod.namespace or ""
        case "metadata.uid":
            return pod.metadata.uid
        case "metadata.labels":
            return _listing(pod.metadata.labels)
        case "metadata.annotations":
            return _listing(pod.metadata.annotations)
        case "spec.nodeName":
            return pod.spec.node_name or ""
        case "spec.serviceAccountName":
            return pod.spec.service_account_name or ""
        case "status.hostIP" | "status.hostIPs":
            return facts.host_ip
        case "status.podIP" | "status.podIPs":
            return facts.pod_ip
    raise ConfigProblem(
        f"the downward API has no field {ref.field_path}; it has metadata.name, status.podIP and others"
    )


def _listing(entries: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(entries.items()))


def resource_value(pod: Pod, container: Container, ref: ResourceFieldSelector, facts: Facts) -> str:
    """A request or limit in units of the divisor, rounded up; what is unset is what the node has.

    Raises:
        ConfigProblem: no such container or resource.
    """
    if ref.container_name and ref.container_name != container.name:
        named = [c for c in (*pod.spec.containers, *pod.spec.init_containers) if c.name == ref.container_name]
        if not named:
            raise ConfigProblem(
                f"resourceFieldRef names the container {ref.container_name}, which the pod does not have"
            )
        container = named[0]
    kind, _, resource = ref.resource.partition(".")
    node = {"cpu": facts.cpu, "memory": facts.memory_bytes}
    if kind not in ("limits", "requests") or resource not in node:
        raise ConfigProblem(f"resourceFieldRef {ref.resource}: use limits or requests of cpu or memory")
    given = container.resources
    limits = given.limits if given is not None else {}
    requests = given.requests if given is not None else {}
    value = limits.get(resource) if kind == "limits" else requests.get(resource, limits.get(resource))
    amount = parse_quantity(value) if value is not None else parse_quantity(node[resource] if kind == "limits" else 0)
    divisor = parse_quantity(ref.divisor or 1) or parse_quantity(1)
    return str(math.ceil(amount / divisor))
