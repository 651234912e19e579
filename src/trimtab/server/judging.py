"""Writes of kinds that are made while the engine runs, judged by a component of the engine that listens at a unix socket.

    Writer, Deleter --AdmissionReview--> socket: POST /admit --> warnings, or causes by field, as if the server had found them itself

As a webhook, but told of by nobody's configuration, and passed over, with a warning, when it does not answer in time: what could not be
judged when it was written, its conditions tell. Nothing is asked about status, about a write that leaves the spec as it is, or about
what the server does by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.audit import asking
from trimtab.server.errors import Cause
from trimtab.server.hooks import Asked
from trimtab.server.kinds import Kind

ASK_S = 5.0
DRY_RUN_S = 30.0
"""A dry run waits for a plan, for which a cloud is asked."""
ANSWER_MAX_BYTES = 1 << 20


class Judged(Asked):
    """One write that a component judges, after the webhooks, if any."""

    def __init__(self, webhooks: Asked | None, socket: Path, kind: Kind, operation: str, *, dry_run: bool) -> None:
        self._webhooks = webhooks
        self._socket = socket
        self._kind = kind
        self._operation = operation
        self._dry_run = dry_run
        self._warnings: list[str] = []

    @property
    def warnings(self) -> list[str]:
        return [*(self._webhooks.warnings if self._webhooks is not None else ()), *self._warnings]

    @property
    def annotations(self) -> Mapping[str, str]:
        return self._webhooks.annotations if self._webhooks is not None else {}

    async def change(
        self,
        obj: JSON | None,
        old: JSON | None,
        default: Callable[[JSON], None] = lambda obj: None,
        admit: Callable[[JSON], None] = lambda obj: None,
    ) -> JSON:
        if self._webhooks is not None:
            return await self._webhooks.change(obj, old, default, admit)
        return obj or {}

    async def judge(self, obj: JSON | None, old: JSON | None = None) -> None:
        if self._webhooks is not None:
            await self._webhooks.judge(obj, old)
        self._warnings = []
        if obj is not None and obj["metadata"].get("deletionTimestamp"):
            return
        if obj is not None and old is not None and obj.get("spec") == old.get("spec") and not self._dry_run:
            return
        limit_s = DRY_RUN_S if self._dry_run else ASK_S
        try:
            async with asyncio.timeout(limit_s):
                response = await self._asked(obj, old)
        except TimeoutError:
            self._warnings = [self._unasked(f"no answer within {limit_s:.0f} s")]
            return
        except (OSError, ValueError) as err:
            self._warnings = [self._unasked(getattr(err, "strerror", None) or str(err))]
            return
        self._warnings = [str(text) for text in response.get("warnings") or ()]
        if not response.get("allowed"):
            self._refuse(obj if obj is not None else old or {}, response.get("status") or {})

    def _unasked(self, why: str) -> str:
        return f"the provider of {self._kind.plural}.{self._kind.group} was not asked about this ({why}): the object's conditions say what it says"

    def _refuse(self, obj: JSON, status: JSON) -> None:
        kind, causes = self._kind, (status.get("details") or {}).get("causes") or ()
        found = [Cause(one["field"], one["message"]) for one in causes]
        errors.raise_problems(kind.kind, kind.group, obj, found)
        raise errors.forbidden(kind.plural, kind.group, obj["metadata"].get("name") or "", str(status.get("message")))

    async def _asked(self, obj: JSON | None, old: JSON | None) -> JSON:
        """Raises `OSError`, `ValueError`: nobody answers, or what is no answer."""
        who = asking.get()
        request = {
            "uid": "",
            "operation": self._operation,
            "object": obj,
            "oldObject": old,
            "dryRun": self._dry_run,
            "agent": who.agent if who is not None else "",
            "userInfo": who.user.wire() if who is not None else {},
        }
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        answer = msgspec.json.decode(await _post(self._socket, "/admit", msgspec.json.encode(review)))
        response: JSON = answer["response"] if isinstance(answer, dict) else {}
        return response


async def _post(socket: Path, target: str, body: bytes) -> bytes:
    """Raises `OSError`, `ValueError`."""
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=ANSWER_MAX_BYTES)
    with closing(writer):
        head = f"POST {target} HTTP/1.1\r\nhost: trimtab\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read(-1)
    head_bytes, _, rest = answer.partition(b"\r\n\r\n")
    if not head_bytes.startswith(b"HTTP/1.1 200 "):
        raise ValueError(rest[:200].decode(errors="replace") or "no answer")
    return rest


__all__ = ["Judged"]
