"""A run as a trace: sent by OTLP over HTTP after it, when OpenTelemetry's variables say where to.

    record -> one span for the run, one below it for each step that ran -> JSON -> POST .../v1/traces

    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME
    TRACEPARENT: the span that the run belongs to (W3C trace context)

The form is OTLP's JSON, names are OpenTelemetry's conventions for CI/CD. It is made of the record, where no secret is. A
collector that does not answer is named once and changes nothing of the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

JSON = dict[str, Any]

TIMEOUT_S = 5.0
_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_RESULTS = {
    "succeeded": "success",
    "hit": "success",
    "failed": "failure",
    "fault": "error",
    "cancelled": "cancellation",
}
_OK, _ERROR = 1, 2
_INTERNAL = 1


def endpoint(env: Mapping[str, str] = os.environ) -> str:
    """Where traces go; "" for nowhere."""
    if exact := env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return exact
    base = env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    return f"{base.rstrip('/')}/v1/traces" if base else ""


def send(record: JSON, env: Mapping[str, str] = os.environ) -> str:
    """Sends the trace of a run, if it is wanted anywhere. Returns one line of what went wrong, "" when nothing did."""
    to = endpoint(env)
    if not to:
        return ""
    import http.client

    place = urlsplit(to)
    if place.scheme not in ("http", "https") or not place.hostname:
        return f"OpenTelemetry: {to} is no address; write http://HOST:4318"
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname, place.port, timeout=TIMEOUT_S)
    try:
        body = json.dumps(trace(record, env), separators=(",", ":"))
        connection.request("POST", place.path or "/", body, {"content-type": "application/json", **_headers(env)})
        answer = connection.getresponse()
        said = answer.read(500).decode(errors="replace").strip().split("\n")[0]
        return "" if answer.status < 300 else f"OpenTelemetry: {to} answers {answer.status} {said}".strip()
    except (OSError, http.client.HTTPException) as err:
        return f"OpenTelemetry: {to} does not take the trace: {err or type(err).__name__}"
    finally:
        connection.close()


def _headers(env: Mapping[str, str]) -> dict[str, str]:
    said = env.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or env.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    pairs = (pair.partition("=") for pair in said.split(",") if "=" in pair)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def trace(record: JSON, env: Mapping[str, str] = os.environ) -> JSON:
    """The request's body. Ids follow from the run's id, so that sending twice is one trace."""
    parent = _PARENT.fullmatch(env.get("TRACEPARENT", ""))
    trace_id = parent[1] if parent else _id(record["id"], 16)
    root = _span(
        trace_id,
        _id(f"{record['id']} run", 8),
        parent[2] if parent else "",
        record["pipeline"],
        record["started"],
        record["seconds"],
        {
            "cicd.pipeline.name": record["pipeline"],
            "cicd.pipeline.run.id": record["id"],
            "cicd.pipeline.result": _RESULTS.get(record["state"], record["state"]),
            "vcs.ref.head.revision": record["commit"],
            "trimtab.ci.saved_seconds": record["savedSeconds"],
        },
        record["said"] if record["state"] != "succeeded" else None,
    )
    resource = {"service.name": env.get("OTEL_SERVICE_NAME") or "trimtab-ci", "host.name": record["host"]["name"]}
    scope = {"name": "trimtab.ci", "version": record["engine"]}
    spans = [root, *_steps(record, trace_id, root["spanId"])]
    return {
        "resourceSpans": [
            {"resource": {"attributes": _attributes(resource)}, "scopeSpans": [{"scope": scope, "spans": spans}]}
        ]
    }


def _steps(record: JSON, trace_id: str, parent: str) -> Iterator[JSON]:
    for id, step in record["steps"].items():
        if step["state"] not in _RESULTS:
            continue
        failed = step["state"] in ("failed", "fault")
        tests = {f"trimtab.ci.tests.{name}": count for name, count in step.get("tests", {}).items()}
        yield _span(
            trace_id,
            _id(f"{record['id']} step {id}", 8),
            parent,
            id,
            record["started"] + step["started"],
            step["seconds"],
            {
                "cicd.pipeline.task.name": step["name"],
                "cicd.pipeline.task.run.id": f"{record['id']}/{id}",
                "cicd.pipeline.task.run.result": _RESULTS[step["state"]],
                "trimtab.ci.state": step["state"],
                "trimtab.ci.reason": step.get("reason", ""),
                "trimtab.ci.on_critical_path": id in record["criticalPath"],
                "trimtab.ci.exit": step.get("exit"),
                "trimtab.ci.cpu_seconds": step.get("cpuSeconds"),
                "trimtab.ci.rss_bytes": step.get("rssBytes"),
                "code.line.number": int(step["site"].rpartition(":")[2]),
                **tests,
            },
            (step.get("said") or step.get("ended") or "failed") if failed else None,
        )


def _span(
    trace_id: str,
    id: str,
    parent: str,
    name: str,
    started: float,
    seconds: float,
    about: Mapping[str, Any],
    wrong: str | None,
) -> JSON:
    begin = int(started * 1e9)
    out: JSON = {
        "traceId": trace_id,
        "spanId": id,
        "name": name,
        "kind": _INTERNAL,
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": str(begin + int(seconds * 1e9)),
        "attributes": _attributes(about),
        "status": {"code": _OK} if wrong is None else {"code": _ERROR, "message": wrong},
    }
    return {**out, "parentSpanId": parent} if parent else out


def _attributes(about: Mapping[str, Any]) -> list[JSON]:
    return [{"key": name, "value": _value(value)} for name, value in about.items() if value not in (None, "")]


def _value(value: Any) -> JSON:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _id(text: str, size_bytes: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[: 2 * size_bytes]
