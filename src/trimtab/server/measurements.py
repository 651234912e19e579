"""`metrics.k8s.io`: what nodes and pods use now. Asked of the node agents when somebody asks here; nothing is kept.

    GET nodes | pods -> every node that is meant, at the same time -> their reports -> NodeMetrics, PodMetrics

A node that does not answer is left out of lists, as in Kubernetes; when none answers at all, the request fails and says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.builtin_kinds import BUILTIN_KINDS
from trimtab.server.http import Reply, Request, json_reply
from trimtab.server.kinds import Kind
from trimtab.server.objects import decode
from trimtab.server.paths import Target
from trimtab.server.selectors import parse_selector
from trimtab.server.streams import CONNECT_S, socket_of

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

ANSWER_S = 10.0
"""A node takes a second when nobody has asked lately; much more means that it is not well."""

_POD = next(kind for kind in BUILTIN_KINDS if kind.kind == "Pod")
_NODE = next(kind for kind in BUILTIN_KINDS if kind.kind == "Node")


async def measured(server: ApiServer, kind: Kind, target: Target, verb: str, request: Request) -> Reply:
    """Answers get and list. Raises `StatusError`: 404 of what is not known or not measured, 503 when no node answers."""
    if verb not in kind.verbs or target.subresource:
        raise errors.method_not_allowed()
    if verb == "list":
        selector = parse_selector(kind, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
        found = await (_nodes(server, "") if kind.kind == "NodeMetrics" else _pods(server, target.namespace, ""))
        return _listed(server, kind, [item for item in found if not selector or selector.matches(item)], request)
    if kind.kind == "NodeMetrics":
        items = await _nodes(server, target.name)
    else:
        items = await _pods(server, target.namespace, target.name)
    if not items:
        raise errors.not_found(kind.plural, kind.group, target.name)
    return json_reply(items[0])


def _listed(server: ApiServer, kind: Kind, items: list[JSON], request: Request) -> Reply:
    meta = {"resourceVersion": ""}
    if "as=Table" in request.headers.get("accept", ""):
        from trimtab.server.tables import TableOptions, table

        options = TableOptions(request.query.get("includeObject", "Metadata"), "v1", server.clock.now)
        return json_reply(table(kind, items, meta, options, with_columns=True))
    return json_reply({"kind": kind.list_name, "apiVersion": kind.api_version, "metadata": meta, "items": items})


async def _nodes(server: ApiServer, name: str) -> list[JSON]:
    names = [name] if name else [decode(r)["metadata"]["name"] for r in server.store.list(_NODE.collection)]
    records = [(one, server.store.get(_NODE.key("", one))) for one in names]
    known = [(one, decode(record)) for one, record in records if record is not None]
    reports = await _ask(server, [one for one, _ in known])
    return [
        _metrics("NodeMetrics", node, reports[one]) | {"usage": _usage(reports[one]["node"])}
        for one, node in known
        if one in reports
    ]


async def _pods(server: ApiServer, namespace: str, name: str) -> list[JSON]:
    if name:
        record = server.store.get(_POD.key(namespace, name))
        records = [record] if record is not None else []
    else:
        records = server.store.list(_POD.prefix(namespace))
    pods = {(p["metadata"]["namespace"], p["metadata"]["name"]): p for p in map(decode, records)}
    nodes = {p["spec"].get("nodeName", "") for p in pods.values()} - {""}
    found = []
    for report in (await _ask(server, nodes)).values():
        for used in report["pods"]:
            pod = pods.get((used["namespace"], used["name"]))
            if pod is not None and (pod.get("status") or {}).get("phase") == "Running":
                containers = [{"name": one["name"], "usage": _usage(one)} for one in used["containers"]]
                found.append(_metrics("PodMetrics", pod, report) | {"containers": containers})
    return sorted(found, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"]))


def _metrics(kind: str, of: JSON, report: JSON) -> JSON:
    kept = {key: of["metadata"][key] for key in ("name", "namespace", "labels") if of["metadata"].get(key)}
    return {
        "kind": kind,
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {**kept, "creationTimestamp": report["timestamp"]},
        "timestamp": report["timestamp"],
        "window": f"{report['windowSeconds']}s",
    }


def _usage(used: JSON) -> JSON:
    """Quantities as the metrics server writes them: nanocores, kibibytes."""
    return {"cpu": f"{used['cpu']}n", "memory": f"{used['memory'] >> 10}Ki"}


async def _ask(server: ApiServer, nodes: Iterable[str]) -> dict[str, JSON]:
    """The reports of those nodes that answer. Raises `StatusError` 503 when there are some and none does."""
    wanted = sorted(nodes)
    answers = await asyncio.gather(*(_report(socket_of(server, node)) for node in wanted), return_exceptions=True)
    reports, failures = {}, []
    for node, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, (OSError, TimeoutError, ValueError)):
            failures.append(f"{node}: {answer or 'it does not answer'}")
        elif isinstance(answer, BaseException):
            raise answer
        else:
            reports[node] = answer
    if failures and not reports:
        raise errors.unavailable(f"no node says what it uses: {'; '.join(failures)}")
    return reports


async def _report(socket: Path | None) -> dict[str, Any]:
    if socket is None:
        raise ConnectionError("this API server has no node agent")
    async with asyncio.timeout(CONNECT_S):
        reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        async with asyncio.timeout(ANSWER_S):
            # HTTP/1.0: the answer is not chunked and ends with the connection.
            writer.write(b"GET /usage HTTP/1.0\r\nhost: node\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.read(-1)
    except asyncio.IncompleteReadError:
        raise ConnectionError("the node agent closed the connection without an answer") from None
    finally:
        writer.close()
    status = head.split(b" ", 2)[1]
    if status != b"200":
        raise ConnectionError(body.decode(errors="replace").strip()[:200])
    report: dict[str, Any] = msgspec.json.decode(body)
    return report
