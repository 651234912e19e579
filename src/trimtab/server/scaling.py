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
from trimtab.server.objects import at_path, copied, put_at_path
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
SUBRESOURCE = "scale"


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
    config = None
    if verb == "patch" and request.content_type in APPLY_TYPES:
        config = _configuration(request, body, options)
    for attempt in range(CHANGED_TRIES):
        found = server.store.get(record.key) or record
        before = _scale_of(kind, scale, viewed(kind, found))
        wanted = _changed_scale(before, request.content_type, body, verb, options)
        version = (wanted.get("metadata") or {}).get("resourceVersion")
        seen = await server.hooks.about(kind, target, "UPDATE", options, _BODY, wanted, before)
        by_webhooks = seen is not wanted

        def change(live: JSON, seen: JSON = seen, by_webhooks: bool = by_webhooks, found: Record = found) -> JSON:
            if by_webhooks and live["metadata"]["resourceVersion"] != str(found.revision):
                raise errors.conflict(
                    kind.plural, kind.group, target.name, errors.MODIFIED
                )  # they have seen this one: no other
            wanted = seen
            if not by_webhooks:
                wanted = _changed_scale(_scale_of(kind, scale, live), request.content_type, body, verb, options)
            if config is None:
                return _updated(server, kind, scale, live, wanted, options)
            return _applied(server, kind, scale, live, wanted if by_webhooks else None, config, options)

        try:
            written = await server.writer.update(
                kind,
                target.namespace,
                target.name,
                change,
                options,
                subresource=SUBRESOURCE,
                unasked=True,
                tracked=True,
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


def _configuration(request: Request, body: bytes, options: Options) -> JSON:
    """The Scale that is applied. Raises `StatusError`."""
    from trimtab.server.schemas import builtin

    if not request.query.get("fieldManager"):
        raise errors.bad_request("fieldManager: Required value: is required for apply patch")
    config = decode_object(body, request.content_type, options)
    version, name = config.get("apiVersion") or "", config.get("kind") or ""
    if (version, name) != _NAMES:
        said = str(version)
        raise errors.bad_request(f"invalid object type: {said if '/' in said else '/' + said}, Kind={name}")
    schema = builtin(*_NAMES)
    assert schema is not None
    meta = config.get("metadata")
    if dropped := schema.prune(copied(config)):
        raise errors.not_declared(_SCALE, meta if isinstance(meta, dict) else {}, dropped)
    of_kind(copied(config), *_NAMES)  # which takes zeros away, and a zero that is applied is owned
    return config


def _updated(server: ApiServer, kind: Kind, scale: Scale, live: JSON, wanted: JSON, options: Options) -> JSON:
    """The object with what a Scale asks for, and who asked. Raises `StatusError`."""
    from trimtab.server.apply import track_update

    old = copied(live)
    _scale_to(kind, scale, live, wanted)
    track_update(
        old,
        live,
        manager=options.manager,
        schema=server.registry.schema(kind),
        now=server.now(),
        subresource=SUBRESOURCE,
    )
    managed = live["metadata"].get("managedFields")
    # A Scale leaves zero out, so it is nobody's; and where nobody holds the number, nobody is noted for changing it.
    if managed and not (at_path(live, scale.spec_replicas) and _held(old, scale)):
        live["metadata"]["managedFields"] = [
            entry for entry in managed if (entry["operation"], entry.get("subresource")) != ("Update", SUBRESOURCE)
        ]
    return live


def _held(obj: JSON, scale: Scale) -> bool:
    """Whether anybody is noted for the number of replicas."""
    path = ".".join(f"f:{part}" for part in scale.spec_replicas.split("."))
    return any(at_path(entry["fieldsV1"], path) is not None for entry in obj["metadata"].get("managedFields") or ())


def _held_from_before(kind: Kind, scale: Scale, live: JSON, now: str) -> JSON:
    """The object with somebody who holds the number that nobody is noted for, as the first apply to anything has it."""
    fields: JSON = {}
    put_at_path(fields, ".".join(f"f:{part}" for part in scale.spec_replicas.split(".")), {})
    entry = {
        "manager": "before-first-apply",
        "operation": "Update",
        "apiVersion": kind.api_version,
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        "subresource": SUBRESOURCE,
    }
    meta = live["metadata"]
    return {**live, "metadata": {**meta, "managedFields": [*(meta.get("managedFields") or ()), entry]}}


def _applied(
    server: ApiServer, kind: Kind, scale: Scale, live: JSON, wanted: JSON | None, config: JSON, options: Options
) -> JSON:
    """The object after a manager applies a Scale to it; `wanted` is what webhooks have made of that. Raises `StatusError`."""
    from trimtab.server.apply import ApplyConflict, apply

    name = live["metadata"]["name"]
    if at_path(live, scale.spec_replicas) and not _held(live, scale):
        live = _held_from_before(kind, scale, live, server.now())
    part: JSON = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}}
    replicas = (config.get("spec") or {}).get("replicas")
    if replicas is not None:
        put_at_path(part, scale.spec_replicas, replicas)
    try:
        merged = apply(
            live,
            part,
            manager=options.manager,
            force=options.force,
            schema=server.registry.schema(kind),
            now=server.now(),
            subresource=SUBRESOURCE,
        )
    except ApplyConflict as err:
        own, said = f"using {kind.api_version}", f"using {_NAMES[0]}"
        shown = ApplyConflict([(manager.replace(own, said), ".spec.replicas") for manager, _ in err.conflicts])
        raise errors.apply_conflict(str(shown), shown.causes()) from None
    new: JSON = copied(merged)
    meta = {key: value for key, value in (config.get("metadata") or {}).items() if key == "resourceVersion"}
    left = {"metadata": meta, "spec": {"replicas": at_path(new, scale.spec_replicas) or 0}}
    _scale_to(kind, scale, new, left if wanted is None else wanted)
    return new


def _scale_to(kind: Kind, scale: Scale, obj: JSON, wanted: JSON) -> None:
    """Gives the object, in place, what a Scale asks for. Raises `StatusError`."""
    name = obj["metadata"]["name"]
    replicas = (wanted.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        text = f"Invalid value: {replicas}: must be an integer greater than or equal to 0"
        raise errors.invalid("Scale", "autoscaling", name, [Cause("spec.replicas", text)])
    version = (wanted.get("metadata") or {}).get("resourceVersion")
    if version and version != obj["metadata"]["resourceVersion"]:
        raise errors.conflict(kind.plural, kind.group, name, errors.MODIFIED)
    put_at_path(obj, scale.spec_replicas, replicas)


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
