"""Objects as the Kubernetes documentation's examples have them, in our own words: the same kinds, images, ports and relations."""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]


def container(name: str, image: str, *command: str, port: int = 0, **more: Any) -> JSON:
    out: JSON = {"name": name, "image": image, **more}
    if command:
        out["command"] = list(command)
    if port:
        out["ports"] = [{"containerPort": port}]
    return out


def template(labels: dict[str, str], *containers: JSON, **spec: Any) -> JSON:
    meta = {"metadata": {"labels": labels}} if labels else {}
    return {**meta, "spec": {"containers": list(containers), "terminationGracePeriodSeconds": 2, **spec}}


def obj(api_version: str, kind: str, name: str, spec: JSON, **meta: Any) -> JSON:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec}


def pod(name: str, *containers: JSON, labels: dict[str, str] | None = None, **spec: Any) -> JSON:
    made = template({}, *containers, **spec)["spec"]
    return obj("v1", "Pod", name, made, labels=labels or {})


def deployment(name: str, replicas: int, labels: dict[str, str], *containers: JSON, **spec: Any) -> JSON:
    made = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": template(labels, *containers),
        **spec,
    }
    return obj("apps/v1", "Deployment", name, made)


def service(name: str, labels: dict[str, str], *ports: tuple[str, int], **spec: Any) -> JSON:
    listed = [{"name": port, "port": number} if port else {"port": number} for port, number in ports]
    return obj("v1", "Service", name, {"ports": listed, "selector": labels, **spec})


def stateful_set(name: str, service_name: str, replicas: int, made: JSON, claim: str, size: str, **spec: Any) -> JSON:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return obj(
        "apps/v1",
        "StatefulSet",
        name,
        {
            "serviceName": service_name,
            "replicas": replicas,
            "selector": {"matchLabels": made["metadata"]["labels"]},
            "template": made,
            "volumeClaimTemplates": [{"metadata": {"name": claim}, "spec": asked}],
            **spec,
        },
    )


def job(name: str, made: JSON, **spec: Any) -> JSON:
    made["spec"].setdefault("restartPolicy", "Never")
    return obj("batch/v1", "Job", name, {"template": made, **spec})
