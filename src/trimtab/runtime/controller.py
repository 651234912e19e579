"""One reconciler at work: changes come in as keys, each key is reconciled by one worker at a time, outcomes are made so.

    change in an informer -> which subjects does it concern? -> queue -> run the function -> apply, sweep, status -> when again?

A key is queued when its subject changes, when anything changes that its last run read, when an object that it owns changes,
and when a time that it asked for has come. A run that fails is repeated, later each time; after a few failures the subject
says so in a condition. What a run writes is in `apply.py`, deletion in `deletion.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from trimtab.api import JSON, Ref, Resource, kind_of
from trimtab.client.cache import Change, Key
from trimtab.client.clock import jittered
from trimtab.client.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from trimtab.runtime.apply import Applier, Memo, Run, Slot
from trimtab.runtime.component import Desired, Outcome, Reconciler, Requeue, Wait
from trimtab.runtime.conditions import NON_CONVERGENT, STALLED, has_conditions
from trimtab.runtime.context import Undeclared
from trimtab.runtime.convergence import Breaker
from trimtab.runtime.declared import Declared
from trimtab.runtime.deletion import Deletion
from trimtab.runtime.dependencies import Dependencies, Named
from trimtab.runtime.effects import Effect, EffectsLeft
from trimtab.runtime.events import Said
from trimtab.runtime.handover import Handover
from trimtab.runtime.orphans import Orphans
from trimtab.runtime.ownership import Identity, ObjectHeld
from trimtab.runtime.queue import Cause, Queue
from trimtab.runtime.run import RunContext

if TYPE_CHECKING:
    from trimtab.runtime.process import Process

ERROR_FIRST_S = 0.1
ERROR_LAST_S = 60.0
TRANSIENT_LAST_S = 5.0
"""The longest wait after a conflict or an API that was away: those pass, and healing must not wait for us."""
FAILURES_BEFORE_CONDITION = 3
TRANSIENT_BEFORE_CONDITION = 10
REQUEUE_LEAST_S = 0.01
PASSING_TIME_S = 1.0
"""A run asked for at least this much later may see new things merely because time passed."""


@dataclass(slots=True)
class KeyState:
    """What is remembered of one subject between runs. None of it must survive a restart."""

    uid: str = ""
    failures: int = 0
    memos: dict[Slot, Memo] = field(default_factory=dict)
    breaker: Breaker = field(default_factory=Breaker)
    said: Said = field(default_factory=Said)


class Controller:
    """Runs one reconciler of one component until cancelled."""

    def __init__(self, process: Process, component: str, reconciler: Reconciler[Any]) -> None:
        self.identity = Identity.of(component, reconciler)
        self.reconciler = reconciler
        self.declared = Declared(component, reconciler)
        self.runs = 0
        self._process = process
        self._applier = Applier(process, self.identity, self.declared)
        self._handover = Handover(process, self.identity, self.declared, self._applier)
        self._deletion = Deletion(process.client, self._applier)
        self._orphans = Orphans(process, self.identity, self.declared, self._applier)
        self._dependencies = Dependencies()
        self._queue = Queue(self._pump)
        self._states: dict[Key, KeyState] = {}
        self._keys: dict[str, Key] = {}
        self._active: dict[asyncio.Task[None], None] = {}
        self._started = False
        self._log = logging.getLogger(f"trimtab.{self.identity.label}")
        kinds = self.declared.kinds + ((Effect,) if self.declared.effects else ())
        self._informers = {kind: process.informer(kind) for kind in kinds}
        self._ends: dict[type[Resource], Callable[[], None]] = {}

    @property
    def idle(self) -> bool:
        """Nothing runs or is ready to; something may be due later."""
        return self._started and self._queue.idle

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        self._ends = {kind: informer.subscribe(self._changed) for kind, informer in self._informers.items()}
        try:
            for informer in list(self._informers.values()):
                await informer.wait_synced()
            for subject in self._process.informer(self.reconciler.subject).list():
                key = (subject.namespace or "", subject.name)
                self._keys[subject.metadata.uid] = key
                self._queue.add(key, Cause("start"))
            self._started = True
            self._pump()
            await self._orphans.run(self._keys)
        finally:
            # A worker that ends now must not take up the next key.
            self._started = False
            for end in self._ends.values():
                end()
            self._ends = {}
            self._queue.close()
            for task in list(self._active):
                task.cancel()
            if self._active:
                await asyncio.wait(list(self._active))

    # Kinds that joined later

    def follow(self, kind: type[Resource]) -> bool:
        """Takes note of a kind's changes from now on; False when it has not joined yet, or has parted."""
        informer = self._process.informers.get(kind)
        if informer is None or not informer.synced:
            return False
        if kind not in self._informers:
            self._informers[kind] = informer
            self._ends[kind] = informer.subscribe(self._changed)
        return True

    def leave(self, kind: type[Resource]) -> None:
        """Forgets a kind that parts."""
        if end := self._ends.pop(kind, None):
            end()
            del self._informers[kind]

    # Changes -> keys

    def _changed(self, change: Change[Any]) -> None:
        obj: Resource = change.latest
        mine = self.identity.is_mine(change.by)
        what = "deleted" if change.new is None else "created" if change.old is None else "changed"
        cause = Cause(f"{obj.ref} {what}", obj.ref, external=not mine)
        keys: dict[Key, None] = {}
        if change.kind is self.reconciler.subject:
            self._index_subject(change)
            # Our own verdict on a subject is no reason to look at it again.
            if change.by != self.identity.health_manager:
                keys[change.key] = None
        for side in (change.old, change.new):
            uid = self.identity.maker_for(side) if side is not None else None
            if uid is not None:
                if uid in self._keys:
                    keys[self._keys[uid]] = None
                elif change.new is not None and self._started:
                    self._orphans.suspect(uid)
        for key in self._dependencies.touched(change):
            keys[key] = None
        # By the answer or by the watch, whichever comes first.
        if mine and (owned := self.declared.owned.get(change.kind)) is not None and owned.quiet:
            keys.pop(self._keys.get(self.identity.maker_for(obj) or "", ("", "")), None)
        if mine and self.reconciler.heedless and change.kind is self.reconciler.subject and _of_status(change):
            keys.pop(change.key, None)
        for key in keys:
            self._queue.add(key, cause)

    def _index_subject(self, change: Change[Any]) -> None:
        for side in (change.old, change.new):
            if side is not None:
                self._keys[side.metadata.uid] = change.key
        gone = change.old is not None and (change.new is None or change.new.metadata.uid != change.old.metadata.uid)
        if gone and change.old is not None:
            self._keys.pop(change.old.metadata.uid, None)
            self._orphans.suspect(change.old.metadata.uid)

    def wake(self, ref: Ref, why: str) -> None:
        """Reconciles a subject because something outside of the API changed (a container ended). `why` is journaled as
        the cause of what follows."""
        self._queue.add((ref.namespace or "", ref.name), Cause(why), urgent=True)

    # Keys -> runs

    def _pump(self) -> None:
        while self._started and len(self._active) < self.reconciler.workers and (item := self._queue.take()):
            key, causes = item
            task = asyncio.get_running_loop().create_task(self._work(key, causes), name=f"{self.identity.label} {key}")
            self._active[task] = None
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._active.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a worker died", exc_info=error)
        self._pump()

    async def _work(self, key: Key, causes: Sequence[Cause]) -> None:
        try:
            await self._reconcile(key, causes)
        finally:
            self._queue.done(key)

    async def _reconcile(self, key: Key, causes: Sequence[Cause]) -> None:
        subject: Resource | None = self._process.informer(self.reconciler.subject).get(key[1], key[0] or None)
        if subject is None or not self._concerns(subject):
            self._forget(key)
            return
        state = self._states.get(key)
        if state is None or state.uid != subject.metadata.uid:
            state = self._states[key] = KeyState(uid=subject.metadata.uid)
        if not state.breaker.begin(any(cause.external for cause in causes)):
            return
        set_off = next((c for c in causes if c.external and c.ref), causes[0])
        run = Run(subject, set_off.ref or set_off.text, state.memos, state.breaker)
        self.runs += 1
        self._dependencies.begin(key)
        complete = False
        began_s = asyncio.get_running_loop().time()
        try:
            again_s = await self._run(key, state, run)
            complete = True
        except Exception as err:
            await self._failed(key, state, run, err)
            return
        finally:
            self._dependencies.end(key, complete=complete)
        self._process.went_well(self.identity, run.subject.ref, asyncio.get_running_loop().time() - began_s)
        await self._settle(key, state, run, again_s)

    def _concerns(self, subject: Resource) -> bool:
        """Whether there is anything to do for `subject`: selected and alive, or in need of our cleaning up."""
        if subject.metadata.deletion_timestamp is not None:
            if self.reconciler.effects:
                return self.identity.finalizer in subject.metadata.finalizers
            if not self.reconciler.while_deleting:
                return False
        selects = self.reconciler.selects
        if selects is None or selects(subject):
            return True
        return (
            self.identity.finalizer in subject.metadata.finalizers and subject.metadata.deletion_timestamp is not None
        )

    async def _run(self, key: Key, state: KeyState, run: Run) -> float:
        """Runs the function and makes its outcome so; returns in how many seconds to come back."""
        for informer in list(self._informers.values()):
            if not informer.sure:
                await informer.settle()
                if not self._refresh(run):
                    return self.reconciler.resync_s
        deleting = run.subject.metadata.deletion_timestamp is not None
        if self.reconciler.effects and not deleting:
            await self._ensure_finalizer(run)
        context = RunContext(
            self._process,
            self.identity,
            self.declared,
            self._dependencies,
            run.subject,
            run.cause,
            state.said,
            partial(self._applier.apply, run),
            partial(self._applier.write_fields, run),
            partial(self._handover.discard, run),
            partial(self._applier.apply_status, run),
            self.follow,
        )
        if deleting and self.reconciler.effects:
            outcome = await self._deletion.advance(run, context, self.reconciler)
            if outcome is None:
                return self.reconciler.resync_s
        else:
            outcome = await self.reconciler(run.subject, context)
        return await self._carry_out(key, run, outcome)

    async def _ensure_finalizer(self, run: Run) -> None:
        if self.identity.finalizer in run.subject.metadata.finalizers:
            return
        await self._applier.apply_metadata(run, {"finalizers": [self.identity.finalizer]}, "finalizer")
        self._refresh(run)

    def _refresh(self, run: Run) -> bool:
        """Takes the subject as it is now; False when it is gone."""
        fresh = self._process.informer(self.reconciler.subject).get(run.subject.name, run.subject.namespace)
        if fresh is None or fresh.metadata.uid != run.subject.metadata.uid:
            return False
        run.subject = fresh
        return True

    async def _carry_out(self, key: Key, run: Run, outcome: Outcome) -> float:
        applier = self._applier
        match outcome:
            case Desired():
                wanted = [*outcome.keep, *(each.ref for each in outcome.adopt), *outcome.release]
                await self._handover.carry_out(run, outcome)
                for obj in outcome.objects:
                    try:
                        wanted.append(await applier.apply(run, obj))
                    except (Forbidden, Invalid, NotFound, ObjectHeld) as err:
                        if outcome.refused is not None:
                            await applier.apply_status(run, outcome.refused(str(err)))
                        raise
                if outcome.writes:
                    for write in outcome.writes:
                        kind = self.declared.check_write(write)
                        target = (write.target.namespace or "", write.target.name)
                        self._dependencies.add(key, Named(kind, target))
                    await applier.write_fields(run, outcome.writes)
                await applier.sweep(run, wanted)
                if outcome.status is not None:
                    await applier.apply_status(run, outcome.status)
                if outcome.delete_subject:
                    await applier.delete(run, run.subject)
                again_s = outcome.requeue_after_s
            case Requeue():
                if outcome.status is not None:
                    await applier.apply_status(run, outcome.status)
                again_s = outcome.after_s
            case Wait():
                awaited = kind_of(outcome.on.api_version, outcome.on.kind)
                if awaited is None:
                    raise Undeclared(f"{self.identity.label} waits on {outcome.on}, a kind that nobody knows")
                self.declared.check_read(awaited)
                self._dependencies.add(key, Named(awaited, (outcome.on.namespace or "", outcome.on.name)))
                if outcome.status is not None:
                    await applier.apply_status(run, outcome.status)
                again_s = None
            case _:
                raise TypeError(f"{self.identity.label} returned {outcome!r}; it must be Desired, Requeue or Wait")
        return self.reconciler.resync_s if again_s is None else max(again_s, REQUEUE_LEAST_S)

    async def _settle(self, key: Key, state: KeyState, run: Run, again_s: float) -> None:
        """After a run that went well: trip the breaker, or clear earlier complaints and set the next time."""
        if await self._tripped(state, run):
            return
        state.failures = 0
        try:
            await self._clear(run)
        except Exception as err:
            await self._failed(key, state, run, err)
            return
        if again_s == self.reconciler.resync_s:  # nobody asked for that very moment
            again_s = jittered(again_s, self._process.clock)
        passing = again_s >= PASSING_TIME_S
        self._queue.add_after(
            key, again_s, Cause(f"it was time to look again, after {again_s:.3g} s", external=passing)
        )

    async def _tripped(self, state: KeyState, run: Run) -> bool:
        """Whether the subject is stopped now, because it never comes to rest."""
        why = state.breaker.end()
        if why:
            self._process.complained(self.identity, run.subject.ref, NON_CONVERGENT, why)
            await self._complain(run, state, NON_CONVERGENT, NON_CONVERGENT, why)
        return bool(why)

    def _forget(self, key: Key) -> None:
        self._dependencies.forget(key)
        if self._states.pop(key, None) is not None:
            place = self.reconciler.subject.resource_type
            self._process.forgotten(self.identity, Ref(place.api_version, place.kind, key[0] or None, key[1]))

    # Failures

    async def _failed(self, key: Key, state: KeyState, run: Run, err: Exception) -> None:
        state.failures += 1
        if await self._tripped(state, run):
            return
        transient = isinstance(err, (Conflict, Unavailable, ConnectionError))
        last_s = TRANSIENT_LAST_S if transient else ERROR_LAST_S
        delay_s = min(ERROR_FIRST_S * 2 ** min(state.failures - 1, 20), last_s)
        if isinstance(err, ObjectHeld):
            kind = kind_of(err.ref.api_version, err.ref.kind)
            if kind is not None:
                self._dependencies.add(key, Named(kind, (err.ref.namespace or "", err.ref.name)))
        text = str(err) or type(err).__name__
        if not transient:
            self._log.debug("%s: %s", run.subject.ref, text, exc_info=err)
        self._process.failed(self.identity, run.subject.ref, err)
        limit = TRANSIENT_BEFORE_CONDITION if transient else FAILURES_BEFORE_CONDITION
        at_once = isinstance(err, (ObjectHeld, Undeclared, EffectsLeft))
        if at_once or state.failures >= limit:
            reason = type(err).__name__ if at_once else "ReconcileError"
            await self._complain(run, state, STALLED, reason, text)
        self._queue.add_after(key, jittered(delay_s, self._process.clock), Cause("retry", external=False))

    async def _complain(self, run: Run, state: KeyState, type: str, reason: str, message: str) -> None:
        """Says on the subject what is wrong: an event, and a condition where the kind has conditions. Best effort."""
        self._process.events.say(
            self.identity, run.subject, reason, message, warning=True, cause=run.cause, said=state.said
        )
        if not has_conditions(self.reconciler.subject):
            return
        condition: JSON = {"type": type, "status": "True", "reason": reason, "message": message[:1024]}
        try:
            await self._applier.apply_status_as(
                run, {"conditions": [condition]}, self.identity.health_manager, "health"
            )
        except Exception as err:
            self._log.debug("%s: its condition could not be written: %s", run.subject.ref, err)

    async def _clear(self, run: Run) -> None:
        """Takes back our complaints, those of an earlier life of this process included."""
        key: Key = (run.subject.namespace or "", run.subject.name)
        live = self._process.informer(self.reconciler.subject).cache.entries.get(key)
        manager = self.identity.health_manager
        if live is not None and live.uid == run.subject.metadata.uid and live.mark(manager, "status") is not None:
            await self._applier.apply_status_as(run, {}, manager, "health")


def _of_status(change: Change[Any]) -> bool:
    """Whether nothing but the status changed: an answer to a write of it may be the first to show what somebody else wrote before."""
    if change.old is None or change.new is None or change.subresource != "status":
        return False
    a, b = change.old.metadata, change.new.metadata
    return (a.uid, a.generation, a.annotations, a.labels, a.finalizers, a.deletion_timestamp, a.owner_references) == (
        b.uid,
        b.generation,
        b.annotations,
        b.labels,
        b.finalizers,
        b.deletion_timestamp,
        b.owner_references,
    )
