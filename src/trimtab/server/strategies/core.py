"""Rules of namespaces, configuration, services, volumes, ingresses, roles and CRDs."""

from __future__ import annotations

import base64
import json

from trimtab.api import JSON
from trimtab.server import custom, custom_checks, limit_range
from trimtab.server.clock import timestamp
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.metadata import immutable_problems
from trimtab.server.problems import forbidden
from trimtab.server.strategies.base import Strategy, Surroundings

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_DEFAULT_INGRESS_CLASS = "ingressclass.kubernetes.io/is-default-class"


class NamespaceStrategy(Strategy):
    def receive(self, kind: Kind, new: JSON) -> None:
        if name := new["metadata"].get("name"):
            new["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name

    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        new["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = new["metadata"]["name"]
        if old is None:
            new["spec"] = {"finalizers": ["kubernetes"]}
            new["status"] = {"phase": "Active"}
        else:
            new["spec"] = old.get("spec", {})
        return []


_SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


class SecretStrategy(Strategy):
    def receive(self, kind: Kind, new: JSON) -> None:
        plain = new.pop("stringData", None) or {}
        if plain:
            data = new.setdefault("data", {})
            for key, value in plain.items():
                data[key] = base64.b64encode(str(value).encode()).decode()

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        found = [
            Cause(f"data[{key}]", "Required value", "FieldValueRequired")
            for key in _SECRET_KEYS.get(new.get("type", ""), ())
            if key not in (new.get("data") or {})
        ]
        if old is not None:
            found += immutable_problems("type", new.get("type"), old.get("type"))
        return found + _immutable_data(new, old)


class ConfigMapStrategy(Strategy):
    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        twice = set(new.get("data") or ()) & set(new.get("binaryData") or ())
        found = [
            Cause(f"data[{key}]", f'Invalid value: "{key}": duplicate of key present in binaryData')
            for key in sorted(twice)
        ]
        return found + _immutable_data(new, old)


def _immutable_data(new: JSON, old: JSON | None) -> list[Cause]:
    if old is None or not old.get("immutable"):
        return []
    text = "Forbidden: field is immutable when `immutable` is set"
    return [
        Cause(field, text, "FieldValueForbidden")
        for field in ("immutable", "data", "binaryData")
        if (not new.get("immutable") if field == "immutable" else new.get(field) != old.get(field))
    ]


class LimitRangeStrategy(Strategy):
    def receive(self, kind: Kind, new: JSON) -> None:
        limit_range.complete(new)


def _reached_from_outside(spec: JSON) -> bool:
    kind = spec.get("type")
    return kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


class ServiceStrategy(Strategy):
    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        key = kind.key(new["metadata"].get("namespace"), new["metadata"].get("name") or "")
        spec = new.get("spec")
        if not isinstance(spec, dict):
            return [Cause("spec", "Required value", "FieldValueRequired")]
        if old is not None:
            _drop_what_the_type_has_not(spec, old["spec"])
        return around.services.allocate(key, spec, (old or {}).get("spec"))

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        spec = new["spec"]
        ports = spec.get("ports") or []
        found: list[Cause] = []
        if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
            found.append(Cause("spec.ports", "Required value", "FieldValueRequired"))
        if spec.get("type") == "ExternalName" and not spec.get("externalName"):
            found.append(Cause("spec.externalName", "Required value", "FieldValueRequired"))
        names = [port.get("name") or "" for port in ports]
        for index, port in enumerate(ports):
            if len(ports) > 1 and not names[index]:
                found.append(Cause(f"spec.ports[{index}].name", "Required value", "FieldValueRequired"))
            elif names.index(names[index]) != index:
                found.append(
                    Cause(f"spec.ports[{index}].name", f'Duplicate value: "{names[index]}"', "FieldValueDuplicate")
                )
            if not 0 < port.get("port", 0) < 65536:
                found.append(
                    Cause(
                        f"spec.ports[{index}].port",
                        f"Invalid value: {port.get('port')}: must be between 1 and 65535, inclusive",
                    )
                )
        return found

    def status_problems(self, kind: Kind, new: JSON) -> list[Cause]:
        """Only a load balancer has addresses outside."""
        path = "status.loadBalancer.ingress"
        if not ((new.get("status") or {}).get("loadBalancer") or {}).get("ingress"):
            return []
        if new["spec"].get("type") != "LoadBalancer":
            return [forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")]
        return []

    def settled(self, around: Surroundings, key: str) -> None:
        around.services.settled(key)


_BY_TYPE = {
    "externalTrafficPolicy": ("NodePort", "LoadBalancer"),
    "loadBalancerClass": ("LoadBalancer",),
    "allocateLoadBalancerNodePorts": ("LoadBalancer",),
}


def _drop_what_the_type_has_not(spec: JSON, old: JSON) -> None:
    """Fields that a service's new type does not have go, if nobody changed them: they were filled in with the old one."""
    for name, types in _BY_TYPE.items():
        kept = name == "externalTrafficPolicy" and spec.get("externalIPs")
        if old.get("type") in types and spec.get("type") not in types and spec.get(name) == old.get(name) and not kept:
            spec.pop(name, None)
    policy = "externalTrafficPolicy"
    outside = _reached_from_outside(old) and not _reached_from_outside(spec)
    if outside and spec.get(policy) == old.get(policy):
        spec.pop(policy, None)
    has = ("NodePort", "LoadBalancer")
    ports, before = spec.get("ports") or [], old.get("ports") or []
    same = {port.get("nodePort") for port in ports} == {port.get("nodePort") for port in before}
    if old.get("type") in has and spec.get("type") not in has and same:
        for port in ports:
            port.pop("nodePort", None)


class PersistentVolumeStrategy(Strategy):
    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        if old is None:
            new["status"] = {"phase": "Pending"}
        return []


class ClaimStrategy(Strategy):
    def admit(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> None:
        spec = new.setdefault("spec", {})
        if old is None and "storageClassName" not in spec and not spec.get("volumeName"):
            default = around.default_of("/storage.k8s.io/storageclasses/", _DEFAULT_CLASS)
            if default:
                spec["storageClassName"] = default

    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        if old is None:
            new["status"] = {"phase": "Pending"}
        return []

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        spec = new["spec"]
        found: list[Cause] = []
        if not spec.get("accessModes"):
            found.append(
                Cause("spec.accessModes", "Required value: at least 1 access mode is required", "FieldValueRequired")
            )
        if not ((spec.get("resources") or {}).get("requests") or {}).get("storage"):
            found.append(Cause("spec.resources[storage]", "Required value", "FieldValueRequired"))
        if old is not None:
            before, after = dict(old["spec"]), dict(spec)
            for changeable in ("resources", "volumeAttributesClassName"):
                before.pop(changeable, None)
                after.pop(changeable, None)
            if not before.get("volumeName"):
                before.pop("volumeName", None)
                after.pop("volumeName", None)
            if not before.get("storageClassName"):
                before.pop("storageClassName", None)
                after.pop("storageClassName", None)
            if before != after:
                found.append(
                    Cause(
                        "spec",
                        "Forbidden: spec is immutable after creation except resources.requests and "
                        "volumeAttributesClassName for bound claims",
                        "FieldValueForbidden",
                    )
                )
        return found


class IngressStrategy(Strategy):
    def admit(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> None:
        spec = new.setdefault("spec", {})
        annotated = "kubernetes.io/ingress.class" in (new["metadata"].get("annotations") or {})
        if old is None and "ingressClassName" not in spec and not annotated:
            default = around.default_of("/networking.k8s.io/ingressclasses/", _DEFAULT_INGRESS_CLASS)
            if default:
                spec["ingressClassName"] = default

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        spec = new["spec"]
        found = [
            Cause(f"spec.rules[{index}].http.paths", "Required value", "FieldValueRequired")
            for index, rule in enumerate(spec.get("rules") or ())
            if rule.get("http") is not None and not rule["http"].get("paths")
        ]
        if found:
            return found
        if not spec.get("rules") and spec.get("defaultBackend") is None:
            return [Cause("spec", "Invalid value: null: either `defaultBackend` or `rules` must be specified")]
        return []


class RoleBindingStrategy(Strategy):
    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        found: list[Cause] = []
        if old is not None:
            found += [
                Cause("roleRef", f"Invalid value: {_role_ref(new)}: cannot change roleRef")
                for _ in immutable_problems("roleRef", new.get("roleRef"), old.get("roleRef"))
            ]
        for index, subject in enumerate(new.get("subjects") or ()):
            if (
                kind.kind == "ClusterRoleBinding"
                and subject.get("kind") == "ServiceAccount"
                and not subject.get("namespace")
            ):
                found.append(Cause(f"subjects[{index}].namespace", "Required value", "FieldValueRequired"))
        return found


def _role_ref(binding: JSON) -> str:
    """The reference as Kubernetes' refusal shows it, with the names of the fields in Go."""
    reference = binding.get("roleRef") or {}
    parts = (("APIGroup", "apiGroup"), ("Kind", "kind"), ("Name", "name"))
    return json.dumps({shown: reference.get(field, "") for shown, field in parts}, separators=(",", ":"))


class PriorityClassStrategy(Strategy):
    """Pods have been given the number: it stays."""

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        if old is None:
            return []
        found = immutable_problems("preemptionPolicy", new.get("preemptionPolicy"), old.get("preemptionPolicy"))
        if (new.get("value") or 0) != (old.get("value") or 0):
            found.insert(0, forbidden("value", "may not be changed in an update."))
        return found


class CrdStrategy(Strategy):
    CLEANUP = "customresourcecleanup.apiextensions.k8s.io"

    def receive(self, kind: Kind, new: JSON) -> None:
        custom.complete_names(new)

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        return custom_checks.problems(new, old, around.name_holder)

    def complete(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> None:
        finalizers = new["metadata"].setdefault("finalizers", [])
        if self.CLEANUP not in finalizers and not new["metadata"].get("deletionTimestamp"):
            finalizers.append(self.CLEANUP)
        custom.establish(new, timestamp(around.clock))
