"""Requests for resources: which handler answers, and what it needs of body and query.

The verbs of plain objects are here; `subresources.py` has scale, eviction, binding and tokens, `reviews.py` the questions
about access, `streams.py` what goes on to the node agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.authorization import Attributes
from trimtab.server.bodies import (
    APPLY_TYPES,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    Options,
    check_depth,
    decode_json,
    read_object,
    write_options,
)
from trimtab.server.builtin_kinds import MEASURED, RBAC, REVIEWS
from trimtab.server.deleting import by_kind, delete_options, deleted_status
from trimtab.server.errors import Cause, StatusError
from trimtab.server.http import Answer, Reply, Request, json_reply
from trimtab.server.kinds import Kind
from trimtab.server.objects import copied
from trimtab.server.paths import Target
from trimtab.server.reading import list_answer, list_page
from trimtab.server.received import check_name
from trimtab.server.render import rendering_of
from trimtab.server.strategies.certificates import GROUP as CERTIFICATES
from trimtab.server.strategies.certificates import SUBRESOURCE as APPROVAL
from trimtab.server.strategies.ephemeral import SUBRESOURCE as EPHEMERAL
from trimtab.server.strategies.resizing import SUBRESOURCE as RESIZE
from trimtab.server.views import viewed
from trimtab.server.writing import Change, Written

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer


_PARTS = {("Pod", EPHEMERAL), ("Pod", RESIZE), ("CertificateSigningRequest", APPROVAL)}
"""Subresources, beside status, that are parts of the object itself."""


class Handlers:
    """Answers requests for resources of one server."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def handle(self, request: Request, target: Target, verb: str) -> Answer:
        """Raises `StatusError`."""
        kind = self._server.registry.find(target.group, target.version, target.plural)
        if kind is None:
            raise errors.no_such_path()
        if kind.namespaced and target.name and not target.namespace:
            raise errors.no_such_path()
        if not kind.namespaced and target.namespace:
            raise errors.no_such_path()
        if kind.kind in REVIEWS and not kind.crd:
            from trimtab.server.reviews import review

            return await review(self._server, kind, target, request)
        if kind.kind in MEASURED and not kind.crd:
            from trimtab.server.measurements import measured

            return await measured(self._server, kind, target, verb, request)
        if target.subresource:
            return await self._subresource(kind, target, verb, request)
        match verb:
            case "get":
                return self._get(kind, target, request)
            case "list":
                rendering = rendering_of(request, self._server.clock)
                page = list_page(self._server.store, kind, target.namespace, request)
                return list_answer(kind, page, rendering)
            case "watch":
                rendering = rendering_of(request, self._server.clock)
                return self._server.watches.stream(kind, target.namespace, target.name, request, rendering)
            case "create" if not target.name:
                return await self._create(kind, target, request)
            case "update":
                return await self._replace(kind, target, request, "")
            case "patch":
                return await self._patch(kind, target, request, "")
            case "delete":
                return await self._delete(kind, target, request)
            case "deletecollection" if "deletecollection" in kind.verbs:
                return await self._delete_collection(kind, target, request)
            case _:
                raise errors.method_not_allowed()

    async def _subresource(self, kind: Kind, target: Target, verb: str, request: Request) -> Answer:
        name = target.subresource
        if (name == "status" and kind.status) or (kind.kind, name) in _PARTS:
            match verb:
                case "get":
                    return self._get(kind, target, request)
                case "update":
                    return await self._replace(kind, target, request, name)
                case "patch":
                    return await self._patch(kind, target, request, name)
                case _:
                    raise errors.method_not_allowed()
        if name == "scale" and kind.scale is not None:
            from trimtab.server.scaling import handle_scale

            return await handle_scale(self._server, kind, target, verb, request)
        if not kind.crd and any(name == known for known, _, _ in kind.subresources):
            from trimtab.server.subresources import handle_subresource

            return await handle_subresource(self._server, kind, target, verb, request)
        if (socket := self._server.settings.endpoints.get((kind.group, kind.plural, name))) is not None:
            from trimtab.server.endpoints import endpoint_answer

            return endpoint_answer(self._server, kind, target, request, socket)
        raise errors.no_such_path()

    # Reading

    def _get(self, kind: Kind, target: Target, request: Request) -> Reply:
        rendering = rendering_of(request, self._server.clock)
        record = self._server.store.get(kind.key(target.namespace, target.name))
        if record is None:
            raise errors.not_found(kind.plural, kind.group, target.name)
        asked = request.integer("resourceVersion")
        if asked and asked > self._server.store.revision:
            raise errors.version_too_large(asked, self._server.store.revision)
        return Reply(rendering.one(kind, record), warnings=_deprecation(kind))

    # Writing

    def _written(self, kind: Kind, request: Request, written: Written, options: Options) -> Reply:
        rendering = rendering_of(request, self._server.clock)
        status = 201 if written.created else 200
        return Reply(rendering.one(kind, written.record), status, warnings=list(dict.fromkeys(options.warnings)))

    async def _create(self, kind: Kind, target: Target, request: Request) -> Reply:
        if kind.namespaced and not target.namespace:
            raise errors.bad_request("an empty namespace may not be set during creation")
        options = write_options(request)
        options.gathers = True
        obj = await read_object(request, options)
        self._refuse_escalation(kind, target.namespace, obj, request)
        written = await self._server.writer.create(kind, target.namespace, obj, options)
        return self._written(kind, request, written, options)

    async def _replace(self, kind: Kind, target: Target, request: Request, subresource: str) -> Reply:
        options = write_options(request)
        options.gathers = True
        obj = await read_object(request, options)

        def change(live: JSON) -> JSON:
            new, meta = obj, obj.get("metadata")
            if isinstance(meta, dict) and meta.get("managedFields") is None and "managedFields" in live["metadata"]:
                new = {**obj, "metadata": {**meta, "managedFields": live["metadata"]["managedFields"]}}
            self._refuse_escalation(kind, target.namespace, new, request, live, subresource)
            return new

        live = self._server.store.get(kind.key(target.namespace, target.name))
        if live is None:
            self._server.writer.check_body(kind, target.namespace, target.name, copied(obj), options)
        if live is None and kind.created_by_update and not subresource:
            if uid := obj["metadata"].get("uid"):
                why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: "
                raise errors.conflict(kind.plural, kind.group, target.name, why)
            self._refuse_creation(kind, target, request)
            self._refuse_escalation(kind, target.namespace, obj, request)
            written = await self._server.writer.create(kind, target.namespace, obj, options, name=target.name)
            return self._written(kind, request, written, options)
        written = await self._server.writer.update(
            kind, target.namespace, target.name, change, options, subresource=subresource
        )
        return self._written(kind, request, written, options)

    async def _patch(self, kind: Kind, target: Target, request: Request, subresource: str) -> Reply:
        options = write_options(request)
        if request.content_type in APPLY_TYPES:
            return await self._apply(kind, target, request, subresource, options)
        if request.flag("force"):
            raise errors.bad_request("force: Forbidden: may not be specified for non-apply patch")
        options.gathers = True
        body = await request.body()
        patch = self._patch_function(kind, request.content_type, body, options)
        if request.content_type == JSON_PATCH:
            options.duplicates[:] = [f"json patch {problem}" for problem in options.duplicates]
        tried: list[JSON] = []

        def change(live: JSON) -> JSON:
            new = patch(live)
            if options.validation == "Strict":
                tried[:] = [copied(new)]
            self._refuse_escalation(kind, target.namespace, new, request, live, subresource)
            return new

        try:
            written = await self._server.writer.update(
                kind, target.namespace, target.name, change, options, subresource=subresource
            )
        except errors.Undecodable as err:
            raise errors.invalid("", "", "", [Cause("patch", f"Invalid value: {err.message}")]) from None
        except errors.StrictlyRefused as err:
            from trimtab.server.patch import shown_patch

            shown = shown_patch(tried[-1], body if request.content_type == STRATEGIC_PATCH else b"")
            raise errors.invalid("", "", "", [Cause("patch", f"Invalid value: {shown}: {err.message}")]) from None
        return self._written(kind, request, written, options)

    def _patch_function(self, kind: Kind, content_type: str, body: bytes, options: Options) -> Change:
        from trimtab.server.patch import JsonPatchRefused, PatchError, json_patch, merge_patch, strategic_merge_patch

        if content_type not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH):
            raise errors.unsupported_media(content_type, (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, *APPLY_TYPES))
        if content_type == STRATEGIC_PATCH and kind.crd:
            raise errors.unsupported_media(content_type, (JSON_PATCH, MERGE_PATCH, *APPLY_TYPES))
        patch: Any = decode_json(body, options)
        schema = self._server.registry.schema(kind)

        def change(live: JSON) -> JSON:
            try:
                if content_type == JSON_PATCH:
                    new = json_patch(live, patch)
                elif content_type == MERGE_PATCH:
                    if not isinstance(patch, dict):
                        raise PatchError("error decoding patch: a merge patch must be an object")
                    new = merge_patch(live, patch)
                else:
                    named = {"apiVersion": live["apiVersion"], "kind": live["kind"]}
                    new = {**strategic_merge_patch(live, patch, schema), **named}  # the kind is not the patch's to say
            except PatchError as err:
                raise _patch_refused(err) from None
            if not isinstance(new, dict):
                raise _patch_refused(JsonPatchRefused("the patch does not leave an object behind"))
            check_depth(new)
            result: JSON = copied(new)
            return result

        return change

    async def _apply(self, kind: Kind, target: Target, request: Request, subresource: str, options: Options) -> Reply:
        from trimtab.server.apply import ApplyConflict, apply
        from trimtab.server.merge import ApplyInvalid

        if not request.query.get("fieldManager"):
            raise errors.bad_request("fieldManager: Required value: is required for apply patch")
        config = await read_object(request, options)
        server = self._server
        schema = server.registry.schema(kind)
        named = dict(config.get("metadata") or {})
        if subresource and server.store.get(kind.key(target.namespace, target.name)) is None:
            raise errors.not_found(kind.plural, kind.group, target.name)
        self._check_config(kind, target, config)
        dropped = schema.prune(copied(config))  # what is sent empty is owned, so the configuration itself stays
        if dropped:
            raise errors.not_declared(kind, named, dropped)
        group = f"{kind.group}/{kind.version}" if kind.group else f"/{kind.version}"
        typed = f"{named.get('namespace') or ''}/{named.get('name') or ''}; {group}, Kind={kind.kind}"
        now = server.now()

        def change(live: JSON | None) -> JSON:
            try:
                merged = apply(
                    live,
                    dict(config),
                    manager=options.manager,
                    force=options.force,
                    schema=schema,
                    now=now,
                    subresource=subresource,
                )
            except ApplyConflict as err:
                raise errors.apply_conflict(str(err), err.causes()) from None
            except ApplyInvalid as err:
                raise errors.bad_request(f"failed to create typed patch object ({typed}): {err}") from None
            self._refuse_escalation(kind, target.namespace, merged, request, live, subresource)
            result: JSON = copied(merged)
            return result

        key = kind.key(target.namespace, target.name)
        for _ in range(3):
            if server.store.get(key) is None:
                if subresource:
                    raise errors.not_found(kind.plural, kind.group, target.name)
                if (config.get("metadata") or {}).get("uid"):
                    raise errors.conflict(
                        kind.plural,
                        kind.group,
                        target.name,
                        "uid mismatch: the object that was applied to does not exist",
                    )
                self._refuse_creation(kind, target, request)
                made = change(None)
                check_name(made["metadata"], target.name)
                try:
                    written = await server.writer.create(kind, target.namespace, made, options, tracked=True)
                except StatusError as err:
                    if err.reason != "AlreadyExists" or isinstance(err, errors.Denied):
                        raise
                    continue  # somebody created it meanwhile: apply to that
            else:
                try:
                    written = await server.writer.update(
                        kind, target.namespace, target.name, change, options, subresource=subresource, tracked=True
                    )
                except StatusError as err:
                    if err.reason != "NotFound" or subresource or isinstance(err, errors.Denied):
                        raise
                    continue  # it was deleted meanwhile: create it
            return self._written(kind, request, written, options)
        raise errors.conflict(kind.plural, kind.group, target.name, "the object is created and deleted all the time")

    def _check_config(self, kind: Kind, target: Target, config: JSON) -> None:
        if config.get("apiVersion") != kind.api_version or config.get("kind") != kind.kind:
            raise errors.bad_request(
                f"the applied object is {config.get('apiVersion')} {config.get('kind')}, the URL names "
                f"{kind.api_version} {kind.kind}"
            )
        meta = config.setdefault("metadata", {})
        if not isinstance(meta, dict):
            raise errors.bad_request("metadata: expected an object")
        if meta.get("managedFields") is not None:
            raise errors.bad_request("metadata.managedFields must be nil")
        if kind.namespaced and meta.setdefault("namespace", target.namespace) != target.namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )

    # Deleting

    async def _delete(self, kind: Kind, target: Target, request: Request) -> Reply:
        options = by_kind(kind, await delete_options(request))
        written = await self._server.deleter.delete(kind, target.namespace, target.name, options)
        warnings = list(dict.fromkeys(options.warnings))
        if written.gone and not kind.shown_deleted:
            return json_reply(deleted_status(kind, written), warnings=warnings)
        if written.gone and (kind.group, kind.kind) == ("", "Pod"):
            return json_reply(self._ended_at_once(kind, written), warnings=warnings)
        return Reply(rendering_of(request, self._server.clock).one(kind, written.record), warnings=warnings)

    def _ended_at_once(self, kind: Kind, written: Written) -> JSON:
        """A pod that had nothing to wait for, as its deletion left it."""
        pod = copied(viewed(kind, written.record))
        meta = pod["metadata"]
        if not meta.get("deletionTimestamp"):
            meta |= {"deletionTimestamp": self._server.now(), "deletionGracePeriodSeconds": 0}
            meta["generation"] = meta.get("generation", 0) + 1
        return dict(pod)

    async def _delete_collection(self, kind: Kind, target: Target, request: Request) -> Answer:
        options = by_kind(kind, await delete_options(request))
        page = list_page(self._server.store, kind, target.namespace, request)
        deleted = []
        for record in page.records:
            meta = viewed(kind, record)["metadata"]
            try:
                await self._server.deleter.delete(kind, meta.get("namespace", ""), meta["name"], options, named=False)
            except StatusError as err:
                if err.code != 404 or isinstance(err, errors.Denied):
                    raise
            else:
                deleted.append(record)
        page.records = deleted
        return list_answer(kind, page, rendering_of(request, self._server.clock))

    # Rights

    def _refuse_creation(self, kind: Kind, target: Target, request: Request) -> None:
        """What an update or an apply would create, its sender has to be allowed to create. Raises `StatusError` 403."""
        asked = Attributes("create", kind.group, kind.plural, target.namespace, target.name)
        self._server.authorizer.require(request.user, asked)

    def _refuse_escalation(
        self,
        kind: Kind,
        namespace: str,
        obj: JSON,
        request: Request,
        live: JSON | None = None,
        subresource: str = "",
    ) -> None:
        """Nobody may grant, by a role, a binding or a certificate, more than they have."""
        if kind.group == CERTIFICATES and live is not None and subresource:
            from trimtab.server.signing_requests import refuse_decision

            refuse_decision(self._server, kind, subresource, obj, live, request.user)
        if kind.group != RBAC:
            return
        from trimtab.server.escalation import refuse_escalation

        refuse_escalation(self._server, kind, namespace, obj, live, request.user)


def _deprecation(kind: Kind) -> list[str]:
    return [kind.warning] if kind.warning else []


def _patch_refused(err: Exception) -> StatusError:
    from trimtab.server.patch import JsonPatchRefused

    if isinstance(err, JsonPatchRefused):
        return StatusError(422, "Invalid", f"the server rejected our request due to an error in our request: {err}")
    return errors.bad_request(str(err))
