"""Kinds that storage drivers, networks and runtimes ask for: stored, completed and checked as on any cluster, shown by kubectl."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from webhook_cluster import MERGE, Cluster

STORAGE, NETWORK, NODE = (f"/apis/{group}.k8s.io/v1" for group in ("storage", "networking", "node"))
_MADE = ("finalizers", "uid", "resourceVersion", "creationTimestamp", "managedFields", "annotations", "generation")


def objects(namespace: str, mark: str, address: str) -> dict[str, dict[str, Any]]:
    """One of each kind by the path of its collection."""

    def made(api: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
        return {"apiVersion": api.removeprefix("/apis/"), "kind": kind, "metadata": {"name": name}, **content}

    capacity = made(STORAGE, "CSIStorageCapacity", mark, storageClassName="fast", capacity="1Gi")
    capacity["metadata"]["namespace"] = namespace
    drivers = [{"name": "disk.example.com", "nodeID": "n1", "topologyKeys": ["example.com/zone"]}]
    parent = {"resource": "services", "namespace": "default", "name": mark}
    return {
        f"{STORAGE}/csidrivers": made(STORAGE, "CSIDriver", mark, spec={"tokenRequests": [{"audience": "vault"}]}),
        f"{STORAGE}/csinodes": made(STORAGE, "CSINode", mark, spec={"drivers": drivers}),
        f"{STORAGE}/namespaces/{namespace}/csistoragecapacities": capacity,
        f"{STORAGE}/volumeattributesclasses": made(
            STORAGE, "VolumeAttributesClass", mark, driverName="disk.example.com", parameters={"iops": "9"}
        ),
        f"{NETWORK}/ipaddresses": made(NETWORK, "IPAddress", address, spec={"parentRef": parent}),
        f"{NETWORK}/servicecidrs": made(NETWORK, "ServiceCIDR", mark, spec={"cidrs": ["192.0.2.0/28"]}),
        f"{NODE}/runtimeclasses": made(NODE, "RuntimeClass", mark, handler="runsc"),
    }


def test_they_are_completed_stored_shown_and_removed(
    cluster: Cluster, kubectl: Callable[..., str], tmp_path: Path
) -> None:
    mark = f"stored-{secrets.token_hex(3)}"
    address = f"2001:db8::{1 + secrets.randbelow(0xFFFF):x}:1"  # as the API wants it: no zeros in front
    wanted = objects(cluster.namespace, mark, address)
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(wanted.values())}))

    kubectl("apply", "--server-side", "-f", str(file))
    try:
        shown = [" ".join(line.split()) for line in kubectl("get", "-f", str(file)).splitlines() if line]
        found = {path: cluster.call("GET", f"{path}/{obj['metadata']['name']}") for path, obj in wanted.items()}
    finally:
        attributes = f"{STORAGE}/volumeattributesclasses/{mark}"
        cluster.call("PATCH", attributes, {"metadata": {"finalizers": None}}, MERGE)  # of a controller that may not run
        kubectl("delete", "--wait=false", "-f", str(file))

    defaults = {
        "attachRequired": True,
        "podInfoOnMount": False,
        "storageCapacity": False,
        "fsGroupPolicy": "ReadWriteOnceWithFSType",
        "volumeLifecycleModes": ["Persistent"],
        "requiresRepublish": False,
        "seLinuxMount": False,
    }
    wanted[f"{STORAGE}/csidrivers"]["spec"] |= defaults
    wanted[f"{NETWORK}/servicecidrs"]["status"] = {}
    for path, obj in found.items():
        meta = {key: value for key, value in obj["metadata"].items() if key not in _MADE}
        assert {**obj, "metadata": meta} == wanted[path]
    rows = [shown[at : at + 2] for at in range(0, len(shown), 2)]
    timed = ("AGE", "CREATED AT")
    lines = [row.rpartition(" ")[0] if header.endswith(timed) else row for header, row in rows]
    assert lines == [
        f"csidriver.storage.k8s.io/{mark} true false false vault false Persistent",
        f"csinode.storage.k8s.io/{mark} 1",
        f"csistoragecapacity.storage.k8s.io/{mark}",
        f"volumeattributesclass.storage.k8s.io/{mark} disk.example.com",
        f"ipaddress.networking.k8s.io/{address} services/default/{mark}",
        f"servicecidr.networking.k8s.io/{mark} 192.0.2.0/28",
        f"runtimeclass.node.k8s.io/{mark} runsc",
    ]


def test_what_is_wrong_with_them_is_refused(cluster: Cluster) -> None:
    def causes(method: str, path: str, body: dict[str, Any]) -> list[tuple[str, str]]:
        media = MERGE if method == "PATCH" else "application/json"
        status = cluster.refusal(method, path, body, media)
        assert status["code"] == 422, status
        return [(cause["field"], cause["message"]) for cause in status["details"]["causes"]]

    mark = f"stored-{secrets.token_hex(3)}"
    meta = {"metadata": {"name": mark}}
    runtime = f"{NODE}/runtimeclasses"
    assert causes("POST", f"{STORAGE}/csidrivers", {**meta, "spec": {"volumeLifecycleModes": ["Forever"]}}) == [
        (
            "spec.volumeLifecycleModes",
            'Unsupported value: "Forever": supported values: "Persistent", "Ephemeral"',
        )
    ]
    assert causes("POST", f"{STORAGE}/csinodes", {**meta, "spec": {"drivers": [{"name": "a", "nodeID": ""}]}}) == [
        ("spec.drivers[0].nodeID", "Required value")
    ]
    twice = [{"name": "a", "nodeID": "n"}] * 2
    assert causes("POST", f"{STORAGE}/csinodes", {**meta, "spec": {"drivers": twice}}) == [
        ("spec.drivers[1].name", 'Duplicate value: "a"')
    ]
    no_size = {**meta, "storageClassName": "fast", "capacity": "much"}
    refused = cluster.refusal("POST", f"{STORAGE}/namespaces/{cluster.namespace}/csistoragecapacities", no_size)
    assert refused["code"] in (400, 422), "400 where quantities are decoded, 422 where they are checked"
    assert causes("POST", f"{NETWORK}/servicecidrs", {**meta, "spec": {"cidrs": []}}) == [
        ("spec.cidrs", "Required value: at least one CIDR required")
    ]
    [(field, _)] = causes(
        "POST", f"{NETWORK}/ipaddresses", {**meta, "spec": {"parentRef": {"resource": "a", "name": "b"}}}
    )
    assert field == "metadata.name"
    assert causes("POST", runtime, {**meta, "handler": ""}) == [("handler", "Required value")]

    cluster.call("POST", runtime, {**meta, "handler": "runsc"})
    cluster.removes(f"{runtime}/{mark}")
    assert causes("PATCH", f"{runtime}/{mark}", {"handler": "kata"}) == [
        ("handler", 'Invalid value: "kata": field is immutable')
    ]
