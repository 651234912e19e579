"""Subresources that are not the object itself: scale, a pod's binding and eviction and streams, a namespace's finalizers, a
ServiceAccount's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.api.quantity import parse_quantity
from trimtab.api.selector import selects
from trimtab.server import errors
from trimtab.server.bodies import (
    Options,
    dry_run,
    read_kind,
    write_options,
)
from trimtab.server.deleting import DeleteOptions
from trimtab.server.errors import Cause, StatusError
from trimtab.server.http import Answer, Reply, Request, json_reply
from trimtab.server.kinds import Kind
from trimtab.server.objects import decode, meta_of
from trimtab.server.paths import Target
from trimtab.server.selectors import selector_of
from trimtab.server.tokens import DEFAULT_S, MAX_S, MIN_S
from trimtab.server.views import viewed

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

PROXY = "proxy"
STREAMS = ("log", "exec", "attach", "portforward")


async def handle_subresource(server: ApiServer, kind: Kind, target: Target, verb: str, request: Request) -> Answer:
    """Answers a subresource of a built-in kind that its table entry names. Raises `StatusError`."""
    name = target.subresource
    if name in STREAMS:
        from trimtab.server.streams import stream_reply

        if name != "log":
            await _connected(server, kind, target, request)
        return await stream_reply(server, kind, target, request)
    if name == PROXY:
        from trimtab.server.proxying import proxy_answer

        await _connected(server, kind, target, request)
        return proxy_answer(server, kind, target, request)
    if name == "finalize" and verb == "update":
        return await _finalize(server, kind, target, request)
    if verb != "create":
        raise errors.method_not_allowed()
    match name:
        case "binding":
            return await _bind(server, kind, target, request)
        case "eviction":
            return await _evict(server, kind, target, request)
        case "token":
            return await _token(server, kind, target, request)
        case _:
            raise errors.no_such_path()


_CONNECT_FLAGS = ("stdin", "stdout", "stderr", "tty")


async def _connected(server: ApiServer, kind: Kind, target: Target, request: Request) -> None:
    """Asks webhooks about a stream into a pod. Raises `StatusError`."""
    said: JSON = {name: True for name in _CONNECT_FLAGS if request.flag(name)}
    if request.query.get("container"):
        said["container"] = request.query["container"]
    if request.values("command"):
        said["command"] = request.values("command")
    if ports := [int(port) for port in request.values("ports") if port.isdigit()]:
        said["ports"] = ports
    if target.subresource == PROXY:
        said["path"] = target.rest
    body = ("", "v1", next(body for known, body, _ in kind.subresources if known == target.subresource))
    await server.hooks.about(kind, target, "CONNECT", Options(), body, said)


# Namespaces


async def _finalize(server: ApiServer, kind: Kind, target: Target, request: Request) -> Reply:
    options = write_options(request)
    body = await read_kind(request, options, "v1", "Namespace")

    def change(live: JSON) -> JSON:
        live["spec"] = {"finalizers": (body.get("spec") or {}).get("finalizers") or []}
        return live

    written = await server.writer.update(kind, "", target.name, change, options, subresource="finalize")
    return json_reply(viewed(kind, written.record))


# Pods


async def _bind(server: ApiServer, kind: Kind, target: Target, request: Request) -> Reply:
    options = write_options(request)
    binding = await read_kind(request, options, "v1", "Binding")
    binding = await server.hooks.about(kind, target, "CREATE", options, ("", "v1", "Binding"), binding)
    node = (binding.get("target") or {}).get("name") or ""
    if not node:
        raise errors.invalid("Binding", "", target.name, [Cause("target.name", "Required value", "FieldValueRequired")])

    def change(live: JSON) -> JSON:
        bound = live["spec"].get("nodeName")
        if bound:
            why = f'pod {target.name} is already assigned to node "{bound}"'
            raise errors.conflict(kind.plural, kind.group, target.name, why)
        if live["metadata"].get("deletionTimestamp"):
            raise errors.conflict(
                kind.plural,
                kind.group,
                target.name,
                f"pod {target.name} is being deleted, cannot be assigned to a host",
            )
        live["spec"]["nodeName"] = node
        conditions = live.setdefault("status", {}).setdefault("conditions", [])
        if not any(condition["type"] == "PodScheduled" for condition in conditions):
            conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": server.now()})
        return live

    await server.writer.update(
        kind, target.namespace, target.name, change, options, subresource="binding", unasked=True
    )
    return json_reply({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}, 201)


async def _evict(server: ApiServer, kind: Kind, target: Target, request: Request) -> Reply:
    options = write_options(request)
    eviction = await read_kind(request, options, "policy/v1", "Eviction")
    eviction = await server.hooks.about(kind, target, "CREATE", options, ("policy", "v1", "Eviction"), eviction)
    asked = eviction.get("deleteOptions") or {}
    options.dry_run = options.dry_run or dry_run(asked.get("dryRun") or (), "DeleteOptions")
    conditions = asked.get("preconditions") or {}

    def unless(pod: JSON) -> None:
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed", "Pending"):
            _respect_budgets(server, target, pod)

    def doomed(live: JSON) -> JSON:
        """Says in the pod why it goes, for whoever counts its failures (a Job's podFailurePolicy)."""
        meta = live["metadata"]
        meant = all(meta.get(name) == conditions[name] for name in ("uid", "resourceVersion") if conditions.get(name))
        if meant and not meta.get("deletionTimestamp"):
            unless(live)
            status = live.setdefault("status", {})
            others = [c for c in status.get("conditions") or () if c.get("type") != "DisruptionTarget"]
            target_of = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
                "lastTransitionTime": server.now(),
            }
            status["conditions"] = [*others, target_of]
            conditions.pop("resourceVersion", None)  # it was looked at just now
        return live

    # One at a time: of two evictions that are judged at once each would see the other's pod serve.
    async with server.writer.locks(f"evictions of {target.namespace}"):
        if not options.dry_run:
            await server.writer.update(
                kind, target.namespace, target.name, doomed, options, subresource="status", unasked=True
            )
        await server.deleter.delete(
            kind,
            target.namespace,
            target.name,
            DeleteOptions(
                asked.get("gracePeriodSeconds"),
                asked.get("propagationPolicy") or "",
                uid=conditions.get("uid") or "",
                resource_version=conditions.get("resourceVersion") or "",
                dry_run=options.dry_run,
            ),
            unless=unless,
            unasked=True,
        )
    return json_reply({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}, 201)


def _respect_budgets(server: ApiServer, target: Target, pod: JSON) -> None:
    """Raises `StatusError` 429 when the eviction would break a disruption budget. A pod that is not ready may go, when
    the budget says so or when enough others are ready."""
    labels = pod["metadata"].get("labels") or {}
    for record in server.store.list(f"/policy/poddisruptionbudgets/{target.namespace}/"):
        spec = decode(record)["spec"]
        selector = selector_of(spec.get("selector"))
        if not selects(selector, labels):
            continue
        pods = [decode(other) for other in server.store.list(f"/core/pods/{target.namespace}/")]
        chosen = [p for p in pods if selects(selector, p["metadata"].get("labels") or {}) and not _finished(p)]
        healthy = sum(_ready(p) for p in chosen)
        needed = _needed(spec, _expected(server, target.namespace, spec, chosen))
        if _ready(pod):
            allowed = healthy - 1 >= needed
        else:
            allowed = spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow" or healthy >= needed
        if not allowed:
            name = meta_of(record).name
            said = "Cannot evict pod as it would violate the pod's disruption budget."
            message = f"The disruption budget {name} needs {needed} healthy pods and has {healthy} currently"
            err = errors.too_many_requests(f"{said} {message}")
            err.details = {"causes": [{"reason": "DisruptionBudget", "message": message}]}
            raise err


def _ready(pod: JSON) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _finished(pod: JSON) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


_SIZED = {
    "ReplicaSet": "/apps/replicasets/",
    "ReplicationController": "/core/replicationcontrollers/",
    "StatefulSet": "/apps/statefulsets/",
}


def _expected(server: ApiServer, namespace: str | None, spec: JSON, pods: list[JSON]) -> int:
    """The pods that there should be: with a plain minAvailable those that there are, else as many as their owners ask for."""
    if isinstance(spec.get("minAvailable"), int):
        return len(pods)
    sizes: dict[str, int] = {}
    for pod in pods:
        owners = pod["metadata"].get("ownerReferences") or ()
        owner = next((o for o in owners if o.get("controller") and o.get("kind") in _SIZED), None)
        record = server.store.get(f"{_SIZED[owner['kind']]}{namespace}/{owner['name']}") if owner else None
        if record is None:
            sizes[pod["metadata"]["uid"]] = 1
        else:
            sizes[meta_of(record).uid] = decode(record)["spec"].get("replicas", 1)
    return sum(sizes.values())


def _needed(spec: JSON, expected: int) -> int:
    """How many healthy pods a budget wants of so many."""
    if "maxUnavailable" in spec:
        return max(0, expected - _scaled(spec["maxUnavailable"], expected))
    return _scaled(spec.get("minAvailable", 1), expected)


def _scaled(value: int | str, total: int) -> int:
    """A number, or a percentage of the total, rounded up."""
    if isinstance(value, str) and value.endswith("%"):
        return -(-int(parse_quantity(value[:-1])) * total // 100)
    return int(value)


# ServiceAccounts


async def _token(server: ApiServer, kind: Kind, target: Target, request: Request) -> Reply:
    options = write_options(request)
    asked = await read_kind(request, options, "authentication.k8s.io/v1", "TokenRequest")
    body = ("authentication.k8s.io", "v1", "TokenRequest")
    asked = await server.hooks.about(kind, target, "CREATE", options, body, asked)
    spec = asked.get("spec") or {}
    record = server.store.get(kind.key(target.namespace, target.name))
    if record is None:
        raise errors.not_found(kind.plural, kind.group, target.name)
    seconds = spec.get("expirationSeconds", DEFAULT_S)
    if not isinstance(seconds, int) or not MIN_S <= seconds <= MAX_S:
        text = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes or larger than 2^32 seconds"
        raise errors.invalid(
            "TokenRequest", "authentication.k8s.io", target.name, [Cause("spec.expirationSeconds", text)]
        )
    bound = _bound(server, target, spec.get("boundObjectRef"))
    token, expires = server.tokens.issue(
        target.namespace, target.name, meta_of(record).uid, spec.get("audiences") or (), seconds, bound
    )
    return json_reply(
        {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": target.name, "namespace": target.namespace, "creationTimestamp": server.now()},
            "spec": {
                "audiences": spec.get("audiences") or [server.settings.issuer],
                "expirationSeconds": seconds,
                "boundObjectRef": spec.get("boundObjectRef"),
            },
            "status": {"token": token, "expirationTimestamp": expires},
        },
        201,
    )


def _bound(server: ApiServer, target: Target, reference: JSON | None) -> JSON | None:
    """What a token is bound to, checked. Raises `StatusError`."""
    if not reference:
        return None
    name = reference.get("name") or ""
    if reference.get("kind") != "Pod":
        raise errors.bad_request(f"cannot bind token to a {reference.get('kind')} object: only to a Pod")
    record = server.store.get(f"/core/pods/{target.namespace}/{name}")
    if record is None:
        raise errors.not_found("pods", "", name)
    meta = meta_of(record)
    if reference.get("uid") and reference["uid"] != meta.uid:
        why = f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record"
        raise StatusError(409, "Conflict", why)
    node = decode(record)["spec"].get("nodeName") or ""
    machine = server.store.get(f"/core/nodes/{node}") if node else None
    held = {"node": {"name": node, "uid": meta_of(machine).uid}} if machine is not None else {}
    return {"kind": "Pod", "name": name, "uid": meta.uid, **held}
