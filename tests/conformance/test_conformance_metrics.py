"""`/metrics`, on either server: what dashboards and alerts ask for has the same names, types and labels."""

from __future__ import annotations

from typing import Any

import kubernetes
from prometheus_client.parser import text_string_to_metric_families

LABELS: dict[str, tuple[str, set[str]]] = {
    "apiserver_request": (
        "counter",
        {"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"},
    ),
    "apiserver_request_duration_seconds": (
        "histogram",
        {"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "le"},
    ),
    "apiserver_request_sli_duration_seconds": (
        "histogram",
        {"verb", "group", "version", "resource", "subresource", "scope", "component", "le"},
    ),
    "apiserver_longrunning_requests": (
        "gauge",
        {"verb", "group", "version", "resource", "subresource", "scope", "component"},
    ),
    "apiserver_current_inflight_requests": ("gauge", {"request_kind"}),
    "apiserver_current_inqueue_requests": ("gauge", {"request_kind"}),
    "apiserver_resource_objects": ("gauge", {"group", "resource"}),
    "apiserver_storage_objects": ("gauge", {"resource"}),
    "apiserver_watch_events": ("counter", {"group", "version", "resource"}),
    "process_cpu_seconds": ("counter", set()),
    "process_start_time_seconds": ("gauge", set()),
    "process_resident_memory_bytes": ("gauge", set()),
    "process_virtual_memory_bytes": ("gauge", set()),
    "process_open_fds": ("gauge", set()),
    "process_max_fds": ("gauge", set()),
}
"""Of a family: its type, and the labels of its samples (a histogram's buckets)."""


def _families(client: Any) -> dict[str, Any]:
    settings = client.configuration
    headers = {"Authorization": settings.get_api_key_with_prefix("BearerToken")}
    answer = client.rest_client.pool_manager.request("GET", f"{settings.host}/metrics", headers=headers)
    return {family.name: family for family in text_string_to_metric_families(answer.data.decode())}


def test_figures_have_the_names_types_and_labels_that_dashboards_ask_for(client: Any, namespace: str) -> None:
    core = kubernetes.client.CoreV1Api(client)
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "counted"}})
    watch = core.list_namespaced_config_map(namespace, watch=True, _preload_content=False)
    events = watch.stream(1)  # held until the end: a generator that goes closes its connection
    next(events)

    found = _families(client)

    events.close()
    for name, (sort, labels) in LABELS.items():
        assert found[name].type == sort, name
        samples = [s for s in found[name].samples if sort != "histogram" or s.name.endswith("_bucket")]
        assert labels <= set(samples[0].labels), name
    buckets = {s.labels["le"] for s in found["apiserver_request_duration_seconds"].samples if "le" in s.labels}
    assert {"0.005", "0.1", "1", "5", "30", "60", "+Inf"} <= buckets


def test_a_request_is_counted_under_its_verb_and_code(client: Any, namespace: str) -> None:
    core = kubernetes.client.CoreV1Api(client)
    core.create_namespaced_secret(namespace, {"metadata": {"name": "counted"}})

    asked = [sample.labels for sample in _families(client)["apiserver_request"].samples]

    of = {"group": "", "version": "v1", "resource": "secrets", "subresource": "", "scope": "resource", "dry_run": ""}
    wanted = {**of, "component": "apiserver", "verb": "POST", "code": "201"}
    assert wanted in asked
