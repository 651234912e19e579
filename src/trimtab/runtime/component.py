"""The one shape of a capability: a `Component`, declared as a value, with its reconcilers, services, commands and views.

A component is on or off. All that it reads, owns and writes is declared here and enforced by the runtime; from the same
declarations come its RBAC rules, `trimtab graph` and the docs. Components meet only at the API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from trimtab.api import JSON, Ref, Resource

if TYPE_CHECKING:
    from trimtab.runtime.context import Context

R = TypeVar("R", bound=Resource)

Place = Literal["controllers", "node"]
"""The process that runs a reconciler or a service: the unprivileged controllers, or the node agent, which is root."""


# What a reconciler returns


@dataclass(frozen=True)
class Desired:
    """What should exist because of the subject.

    objects: server-side-applied in this order, owned by the reconciler; what it owned before and is in neither
        `objects` nor `keep` is deleted.
    keep: owned objects that should go on existing just as they are.
    adopt: objects of an owned kind that nobody controls, which the subject takes over as they are.
    release: owned objects that are the subject's no longer, but stay as they are.
    lift: finalizers that objects of an owned kind, or the subject, need no longer. All three come before what is deleted.
    status: merged into the subject's status under the reconciler's own field manager; None leaves it alone.
    refused: the status instead, from what the API said, when it refuses one of `objects` for good (a quota, a policy, a name that somebody
        else has); the run fails all the same and is tried again.
    writes: named fields of objects of others, as declared by `writes=`.
    requeue_after_s: come back after so many seconds even when nothing changes.
    delete_subject: the subject itself has served its time (a Job past its ttl, a released volume) and is deleted, with
        its uid as precondition, after all the rest.
    """

    objects: Sequence[Resource] = ()
    keep: Sequence[Ref] = ()
    status: JSON | None = None
    writes: Sequence[FieldWrite] = ()
    requeue_after_s: float | None = None
    delete_subject: bool = False
    adopt: Sequence[Adopt] = ()
    release: Sequence[Ref] = ()
    lift: Sequence[Lift] = ()
    refused: Callable[[str], JSON] | None = None


@dataclass(frozen=True)
class Requeue:
    """Nothing to say yet; run again after so many seconds. What the subject owns stays as it is."""

    after_s: float
    reason: str = ""
    status: JSON | None = None


@dataclass(frozen=True)
class Wait:
    """Nothing to say until `on` changes. What the subject owns stays as it is."""

    on: Ref
    reason: str = ""
    status: JSON | None = None


Outcome = Desired | Requeue | Wait


@dataclass(frozen=True)
class FieldWrite:
    """A server-side apply of only `fields` (a partial object without identity) to an object that another owns.

    subresource is "" or "status". Applied under a manager of its own, so that the fields alone change hands; without
    fields it takes back what was written before. note: what the journal says of it besides the names of the fields.
    """

    target: Ref
    fields: JSON
    subresource: Literal["", "status"] = ""
    note: str = ""


@dataclass(frozen=True)
class Adopt:
    """An object to take over: it gets the subject's owner reference, the runtime's labels and these finalizers; nothing else of
    it changes."""

    ref: Ref
    finalizers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lift:
    """A finalizer to take off an object."""

    ref: Ref
    finalizer: str


# What a reconciler declares


@dataclass(frozen=True)
class Owned:
    """A kind that a reconciler creates. `shared` kinds are created by several components; each object has one owner.

    `retain`: what was created outlives the subject (the claims of a StatefulSet): it gets no owner reference, is never
    swept, and is taken over again, by name, when the subject comes back. `by_reference`: an object that lost its labels
    (somebody replaced all of them) is still known by the controller that its reference names. Only for kinds that no other
    reconciler creates for the same subjects.
    """

    kind: type[Resource]
    shared: bool = True
    retain: bool = False
    by_reference: bool = False
    quiet: bool = False
    """What a run itself writes of it does not bring its subject back: it is what the run remembers, and its failure has a time to come back."""
    granted: bool = False
    """Writing it is granted by an administrator, object by object: from this declaration comes the right to read alone."""


@dataclass(frozen=True)
class Writes:
    """Fields of other owners' objects that a reconciler may write: dotted paths, `status.conditions[TYPE]` for one
    entry of a keyed list. names: only of the objects with these names."""

    kind: type[Resource]
    fields: tuple[str, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Posts:
    """A subresource of others' objects that a service posts to: `ServiceAccount, "token"`."""

    kind: type[Resource]
    subresource: str


ReconcileFunction = Callable[[Any, "Context"], Awaitable[Outcome]]


@dataclass(frozen=True)
class Reconciler(Generic[R]):
    """A function from a subject to what should be, with its declared inputs and outputs. Made by `@reconciler`."""

    name: str
    subject: type[R]
    function: ReconcileFunction
    reads: tuple[type[Resource], ...] = ()
    owns: tuple[Owned, ...] = ()
    writes: tuple[Writes, ...] = ()
    asks: tuple[type[Resource], ...] = ()
    """Kinds that its adapters ask the API for at the moment, which cannot be watched (measurements)."""
    effects: bool = False
    """True when it calls `ctx.effect` or must run when its subject is deleted: the subject then gets a finalizer."""
    workers: int = 4
    resync_s: float = 600.0
    place: Place = "controllers"
    selects: Callable[[Any], bool] | None = None
    """A cheap filter of subjects: others are never queued (a node agent takes its own node's pods)."""
    family: type[Resource] | None = None
    """Kinds derived from this one may be read, too, once they have joined the process; each is followed from its first read on."""
    dismantles: bool = False
    """When its subject is deleted, what it owns does not go all at once: the function is called while some of it is left, and keeps
    (`Desired.keep`) what has to wait for others. With `effects`."""
    heedless: bool = False
    """What it writes into its subject's status does not bring the subject back: it says what was seen outside, in words that may be others
    each time, and its runs have a time to come back."""
    while_deleting: bool = False
    """Run also while the subject is being deleted, as at any other time and without a finalizer (a node agent stops the
    containers of a deleted pod). Otherwise a subject that is being deleted is left to its finalizers."""

    async def __call__(self, subject: R, ctx: Context) -> Outcome:
        return await self.function(subject, ctx)


def reconciler(
    subject: type[R],
    *,
    reads: Sequence[type[Resource]] = (),
    owns: Sequence[Owned | type[Resource]] = (),
    writes: Sequence[Writes] = (),
    asks: Sequence[type[Resource]] = (),
    effects: bool = False,
    workers: int = 4,
    resync_s: float = 600.0,
    place: Place = "controllers",
    selects: Callable[[R], bool] | None = None,
    while_deleting: bool = False,
    heedless: bool = False,
    family: type[Resource] | None = None,
    name: str | None = None,
) -> Callable[[Callable[[R, Context], Awaitable[Outcome]]], Reconciler[R]]:
    """Declares a reconciler of one kind. The subject itself may always be read, and its status written."""

    def decorate(function: Callable[[R, Context], Awaitable[Outcome]]) -> Reconciler[R]:
        return Reconciler(
            name=name or function.__name__.replace("_", "-"),
            subject=subject,
            function=function,
            reads=tuple(reads),
            owns=tuple(o if isinstance(o, Owned) else Owned(o) for o in owns),
            writes=tuple(writes),
            asks=tuple(asks),
            effects=effects,
            workers=workers,
            resync_s=resync_s,
            place=place,
            selects=selects,
            while_deleting=while_deleting,
            heedless=heedless,
            family=family,
        )

    return decorate


# The rest of a component


@dataclass(frozen=True)
class Service:
    """A long-running task of a component, restarted with back-off when it fails. `run` is given the process's
    `trimtab.runtime.process.Process` (client, journal, settings, adapters) and returns only when cancelled."""

    name: str
    run: Callable[[Any], Awaitable[None]]
    place: Place = "controllers"
    reads: tuple[type[Resource], ...] = ()
    owns: tuple[Owned, ...] = ()
    writes: tuple[Writes, ...] = ()
    posts: tuple[Posts, ...] = ()


@dataclass(eq=False)
class Denied(Exception):
    """An admission check's refusal: the field at fault, and one line saying what is wrong and what to do."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@dataclass(frozen=True)
class Admission:
    """A check on writes of one kind. `check` returns warnings and raises `Denied` to refuse; it is pure.

    It is given the new object and the old one (None on create), both as wire JSON after defaulting.
    """

    name: str
    kind: type[Resource]
    check: Callable[[JSON, JSON | None], list[str]]


@dataclass(frozen=True)
class Judge:
    """Writes of custom kinds that are made while the engine runs, judged at a unix socket in the run directory.

    All kinds whose group ends with `group_suffix`. The API posts an AdmissionReview to `/admit` there; when nobody answers in time the
    write passes, with a warning. Only an engine of ours asks.
    """

    group_suffix: str
    socket: str


@dataclass(frozen=True)
class Store:
    """Data that a component keeps besides API objects: a directory name under the data directory, and its retention."""

    name: str
    retention: str
    owner: Place = "controllers"


@dataclass(frozen=True)
class Command:
    """A `trimtab` command of a component: `target` is `module:attribute` of a click command, imported only when used."""

    name: str
    target: str
    help: str


@dataclass(frozen=True)
class View:
    """A view of a component in the dashboard. `data` turns the read-only client into JSON for it: {note, columns, rows}.

    A cell is a text, a number, or {"text", "page"}: a link to what an `Endpoint` with `page` shows, as PLURAL/NAMESPACE/NAME/SUBRESOURCE.
    """

    name: str
    title: str
    data: Callable[[Any], Awaitable[JSON]]
    troubled: Callable[[Any], Awaitable[int]] | None = None
    """How many of what it shows need attention; asked every few seconds while a page is open. None: the view shows no health."""


@dataclass(frozen=True)
class Endpoint:
    """A subresource of one of its kinds that a component answers itself, over HTTP at a unix socket in the run directory.

    The API decides who may (`create` for a POST, `get` for a GET of `KIND/SUBRESOURCE`) and whether the object is there, then passes
    the request on as `/UID/SUBRESOURCE/REST`, without the caller's credentials: `x-trimtab-user` says who asks, `x-trimtab-object` is
    `NAMESPACE/NAME`. Only an engine of ours has such endpoints.
    """

    kind: type[Resource]
    subresource: str
    socket: str
    page: bool = False
    """A GET of it is an HTML document by itself, which the dashboard shows in a frame."""
    data: bool = False
    """A GET of it, with a query string, is what a page of the same object may ask for from within that frame, by way of the dashboard."""


@dataclass(frozen=True)
class Need:
    """Something that a component needs of the machine. `check` returns None, or one line that names what is missing
    and how to get it. Run by `trimtab check`."""

    name: str
    check: Callable[[], str | None]
    optional: bool = False
    """The component does without it, with less."""


@dataclass(frozen=True)
class Component:
    name: str
    summary: str
    kinds: tuple[type[Resource], ...] = ()
    reconcilers: tuple[Reconciler[Any], ...] = ()
    services: tuple[Service, ...] = ()
    admission: tuple[Admission, ...] = ()
    judges: tuple[Judge, ...] = ()
    stores: tuple[Store, ...] = ()
    commands: tuple[Command, ...] = ()
    views: tuple[View, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    needs: tuple[Need, ...] = ()
    conditions: dict[str, str] = field(default_factory=dict)
    """Every condition reason that it can set, with the text that explains it to a user."""
    guards: tuple[type[Resource], ...] = ()
    """Those of its kinds that limit what others may do: no role but that of the whole cluster's administrator changes them."""
