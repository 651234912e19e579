"""The end of a subject that has our finalizer: dependants first, what it wrote into others, then effects in reverse, then the finalizer.

Each step is repeated from the start after any failure or crash; each finds what the one before has left.
"""

from __future__ import annotations

from typing import Any

from trimtab.client.client import Client
from trimtab.client.errors import Conflict, NotFound
from trimtab.runtime.apply import Applier, Run, is_gone
from trimtab.runtime.component import Desired, Outcome, Reconciler
from trimtab.runtime.effects import NotDone
from trimtab.runtime.run import RunContext


class Deletion:
    """The deletions of one reconciler's subjects."""

    def __init__(self, client: Client, applier: Applier) -> None:
        self._client = client
        self._applier = applier

    async def advance(self, run: Run, context: RunContext, reconciler: Reconciler[Any]) -> Outcome | None:
        """Goes as far as it can. None: nothing more to do until something changes (or ever).

        An outcome is returned when the reconciler itself asks for time (Requeue, Wait) before its effects are undone, or says what of its
        dependants is not to go yet.
        """
        if reconciler.dismantles and self._applier.owned_by(run.subject.metadata.uid):
            return await reconciler(run.subject, context)
        if await self._applier.sweep(run, ()):
            return None
        try:
            outcome = await reconciler(run.subject, context)
        except NotDone:
            pass
        else:
            if not isinstance(outcome, Desired):
                return outcome
            await self._applier.write_fields(run, outcome.writes)
        if context.effects is not None:
            await context.effects.undo_all()
        try:
            await self._applier.apply_metadata(run, {}, "finalizer")
        except (NotFound, Conflict):
            # Gone already when the answer to an earlier removal was lost.
            if not await is_gone(self._client, run.subject):
                raise
        return None
