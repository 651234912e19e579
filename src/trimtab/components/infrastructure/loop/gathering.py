"""What an object of a provider's kind is made of beside itself: the credential, the Secrets and the outputs that it refers to.

    object, ProviderConfig, Provider, Secrets, other objects --Sources--> Talk (a configured provider), configuration

The loop reads these as they are (`reconcile.py`); a question what would be reads them with some not there yet (`asking.py`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from trimtab.api import Resource, kind_of
from trimtab.api.core import Secret
from trimtab.components.infrastructure.durations import seconds
from trimtab.components.infrastructure.kinds import Ephemeral, Managed, Provider, ProviderConfig, SecretKey, Source
from trimtab.components.infrastructure.loop.ephemeral import Fresh, places, unfilled
from trimtab.components.infrastructure.loop.finding import Finder, tagged
from trimtab.components.infrastructure.loop.keeping import Keeper
from trimtab.components.infrastructure.programs.leases import Opening
from trimtab.components.infrastructure.programs.pool import Talk
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import RETRY_S, NotReady, Providers
from trimtab.components.infrastructure.protocol.provider import Diagnostic, State, in_words
from trimtab.components.infrastructure.protocol.schema import Block, fields, groups
from trimtab.components.infrastructure.protocol.values import Value
from trimtab.components.infrastructure.schemas import naming
from trimtab.components.infrastructure.schemas.changes import at, put, steps
from trimtab.components.infrastructure.schemas.mapping import FieldFault, Output, api_path, configured

K = TypeVar("K", bound=Resource)

APPROVE = "trimtab.dev/approve"
STATE_KEY = "state"
STATE_SUFFIX = "-state"
BLOCKED_S = 60.0
INTERVAL_LEAST_S = 1.0


class Reads(Protocol):
    """How objects are looked up: in the namespace of the object at hand, or the cluster's."""

    async def __call__(self, kind: type[K], name: str, /) -> K | None: ...


class Blocked(Exception):
    """Nothing can be done now. reason: of the condition Synced; its text is one line."""

    def __init__(self, reason: str, message: str, retry_s: float = BLOCKED_S) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_s = retry_s


class Login(NamedTuple):
    """A credential: what a provider is started and configured with."""

    provider: Provider
    config: ProviderConfig
    secrets: Mapping[str, str]
    openings: Mapping[str, Opening]


class Sources:
    """What one object is made of."""

    def __init__(self, subject: Managed, reads: Reads, providers: Providers, suspects: Suspects) -> None:
        self.subject = subject
        self._reads = reads
        self._providers = providers
        self._suspects = suspects

    async def talk(self) -> Talk:
        """The object's provider, configured. Raises `Blocked`, `NotReady`."""
        self._suspects.spare(self.subject.metadata.uid)
        login = await self._login(self.subject.spec.provider_ref.name)
        return await self._providers.talk(login.provider, login.config, login.secrets, login.openings)

    async def _login(self, name: str, through: tuple[str, ...] = ()) -> Login:
        """What a ProviderConfig is made of. through: those that need it for their own. Raises `Blocked`."""
        config = await self._reads(ProviderConfig, name)
        if config is None:
            raise Blocked(
                "NoProviderConfig", f"there is no ProviderConfig {name} in namespace {self.subject.namespace}"
            )
        provider = await self._reads(Provider, config.spec.provider)
        if provider is None:
            raise Blocked(
                "NoProviderConfig",
                f"ProviderConfig {name} names the Provider {config.spec.provider}, which is not there: "
                f"trimtab provider install {config.spec.provider}",
            )
        where = f"ProviderConfig {name}"
        secrets = await self._texts(config.spec.secrets, where)
        openings = await self.openings(config.spec.ephemeral, where, through=(*through, name))
        return Login(provider, config, secrets, openings)

    async def _texts(self, refs: Mapping[str, SecretKey], where: str) -> dict[str, str]:
        """What Secrets hold, by field. Raises `Blocked`."""
        out = {}
        for field, ref in refs.items():
            try:
                out[field] = await self.secret_text(ref.name, ref.key)
            except LookupError as err:
                raise Blocked("SecretMissing", f"{where}: {field}: {err}") from None
        return out

    async def openings(
        self, declared: Mapping[str, Ephemeral], where: str, *, own: str = "", through: tuple[str, ...] = ()
    ) -> dict[str, Opening]:
        """What opens the ephemeral resources of some fields. own: the ProviderConfig of those that name none. Raises `Blocked`."""
        out = {}
        for field, one in declared.items():
            place = f"{where}: ephemeral.{field}"
            name = one.provider_ref.name if one.provider_ref is not None else own
            if not name:
                raise Blocked("InvalidField", f"{place}: name the ProviderConfig that opens it in providerRef")
            if name in through:
                raise Blocked("InvalidField", f"{place}: {' needs '.join((*through, name))}, which none can begin with")
            login = await self._login(name, through)
            texts = await self._texts(one.secrets, place)
            out[field] = Opening(
                place=place,
                kind=one.type,
                config={**one.config, **texts},
                output=one.field,
                provider=login.provider,
                login=login.config,
                secrets=login.secrets,
                openings=login.openings,
            )
        return out

    async def fresh(self, block: Block) -> list[Fresh]:
        """The fields of the object that are had anew. Raises `Blocked`, `FieldFault`."""
        spec = self.subject.spec
        if not spec.ephemeral:
            return []
        found = places(block, spec.ephemeral)
        openings = await self.openings(spec.ephemeral, "spec", own=spec.provider_ref.name)
        return [Fresh(*found[field], opening) for field, opening in openings.items()]

    async def configuration(self, block: Block, *, new: bool) -> Value:
        """What is given, with what only making it needs, with references and secrets filled in.

        new: it is to be made. Else what is only for that may name Secrets that are gone by now.

        Raises:
            Blocked: something that it refers to is not there. FieldFault: a field cannot be what it says.
        """
        spec = self.subject.spec
        given = {**spec.init_provider, **spec.for_provider}
        for reference in spec.references:
            given = put_given(given, reference.field, Output(await self.referred(reference.source)))
        lasting = set(secret_refs(spec.for_provider))
        secrets: dict[tuple[str, str], Value] = {}
        for name, key in set(secret_refs(given)):
            try:
                secrets[name, key] = await self.given_secret(name, key)
            except Blocked:
                if new or (name, key) in lasting:
                    raise
                secrets[name, key] = None
        config = configured(block, given, lambda name, key: secrets[name, key])
        config = unfilled(block, config, spec.ephemeral)
        if spec.policy.adopt != "ifTagged":
            return config
        try:
            return tagged(block, config, self.subject.metadata.uid)
        except LookupError as err:
            raise Blocked("InvalidField", f"spec.policy.adopt: {self.subject.resource_type.kind} {err}") from None

    async def given_secret(self, name: str, key: str) -> Value:
        """What a field of forProvider takes from a Secret. Raises `Blocked`."""
        try:
            return await self.secret_text(name, key)
        except LookupError as err:
            raise Blocked("SecretMissing", f"spec.forProvider: {err}") from None

    async def referred(self, source: Source) -> Value:
        """The output of another resource. Raises `Blocked`: it is not there yet."""
        place = source.api_version or self.subject.resource_type.api_version
        kind = kind_of(place, source.kind)
        if kind is None or not issubclass(kind, Managed):
            raise Blocked("Waiting", f"{source.kind} of {place} is no enabled kind: trimtab provider enable ...")
        found = await self._reads(kind, source.name)
        where = f"{source.kind} {source.name}"
        if found is None:
            raise Blocked("Waiting", f"{where} is not there, whose {source.field} is referred to", RETRY_S)
        try:
            value = at(found.status.at_provider, source.field)
        except ValueError as err:
            raise Blocked("InvalidField", f"spec.references: {err}") from None
        if value is None:
            raise Blocked("Waiting", f"{where} has no {source.field} yet", RETRY_S)
        return value

    async def secret_text(self, name: str, key: str) -> str:
        """Raises `LookupError`: one line."""
        secret = await self._reads(Secret, name)
        if secret is None:
            raise LookupError(f"there is no Secret {name} in namespace {self.subject.namespace}: create it")
        return text_of(name, secret.data, key)


def text_of(name: str, data: Mapping[str, str], key: str) -> str:
    """What a Secret holds. Raises `LookupError`: one line."""
    raw = data.get(key)
    if raw is None:
        raise LookupError(f"the Secret {name} has no key {key}; it has {', '.join(sorted(data)) or 'none'}")
    try:
        return base64.b64decode(raw).decode()
    except UnicodeDecodeError:
        raise LookupError(f"what the Secret {name} has at {key} is no text (UTF-8)") from None


def secret_refs(value: Any) -> list[tuple[str, str]]:
    """(name, key) of every Secret that is named anywhere within what is given."""
    out = []
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.endswith("SecretRef") and isinstance(inner, dict) and {"name", "key"} <= inner.keys():
                out.append((str(inner["name"]), str(inner["key"])))
            else:
                out += secret_refs(inner)
    elif isinstance(value, list):
        for inner in value:
            out += secret_refs(inner)
    return out


def put_given(given: dict[str, Any], path: str, value: Value) -> dict[str, Any]:
    """What is given, with a value at one place more: a field, an element of a list, or the next one of it (of the first there need be no list).
    Raises `FieldFault`: that is within something that is not given."""
    try:
        *above, last = steps(path)
    except ValueError:
        above, last = [], 0
    parent = within_given(given, above)
    next_ = len(parent) if isinstance(parent, list) else 0 if parent is None else -1
    if above and last == next_:
        return put_given(given, path.removesuffix(f"[{last}]"), [*(parent or []), value])
    if not (isinstance(parent, dict) and isinstance(last, str)) and not (
        isinstance(parent, list) and isinstance(last, int) and last < len(parent)
    ):
        raise FieldFault("spec.references", f"{path} is no place in forProvider")
    done: dict[str, Any] = put(given, path, value)
    return done


def within_given(given: Any, where: Sequence[str | int]) -> Any:
    """What is given at a place; None where nothing is."""
    for step in where:
        if isinstance(given, dict) and isinstance(step, str):
            given = given.get(step)
        elif isinstance(given, list) and isinstance(step, int) and step < len(given):
            given = given[step]
        else:
            return None
    return given


def ignored_paths(block: Block, patterns: list[str]) -> list[str]:
    """`spec.ignoreChanges` in the provider's names. Raises `FieldFault`."""
    if not patterns:
        return []
    known = {api_path(block, path).removesuffix("SecretRef"): path for path, _ in fields(block)}
    known |= {api_path(block, path): path for path, _ in groups(block)}
    sets = [api_path(block, path) for path, nesting in groups(block) if nesting == "set"]
    for pattern in patterns:
        every = re.sub(r"\[\d+\]", "[*]", pattern)
        if every not in known:
            raise FieldFault("spec.ignoreChanges", f"{pattern} is no field of forProvider")
        if whole := next((one for one in sets if every.startswith(f"{one}[*]")), None):
            raise FieldFault(
                "spec.ignoreChanges",
                f"{pattern} is within a set, whose members nothing tells apart: name {whole}, all of it",
            )
    return [known[re.sub(r"\[\d+\]", "[*]", pattern)] for pattern in patterns]


def field_and_text(block: Block, said: Diagnostic) -> tuple[str, str]:
    """What a provider says, at the object's own field."""
    field = f"spec.forProvider.{api_path(block, said.path)}" if said.path else "spec.forProvider"
    return field, str(msgspec.structs.replace(said, path=""))


def refusal(block: Block, said: Sequence[Diagnostic]) -> str:
    """The errors of a provider about a configuration, in one line."""
    return in_words([msgspec.structs.replace(one, path=field_and_text(block, one)[0]) for one in said])


def initial_paths(block: Block, subject: Managed) -> list[str]:
    """The fields that only making it needs, in the provider's names: what is there of them stays as it is."""
    spec = subject.spec
    lasting = {*spec.for_provider, *(reference.field for reference in spec.references)}
    initial = spec.init_provider.keys() - lasting
    names = naming.of_block(block)
    return sorted(name for name, mine in names.items() if {mine, mine + naming.SECRET_REF} & initial)


def interval_s(subject: Managed) -> float:
    """In how many seconds an object is looked at again, at the latest."""
    return max(seconds(subject.spec.interval), INTERVAL_LEAST_S)


def state_name(subject: Managed) -> str:
    """The name of the Secret in which the state of an object's resource is kept."""
    return f"{subject.name}-{subject.resource_type.kind.lower()}{STATE_SUFFIX}"


def named(subject: Managed) -> str:
    """An object as kubectl takes it: `servers.cloud.tf.trimtab.dev web -n default`."""
    kind = subject.resource_type
    return f"{kind.plural}.{kind.group} {subject.name} -n {subject.namespace}"


def keeper_of(talk: Talk, resource: str) -> Keeper:
    """What keeps resources of one kind with this credential. Raises `NotReady`: the provider has no such resource."""
    schema = talk.schema.resources.get(resource)
    if schema is None:
        name = talk.provider.plugin.name
        raise NotReady("NoSuchResource", f"the provider {name} has no resource {resource}: disable it")
    finder = Finder(talk, talk.schema, resource)
    return Keeper(talk, resource, schema, finder, talk.schema.identities.get(resource))


async def existing(talk: Talk, resource: str, name: str) -> State:
    """What exists under a name of the provider's own; value None when nothing does. Raises `ProviderError`."""
    found = [one for one in await talk.import_(resource, name) if one.kind == resource]
    return await talk.read(resource, found[0].state) if found else State(None)


__all__ = [
    "APPROVE",
    "BLOCKED_S",
    "STATE_KEY",
    "STATE_SUFFIX",
    "Blocked",
    "Reads",
    "Sources",
    "existing",
    "field_and_text",
    "ignored_paths",
    "initial_paths",
    "interval_s",
    "keeper_of",
    "named",
    "put_given",
    "refusal",
    "secret_refs",
    "state_name",
    "text_of",
]
