"""The subresource scale: a few numbers of an object, in the form that is the same for all kinds that have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.api.selector import selector_text
from trimtab.server import errors
from trimtab.server.bodies import (
    APPLY_TYPES,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    Options,
    decode_json,
    decode_object,
    of_kind,
    write_options,
)
from trimtab.server.errors import Cause, StatusError
from trimtab.server.http import Reply, Request
from trimtab.server.kinds import Kind, Scale
from trimtab.server.objects import at_path, put_at_path
from trimtab.server.paths import Target
from trimtab.server.render import rendering_of
from trimtab.server.selectors import selector_of
from trimtab.server.views import viewed
from trimtab.server.writing import CHANGED_TRIES
from trimtab.store import Record

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

_SCALE = Kind("autoscaling", "v1", "Scale", "scales")
_BODY = ("autoscaling", "v1", "Scale")
_NAMES = ("autoscaling/v1", "Scale")


async def handle_scale(server: ApiServer, kind: Kind, target: Target, verb: str, request: Request) -> Reply:
    """Get, update and patch of `autoscaling/v1` Scale."""
    assert kind.scale is not None
    scale = kind.scale
    rendering = rendering_of(request, server.clock)
    record = server.store.get(kind.key(target.namespace, target.name))
    if record is None:
        raise errors.not_found(kind.plural, kind.group, target.name)
    if verb == "get":
        return Reply(rendering.made(_SCALE, _scale_of(kind, scale, viewed(kind, record))))
    if verb not in ("update", "patch"):
        raise errors.method_not_allowed()
    options = write_options(request)
    body = await request.body()
    for attempt in range(CHANGED_TRIES):
        found = server.store.get(record.key) or record
        before = _scale_of(kind, scale, viewed(kind, found))
        wanted = _changed_scale(before, request.content_type, body, verb, options)
        version = (wanted.get("metadata") or {}).get("resourceVersion")
        seen = await server.hooks.about(kind, target, "UPDATE", options, _BODY, wanted, before)
        by_webhooks = seen is not wanted

        def change(live: JSON, seen: JSON = seen, by_webhooks: bool = by_webhooks, found: Record = found) -> JSON:
            if by_webhooks:  # they have seen this one: no other
                if live["metadata"]["resourceVersion"] != str(found.revision):
                    raise errors.conflict(kind.plural, kind.group, target.name, errors.MODIFIED)
                return _scaled_to(kind, scale, live, seen, target)
            wanted = _changed_scale(_scale_of(kind, scale, live), request.content_type, body, verb, options)
            return _scaled_to(kind, scale, live, wanted, target)

        try:
            written = await server.writer.update(
                kind, target.namespace, target.name, change, options, subresource="scale", unasked=True
            )
            break
        except StatusError as err:
            if (
                err.reason != "Conflict"
                or not by_webhooks
                or (version and verb == "update")
                or attempt + 1 == CHANGED_TRIES
            ):
                raise
    warnings = list(dict.fromkeys(options.warnings))
    return Reply(rendering.made(_SCALE, _scale_of(kind, scale, viewed(kind, written.record))), warnings=warnings)


def _scaled_to(kind: Kind, scale: Scale, live: JSON, wanted: JSON, target: Target) -> JSON:
    """The object with what a Scale asks for. Raises `StatusError`."""
    replicas = (wanted.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        text = f"Invalid value: {replicas}: must be an integer greater than or equal to 0"
        raise errors.invalid("Scale", "autoscaling", target.name, [Cause("spec.replicas", text)])
    version = (wanted.get("metadata") or {}).get("resourceVersion")
    if version and version != live["metadata"]["resourceVersion"]:
        raise errors.conflict(kind.plural, kind.group, target.name, errors.MODIFIED)
    put_at_path(live, scale.spec_replicas, replicas)
    return live


def _changed_scale(current: JSON, content_type: str, body: bytes, verb: str, options: Options) -> JSON:
    from trimtab.server.patch import PatchError, json_patch, merge_patch

    if verb == "update":
        return of_kind(decode_object(body, content_type, options), *_NAMES)
    try:
        if content_type == JSON_PATCH:
            new = json_patch(current, decode_json(body, options))
        elif content_type in (MERGE_PATCH, STRATEGIC_PATCH):
            new = merge_patch(current, decode_json(body, options))
        elif content_type in APPLY_TYPES:
            new = merge_patch(current, decode_object(body, content_type, options))
        else:
            raise errors.unsupported_media(content_type, (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, *APPLY_TYPES))
    except PatchError as err:
        raise errors.bad_request(str(err)) from None
    if not isinstance(new, dict):
        raise errors.bad_request("the patch does not leave a Scale behind")
    return of_kind(new, *_NAMES)


def _scale_of(kind: Kind, scale: Scale, obj: JSON) -> JSON:
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: JSON = {"replicas": at_path(obj, scale.status_replicas) or 0}
    selector = at_path(obj, scale.selector) if scale.selector else None
    if scale.selector_is_map:
        selector = {"matchLabels": selector or {}}
    replicas = at_path(obj, scale.spec_replicas)
    text = selector if isinstance(selector, str) else selector_text(selector_of(selector))
    if text:
        status["selector"] = text
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }
