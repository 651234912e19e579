"""What would be, asked without doing it: whether a provider takes an object, and what it would make of it.

    object --Sources, some not there yet--> configuration with unknowns --validate--> the provider's words, by field
                                                                        --Keeper.look, gate--> Answer: action, lines, what holds it back

Nothing is written, made or remembered. A field that refers to what is not there yet is unknown, and what follows from it: "(known after
apply)". Objects that are asked about together see each other's outcome, by `foreseen`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from trimtab.api import JSON, InvalidObject, ObjectMeta, Resource, from_wire, kind_of
from trimtab.api.core import Secret
from trimtab.components.infrastructure.kinds import Managed, ManagedSpec, Provider, ProviderRef, Source, versions_of
from trimtab.components.infrastructure.loop.ephemeral import marks
from trimtab.components.infrastructure.loop.gathering import (
    Blocked,
    Reads,
    Sources,
    existing,
    field_and_text,
    ignored_paths,
    initial_paths,
    keeper_of,
    refusal,
    state_name,
    text_of,
)
from trimtab.components.infrastructure.loop.keeping import Keeper, Look
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.loop.permission import permission
from trimtab.components.infrastructure.loop.remembering import kept_for
from trimtab.components.infrastructure.programs.leases import check
from trimtab.components.infrastructure.programs.pool import Talk
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import NotReady, Providers
from trimtab.components.infrastructure.protocol.provider import ProviderError
from trimtab.components.infrastructure.protocol.schema import Block
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Value, ValueFault, known, unknowns
from trimtab.components.infrastructure.questions.ordering import key_of
from trimtab.components.infrastructure.schemas.changes import Change, at, within
from trimtab.components.infrastructure.schemas.mapping import FieldFault, api_path, shown

K = TypeVar("K", bound=Resource)
TOGETHER = 8
PLAN_S = 40.0
"""Who asks hears within a minute, of many objects of which one is not answered, too."""
"""So many objects are planned at a time; a credential's reads are rationed anyway."""
Ahead = Literal["none", "create", "update", "replace", "delete", ""]
"""What would be done; empty: nobody can say."""


STAYS = frozenset({"ApplyNever", "ReplaceDenied", "DeleteDenied"})
"""Held back for good: what there is stays as others see it."""


class Outputs(Struct, frozen=True, omit_defaults=True):
    """What others can refer to once it is done. known: as `status.atProvider`; unknown: places of it that only doing it tells."""

    known: dict[str, Any] = {}
    unknown: tuple[str, ...] = ()

    def value(self, field: str) -> Value:
        """`UNKNOWN` for a place that is not known yet; None where nothing is."""
        if any(within(place, field) or within(field, place) for place in self.unknown):
            return UNKNOWN
        return at(self.known, field)


class Answer(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What would become of one object.

    reason, message: why it would not be carried out now; reason is one of condition Synced. error: why nobody can say what would be done.
    """

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    action: Ahead = "none"
    digest: str = ""
    """What an approval names; none while nothing is known of the object."""
    changes: tuple[Change, ...] = ()
    reason: str = ""
    message: str = ""
    warnings: tuple[str, ...] = ()
    error: str = ""
    outputs: Outputs = Outputs()


class Program(Struct, frozen=True):
    """Another program of a provider, which is installed beside the one that runs."""

    version: str
    checksum: str


class Question(Struct):
    """Objects of one namespace and one ProviderConfig, and what else is to be written with them: what becomes of objects of others by
    `key_of`, and the data of Secrets. program: asked instead of the one that runs."""

    objects: list[JSON]
    foreseen: dict[str, Outputs] = {}
    secrets: dict[str, dict[str, str]] = {}
    program: Program | None = None


class Answered(Struct):
    plans: list[Answer]


class Said(Struct, frozen=True):
    """What a provider says of an object. errors: (field, message)."""

    errors: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


Foreseen = Mapping[str, Outputs]
"""By `key_of`: what becomes of the other objects."""


class Unsure(Sources):
    """Sources of which some are not there yet. `missing` says which, when all has been gathered."""

    def __init__(
        self,
        subject: Managed,
        reads: Reads,
        providers: Providers,
        suspects: Suspects,
        foreseen: Foreseen,
        secrets: Mapping[str, Mapping[str, str]],
        program: Program | None = None,
    ) -> None:
        reads = _with_program(reads, program) if program is not None else reads
        super().__init__(subject, reads, providers, suspects)
        self._foreseen = foreseen
        self._secrets = secrets
        self.missing: list[Blocked] = []

    async def referred(self, source: Source) -> Value:
        place = source.api_version or self.subject.resource_type.api_version
        outputs = self._foreseen.get(key_of(place, source.kind, source.name))
        if outputs is not None and (value := outputs.value(source.field)) is not None:
            return value
        try:
            return await super().referred(source)
        except Blocked as err:
            self.missing.append(err)
            return UNKNOWN

    async def given_secret(self, name: str, key: str) -> Value:
        try:
            return await super().given_secret(name, key)
        except Blocked as err:
            self.missing.append(err)
            return UNKNOWN

    async def secret_text(self, name: str, key: str) -> str:
        if (data := self._secrets.get(name)) is not None:
            return text_of(name, data, key)
        return await super().secret_text(name, key)


def _with_program(reads: Reads, program: Program) -> Reads:
    """Looks objects up, with another program in Providers."""

    async def read(kind: type[K], name: str) -> K | None:
        found = await reads(kind, name)
        if isinstance(found, Provider):
            if program.checksum not in versions_of(found).values():
                raise Blocked(
                    "NotInstalled", f"{name} {program.version} is not on this machine: trimtab provider upgrade"
                )
            spec = msgspec.structs.replace(found.spec, version=program.version, checksum=program.checksum)
            return msgspec.structs.replace(found, spec=spec)
        return found

    return read


class Asker:
    """Answers questions. reads: how objects of a namespace are looked up."""

    def __init__(self, reads: Callable[[str], Reads], providers: Providers, suspects: Suspects) -> None:
        self._reads = reads
        self._providers = providers
        self._suspects = suspects

    async def answers(self, question: Question, namespace: str, config: str) -> Answered:
        """Plans of many objects, in their order. Those of another namespace or ProviderConfig are not planned."""
        room = asyncio.Semaphore(TOGETHER)
        until = asyncio.get_running_loop().time() + PLAN_S

        async def one(obj: JSON) -> Answer:
            async with room:
                return await self._one_of(obj, namespace, config, question, until)

        return Answered(plans=list(await asyncio.gather(*map(one, question.objects))))

    async def _one_of(self, obj: JSON, namespace: str, config: str, question: Question, until: float) -> Answer:
        mine = ((obj.get("spec") or {}).get("providerRef") or {}).get("name", "default")
        if (obj.get("metadata") or {}).get("namespace") == namespace and mine == config:
            return await self.plan(obj, question.foreseen, question.secrets, question.program, until)
        wrong = f"it is not of ProviderConfig {config} in namespace {namespace}, which was asked"
        return msgspec.structs.replace(_blank(obj), action="", error=wrong)

    async def plan(
        self,
        obj: JSON,
        foreseen: Foreseen | None = None,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        program: Program | None = None,
        until: float | None = None,
    ) -> Answer:
        """What the next run for an object would do. secrets: data of Secrets that are about to be written; program: of its provider, instead
        of the one that runs. until: of the loop's time, when whoever asks wants an answer."""
        answer = _blank(obj)
        try:
            subject = _subject(obj)
            sources = self._unsure(subject, foreseen, secrets, program)
            async with asyncio.timeout_at(until):
                return await self._planned(answer, subject, sources)
        except TimeoutError:
            why = "the provider did not say in time what it would do: is the cloud slow, or away?"
            return msgspec.structs.replace(answer, action="", reason="ProviderError", error=why)
        except (Blocked, NotReady) as err:
            return msgspec.structs.replace(answer, action="", reason=err.reason, error=str(err))
        except ValueFault as err:
            return msgspec.structs.replace(answer, action="", reason="InvalidField", error=f"spec.forProvider.{err}")
        except (FieldFault, InvalidObject) as err:
            return msgspec.structs.replace(answer, action="", reason="InvalidField", error=str(err))
        except ProviderError as err:
            return msgspec.structs.replace(answer, action="", reason="ProviderError", error=str(err))

    async def talk(self, namespace: str, config: str) -> Talk:
        """The provider of a ProviderConfig, configured. Raises `Blocked`, `NotReady`."""
        nobody = Managed(
            metadata=ObjectMeta(name="", namespace=namespace), spec=ManagedSpec(provider_ref=ProviderRef(name=config))
        )
        return await Sources(nobody, self._reads(namespace), self._providers, self._suspects).talk()

    async def validate(self, obj: JSON) -> Said:
        """What the provider says of an object.

        Raises:
            Blocked, NotReady, ProviderError: it cannot be asked.
        """
        subject = _subject(obj)
        sources = self._unsure(subject)
        talk = await sources.talk()
        resource = _resource(talk, subject)
        block = talk.schema.resources[resource].block
        try:
            ignored_paths(block, subject.spec.ignore_changes)
            config = await sources.configuration(block, new=True)
            await self._openable(sources, block)
            found = await talk.validate(resource, config)
        except FieldFault as err:
            return Said(errors=((err.path, str(err).removeprefix(f"{err.path}: ")),))
        except ValueFault as err:
            path = api_path(block, err.path)
            return Said(errors=((f"spec.forProvider.{path}", str(err).removeprefix(f"{err.path}: ")),))
        return Said(
            errors=tuple(field_and_text(block, one) for one in found if one.error),
            warnings=tuple(": ".join(field_and_text(block, one)) for one in found if not one.error),
        )

    async def _openable(self, sources: Unsure, block: Block) -> None:
        """Whether what fields are had from can be opened; it is not. Raises `FieldFault`, `Blocked`, `NotReady`."""
        for one in await sources.fresh(block):
            try:
                await check(self._providers, one.opening)
            except NotReady as err:
                if err.reason != "InvalidField":
                    raise
                place, _, text = str(err).partition(": ")
                where, _, said = text.partition(": ")
                raise FieldFault(f"{place}.{where}", said) from None

    def _unsure(
        self,
        subject: Managed,
        foreseen: Foreseen | None = None,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        program: Program | None = None,
    ) -> Unsure:
        reads = self._reads(subject.namespace or "")
        return Unsure(subject, reads, self._providers, self._suspects, foreseen or {}, secrets or {}, program)

    async def _planned(self, answer: Answer, subject: Managed, sources: Unsure) -> Answer:
        spec = subject.spec
        deleting = subject.metadata.deletion_timestamp is not None
        if spec.pause and not deleting:
            return msgspec.structs.replace(
                answer, reason="Paused", message="spec.pause is true", outputs=Outputs(subject.status.at_provider)
            )
        if deleting and spec.policy.delete == "orphan":
            return msgspec.structs.replace(answer, message="spec.policy.delete is orphan: the resource stays")
        talk = await sources.talk()
        resource = _resource(talk, subject)
        block = talk.schema.resources[resource].block
        keeper = keeper_of(talk, resource)
        kept = await self._kept(subject, talk, resource, keeper)
        warnings: list[str] = []
        if deleting:
            look = await keeper.look(kept, None)
        else:
            config = await sources.configuration(block, new=kept.state is None)
            said = await talk.validate(resource, config)
            if refused := [one for one in said if one.error]:
                return msgspec.structs.replace(answer, action="", reason="InvalidField", error=refusal(block, refused))
            warnings = [": ".join(field_and_text(block, one)) for one in said]
            await self._openable(sources, block)
            ignored, initial = ignored_paths(block, spec.ignore_changes), initial_paths(block, subject)
            look = await keeper.look(kept, config, ignored=ignored, initial=initial, marks=marks(block, spec.ephemeral))
        return _answer(answer, subject, block, kept, look, sources.missing, warnings)

    async def _kept(self, subject: Managed, talk: Talk, resource: str, keeper: Keeper) -> Kept:
        """What is remembered of it, or is to be taken over; nothing is written down."""
        secret = await self._reads(subject.namespace or "")(Secret, state_name(subject))
        try:
            kept = (kept_for(subject, secret) if secret is not None else None) or Kept()
        except ValueError as err:
            raise Blocked("StateLost", f"the Secret {state_name(subject)}: {err}") from None
        adopt = subject.spec.policy.adopt
        if kept.state is not None or not adopt.startswith("id:") or adopt == kept.adopted:
            return kept
        live = await existing(talk, resource, adopt[3:])
        if live.value is None:
            raise Blocked("ProviderError", f"there is no {resource} {adopt[3:]} to take over")
        return keeper.keep(kept, live)


def _blank(obj: JSON) -> Answer:
    meta = obj.get("metadata") or {}
    return Answer(
        api_version=str(obj.get("apiVersion")),
        kind=str(obj.get("kind")),
        name=str(meta.get("name") or meta.get("generateName") or ""),
        namespace=str(meta.get("namespace") or ""),
    )


def _answer(
    answer: Answer,
    subject: Managed,
    block: Block,
    kept: Kept,
    look: Look,
    missing: Sequence[Blocked],
    warnings: Sequence[str],
) -> Answer:
    verdict = permission(subject, block, look, datetime.now(UTC))
    held = next(((one.reason, str(one)) for one in missing), ("", ""))
    if not verdict.go and not held[0]:
        held = verdict.reason, verdict.message
    stays = look.planned is None or look.action == "none" or verdict.reason in STAYS
    planned = look.live.value if stays or look.planned is None else look.planned.value
    return msgspec.structs.replace(
        answer,
        action=look.action,
        digest=look.digest if kept.key else "",
        changes=tuple(msgspec.structs.replace(line, path=api_path(block, line.path)) for line in look.lines),
        reason=held[0],
        message=held[1],
        warnings=tuple(warnings),
        outputs=_outputs(block, planned),
    )


def _outputs(block: Block, value: Value) -> Outputs:
    if not isinstance(value, dict):
        return Outputs()
    return Outputs(
        known=shown(block, known(value)),
        unknown=tuple(api_path(block, path) for path in unknowns(block.implied, value)),
    )


def _subject(obj: JSON) -> Managed:
    """Raises `Blocked`: it is of no enabled kind. `InvalidObject`."""
    place, name = str(obj.get("apiVersion")), str(obj.get("kind"))
    kind = kind_of(place, name)
    if kind is None or not issubclass(kind, Managed):
        raise Blocked("NoSuchResource", f"{name} of {place} is no enabled kind of a provider: trimtab provider list")
    return from_wire(kind, obj)


def _resource(talk: Talk, subject: Managed) -> str:
    """The provider's name of an object's kind. Raises `Blocked`."""
    from trimtab.components.infrastructure.schemas import naming

    kind = subject.resource_type
    provider = talk.provider.plugin.name
    if naming.group(provider) == kind.group:
        for name in talk.schema.resources:
            if naming.kind_name(provider, name) == kind.kind:
                return name
    raise Blocked(
        "NoSuchResource",
        f"ProviderConfig {subject.spec.provider_ref.name} is of the provider {provider}, which has no {kind.kind} of {kind.group}",
    )


__all__ = ["Ahead", "Answer", "Answered", "Asker", "Foreseen", "Outputs", "Program", "Question", "Said"]
