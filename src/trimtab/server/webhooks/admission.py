"""Asking webhooks about a request: first, one after the other, those that may change the object; then, all at once, those that judge.

    Ask -> the hooks whose selectors choose it -> AdmissionReview -> allowed, patched, refused, or not reached (failurePolicy)

The order of things is the real server's: after each patch the object is completed by its defaults; after a round that has changed it
the server's own admission runs again, and then those webhooks that want to see what came after them (`reinvocationPolicy`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.audit import asking
from trimtab.server.authentication import AUTHENTICATED, MASTERS, User
from trimtab.server.clock import Clock, new_uid
from trimtab.server.errors import Denied
from trimtab.server.kinds import Kind
from trimtab.server.objects import copied
from trimtab.server.patch import PatchError, json_patch
from trimtab.server.views import as_stored, as_viewed
from trimtab.server.webhooks.calling import Caller, CallFailed
from trimtab.server.webhooks.configurations import Concerned, Configurations, Hook
from trimtab.store import Store

if TYPE_CHECKING:
    from trimtab.server.registry import Registry
    from trimtab.server.webhooks.conditions import Conditions

log = logging.getLogger(__name__)

REQUEST_MAX_S = 34.0
"""All webhooks of one request together: the real server's limit of a write."""
WARNINGS_MAX_CHARS = 4096
WARNING_MAX_CHARS = 256
"""Of each, when all together are more than the above: the real server's limits."""
_SERVER_ITSELF = User("system:apiserver", (MASTERS, AUTHENTICATED))


@dataclass(slots=True)
class Ask:
    """What webhooks are asked about. `obj` and `old` are in the version of `kind`, unless `body` says that they are of another kind
    (a Scale, a Binding, the options of a stream)."""

    kind: Kind
    operation: str
    namespace: str
    name: str
    subresource: str
    obj: JSON | None
    old: JSON | None
    options: JSON
    body: tuple[str, str, str] | None = None
    """Group, version and kind of the object of a subresource that is not of the resource's own kind."""
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    """What webhooks want to have noted of the request: `webhook/key` -> value."""
    deadline: float = 0.0

    def __post_init__(self) -> None:
        self.deadline = asyncio.get_running_loop().time() + REQUEST_MAX_S

    def limit(self, seconds: float) -> None:
        """The client does not wait longer than that."""
        self.deadline = min(self.deadline, asyncio.get_running_loop().time() + seconds)


class _Response(msgspec.Struct, rename="camel"):
    uid: str | None = None
    allowed: bool | None = False
    status: JSON | None = None
    patch: bytes | None = None
    patch_type: str | None = None
    audit_annotations: dict[str, str] | None = None
    warnings: list[str] | None = None


class _Review(msgspec.Struct, rename="camel"):
    api_version: str | None = None
    kind: str | None = None
    response: _Response | None = None


_decode = msgspec.json.Decoder(_Review).decode


class Admission:
    """The webhooks of one server."""

    def __init__(
        self, store: Store, registry: Registry, clock: Clock, labels: Callable[[str], Mapping[str, str]]
    ) -> None:
        """labels: those of a namespace."""
        self._configurations = Configurations(store, registry)
        self._caller = Caller(store, clock)
        self._clock = clock
        self._labels = labels

    def concerned(self, kind: Kind, operation: str, subresource: str = "") -> Concerned | None:
        """Who wants to hear of such an operation; None: nobody."""
        return self._configurations.concerned(kind, operation, subresource)

    def close(self) -> None:
        self._caller.close()

    # Those that may change the object

    async def mutate(
        self, concerned: Concerned, ask: Ask, default: Callable[[JSON], None], admit: Callable[[JSON], None]
    ) -> None:
        """Lets webhooks change `ask.obj`. default: completes an object that was patched; admit: the server's own admission.

        Raises:
            StatusError: somebody refuses, or cannot be asked and has to be.
        """
        again: set[Hook] = set()
        invoked: set[Hook] = set()
        changed = False
        for hook, version in concerned.mutating:
            if not self._chosen(hook, version, ask):
                continue
            if await self._changes(hook, version, ask, default):
                changed = True
                again |= invoked
                invoked.clear()
            if hook.reinvoked:
                invoked.add(hook)
        if not changed or ask.obj is None:
            return
        before = copied(ask.obj)
        admit(ask.obj)
        if ask.obj != before:
            again |= invoked
        for hook, version in concerned.mutating:
            if hook in again and self._chosen(hook, version, ask):
                await self._changes(hook, version, ask, default)

    async def _changes(self, hook: Hook, version: Kind, ask: Ask, default: Callable[[JSON], None]) -> bool:
        response = await self._asked(hook, version, ask, mutating=True)
        if response is None or not response.patch:
            return False
        try:
            operations = msgspec.json.decode(response.patch)
        except msgspec.DecodeError as err:
            return self._failed(hook, f"received undecodable patch in webhook response: {err}")
        if not operations:
            return False
        if ask.obj is None:
            text = f'admission webhook "{hook.name}" attempted to modify the object, which is not supported for this operation'
            raise errors.internal(text)
        if response.patch_type != "JSONPatch":
            return self._failed(hook, f'unsupported patch type "{response.patch_type}"')
        try:
            new = json_patch(_converted(ask, version, ask.obj), operations)
        except PatchError as err:
            raise errors.internal(str(err)) from None
        if not isinstance(new, dict) or not isinstance(new.get("metadata", {}), dict):
            raise errors.internal(f'the patch of admission webhook "{hook.name}" does not leave an object behind')
        new = copied(new)
        if not ask.body and version is not ask.kind:
            new = as_viewed(ask.kind, as_stored(version, new))
        if (new.get("apiVersion"), new.get("kind")) != (ask.obj.get("apiVersion"), ask.obj.get("kind")):
            raise errors.internal(f'the patch of admission webhook "{hook.name}" changes the kind of the object')
        default(new)
        changed = bool(new != ask.obj)
        ask.obj = new
        return changed

    # Those that judge

    async def validate(self, concerned: Concerned, ask: Ask) -> None:
        """Raises `StatusError`: somebody refuses, or cannot be asked and has to be."""
        chosen = [(hook, version) for hook, version in concerned.validating if self._chosen(hook, version, ask)]
        if len(chosen) == 1:
            await self._asked(*chosen[0], ask, mutating=False)
            return
        asked = (self._asked(hook, version, ask, mutating=False) for hook, version in chosen)
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    # Both

    def _chosen(self, hook: Hook, version: Kind, ask: Ask) -> bool:
        """Whether selectors and conditions choose the request. Raises `StatusError` where conditions cannot say, and have to."""

        def labels() -> Mapping[str, str] | None:
            if ask.kind.plural == "namespaces":
                if not ask.subresource and ask.operation in ("CREATE", "UPDATE"):
                    return ((ask.obj or {}).get("metadata") or {}).get("labels") or {}
                return self._labels(ask.name)
            return self._labels(ask.namespace) if ask.namespace else None

        if not hook.selects(labels, ask.obj, ask.old):
            return False
        return hook.conditions is None or _holds(hook, hook.conditions, version, ask)

    async def _asked(self, hook: Hook, version: Kind, ask: Ask, *, mutating: bool) -> _Response | None:
        """What a webhook says that lets the request pass; None when it could not be asked and need not. Raises `StatusError`."""
        if ask.dry_run and not hook.without_side_effects:
            raise errors.bad_request(f'admission webhook "{hook.name}" does not support dry run')
        uid = new_uid(self._clock)
        body = msgspec.json.encode(_review(uid, hook, version, ask))
        left_s = ask.deadline - asyncio.get_running_loop().time()
        try:
            if left_s <= 0:
                raise CallFailed("context deadline exceeded")
            answer = await self._caller.post(hook.client, body, min(float(hook.timeout_s), left_s))
            response = _read(answer, f"admission.k8s.io/{_version(hook)}")
            why = _verified(response, uid, hook, mutating=mutating)
        except CallFailed as err:
            if asyncio.get_running_loop().time() >= ask.deadline:
                raise errors.timeout() from None
            self._failed(hook, f"failed to call webhook: {err}")
            return None
        if why is not None or response.response is None:
            self._failed(hook, f"received invalid webhook response: {why}")
            return None
        said = response.response
        for key, value in (said.audit_annotations or {}).items():
            ask.annotations[f"{hook.name}/{key}"] = value
        _warn(ask, said.warnings or [])
        if not said.allowed:
            raise _refused(hook.name, said.status)
        return said

    def _failed(self, hook: Hook, why: str) -> bool:
        """False where the webhook may be passed over. Raises `StatusError` 500 where it may not."""
        text = f'failed calling webhook "{hook.name}": {why}'
        if not hook.ignores_failures:
            raise errors.internal(text)
        log.warning("%s (configuration %s ignores failures)", text, hook.configuration)
        return False


def _holds(hook: Hook, conditions: Conditions, version: Kind, ask: Ask) -> bool:
    from trimtab.server.webhooks.conditions import ConditionsFailed

    old, obj = _converted(ask, version, ask.old), _converted(ask, version, ask.obj)
    try:
        return conditions.hold(_request(version, ask), obj, old)
    except ConditionsFailed as err:
        if hook.ignores_failures:
            log.warning("match conditions of %s (configuration %s): %s", hook.name, hook.configuration, err)
            return False
        raise errors.forbidden(ask.kind.plural, ask.kind.group, ask.name, str(err)) from None


def _version(hook: Hook) -> str:
    return next((version for version in hook.versions if version in ("v1", "v1beta1")), "v1")


def _review(uid: str, hook: Hook, version: Kind, ask: Ask) -> JSON:
    objects = {"object": _converted(ask, version, ask.obj), "oldObject": _converted(ask, version, ask.old)}
    request = {"uid": uid, **_request(version, ask), **objects}
    return {"kind": "AdmissionReview", "apiVersion": f"admission.k8s.io/{_version(hook)}", "request": request}


def _request(version: Kind, ask: Ask) -> JSON:
    """An AdmissionRequest without its objects."""
    kind = ask.kind
    body = ask.body
    asker = asking.get()
    request: JSON = {
        "kind": _gvk(*(body or (version.group, version.version, version.kind))),
        "resource": {"group": version.group, "version": version.version, "resource": version.plural},
        "requestKind": _gvk(*(body or (kind.group, kind.version, kind.kind))),
        "requestResource": {"group": kind.group, "version": kind.version, "resource": kind.plural},
        "operation": ask.operation,
        "userInfo": (asker.user if asker is not None else _SERVER_ITSELF).wire(),
        "dryRun": ask.dry_run,
        "options": ask.options or None,
    }
    named = {"name": ask.name, "namespace": ask.namespace, "subResource": ask.subresource}
    request |= {key: value for key, value in named.items() if value}
    if ask.subresource:
        request["requestSubResource"] = ask.subresource
    return request


def _gvk(group: str, version: str, kind: str) -> JSON:
    return {"group": group, "version": version, "kind": kind}


def _converted(ask: Ask, version: Kind, obj: JSON | None) -> JSON | None:
    """The object in the version in which a webhook wants to see it."""
    if obj is None or ask.body or version is ask.kind:
        return obj
    return as_viewed(version, as_stored(ask.kind, obj))


def _read(answer: bytes, api_version: str) -> _Review:
    """Raises `CallFailed`."""
    try:
        review = _decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise CallFailed(f"couldn't get version/kind; json parse error: {err}") from None
    if (review.kind or "AdmissionReview") != "AdmissionReview":
        raise CallFailed(f'no kind "{review.kind}" is registered for version "{review.api_version}"')
    if (review.api_version or api_version) != api_version:
        raise CallFailed(f"expected an answer in {api_version}, got {review.api_version}")
    return review


def _verified(review: _Review, uid: str, hook: Hook, *, mutating: bool) -> str | None:
    """What is wrong with an answer, or None."""
    response = review.response
    if response is None:
        return "webhook response was absent"
    if _version(hook) == "v1beta1":
        if response.patch and not response.patch_type:
            response.patch_type = "JSONPatch"
        return None
    if (response.uid or "") != uid:
        return f'expected response.uid="{uid}", got "{response.uid or ""}"'
    if not mutating:
        if response.patch:
            return "validating webhook may not return response.patch"
        return "validating webhook may not return response.patchType" if response.patch_type is not None else None
    if response.patch and response.patch_type is None:
        return "webhook returned response.patch but not response.patchType"
    if not response.patch and response.patch_type is not None:
        return "webhook returned response.patchType but not response.patch"
    return None


def _refused(name: str, status: JSON | None) -> Denied:
    """A webhook's refusal in the form of the API's own."""
    said = status or {}
    code, message, reason = said.get("code"), said.get("message"), said.get("reason")
    denied = f'admission webhook "{name}" denied the request'
    because = message or reason
    text = f"{denied}: {because}" if because else f"{denied} without explanation"
    details = said.get("details")
    return Denied(
        code if isinstance(code, int) and 400 <= code <= 599 else 400,
        reason if isinstance(reason, str) else "",
        text,
        details if isinstance(details, dict) else None,
    )


def _warn(ask: Ask, warnings: list[str]) -> None:
    if sum(map(len, (*ask.warnings, *warnings))) > WARNINGS_MAX_CHARS:
        warnings = [text[:WARNING_MAX_CHARS] for text in warnings]
    room = WARNINGS_MAX_CHARS - sum(map(len, ask.warnings))
    for text in warnings:
        room -= len(text)
        if room < 0:
            return
        ask.warnings.append(text)
