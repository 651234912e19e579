"""A provider to talk to: schemas, and the life of a resource, in Python values.

    fill(config) -> validate -> plan(prior, config) -> apply(planned) -> state, private
                       read(state) -> what is there now        import_(id) -> state

State is a value of the kind's implied type; `private` is the provider's own and opaque, and goes where the state goes. Every answer that
carries errors raises `ProviderError` in the provider's words, but for `apply`, whose answer must be kept whatever it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from trimtab.components.infrastructure.durations import seconds
from trimtab.components.infrastructure.protocol.convert import SchemaFault, provider_schema
from trimtab.components.infrastructure.protocol.launch import START_S, Greeting, LaunchError, Plugin, launch
from trimtab.components.infrastructure.protocol.messages import METHODS, messages, path_of
from trimtab.components.infrastructure.protocol.proposed import proposed_new
from trimtab.components.infrastructure.protocol.schema import Block, ProviderSchema, Schema, fields, fill
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.protocol.values import Value, ValueFault, decode, decode_json, encode, plain
from trimtab.components.infrastructure.protocol.written import unwritten

MESSAGE_BYTES_MAX = 256 << 20
CALL_S = 120.0
APPLY_S = 3600.0
LATE_S = 60.0
"""So much longer than a resource's own timeout is waited: the provider says itself that it took too long."""
ENDED = "UNAVAILABLE"
LATE = "DEADLINE_EXCEEDED"
ENDING_S = 2.0
"""So long after its socket closed, its process is waited for, to say how it ended."""
LAST_ANSWERS_S = 2.0
"""So long after it was asked to stop, what it still has to say is heard."""
TERRAFORM_VERSION = "1.11.4"
"""What providers are told that they talk to; some ask for a least version."""

DEFERRED = {
    1: "its configuration is not known yet",
    2: "the provider's configuration is not known yet",
    3: "something it needs is not there yet",
}
NULL = b"\xc0"
TEXT_CHARS_MAX, DIAGNOSTICS_MAX = 1000, 10
"""Of what a provider says, so much is repeated: it stands in conditions, which an API server keeps and people read."""
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Diagnostic(Struct, frozen=True):
    """What a provider says about a field, or about nothing in particular (path is empty)."""

    error: bool
    summary: str
    detail: str = ""
    path: str = ""

    def __str__(self) -> str:
        summary, detail = _line(self.summary), _line(self.detail)
        text = f"{self.path}: {summary}" if self.path else summary
        return text if not detail or detail == summary else f"{text}: {detail}"


def in_words(found: Sequence[Diagnostic]) -> str:
    """What a provider says, in one line."""
    more = len(found) - DIAGNOSTICS_MAX
    text = "; ".join(map(str, found[:DIAGNOSTICS_MAX]))
    return f"{text}; and {more} more" if more > 0 else text


def _line(text: str) -> str:
    """A provider's text as part of a line: no line ends, no colours, no more than somebody reads."""
    line = " ".join("".join(c if c.isprintable() else " " for c in ESCAPES.sub("", text[: 4 * TEXT_CHARS_MAX])).split())
    return line if len(text) <= TEXT_CHARS_MAX else f"{line[:TEXT_CHARS_MAX]}... ({len(text):,} characters)"


class ProviderError(Exception):
    """A provider said no, broke off, or makes no sense. Its text is one line, with every error that it gave."""

    def __init__(self, message: str, diagnostics: Sequence[Diagnostic] = (), *, code: str = "") -> None:
        super().__init__(message)
        self.diagnostics = tuple(diagnostics)
        self.code = code
        """gRPC's, when the provider did not answer: UNAVAILABLE, DEADLINE_EXCEEDED, UNIMPLEMENTED ..."""

    @property
    def died(self) -> bool:
        """Whether its process ended while it was asked."""
        return self.code == ENDED

    @property
    def late(self) -> bool:
        """Whether no answer came in time, while it may still be at it."""
        return self.code == LATE


class State(Struct, frozen=True):
    """A resource as the provider knows it. value None: there is none."""

    value: Value
    private: bytes = b""
    identity: Value = None


class Planned(Struct, frozen=True):
    """What would be done.

    replace: paths of the fields for whose change the resource must be made anew. deferred: why nothing can be planned yet, or empty.
    legacy: of a provider whose plans may differ from what is given in "" for null and the like.
    """

    value: Value
    private: bytes = b""
    replace: tuple[str, ...] = ()
    deferred: str = ""
    legacy: bool = False
    identity: Value = None
    warnings: tuple[Diagnostic, ...] = ()


class Applied(Struct, frozen=True):
    """What was done. With errors, `state` is what there is all the same: part of it, or what was before."""

    state: State
    errors: tuple[Diagnostic, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()


class Imported(Struct, frozen=True):
    kind: str
    state: State


class Listed(Struct, frozen=True):
    """One of what is there. value: None when the provider told only its identity."""

    identity: Value
    value: Value = None


class Opened(Struct, frozen=True):
    """An ephemeral resource that is open: until it is closed, or is not renewed in time.

    value: of its type, secrets and all. private: the provider's own, for renewing and closing. renew_at: by when it has to be renewed, in
    seconds since 1970; None: never. deferred: why it cannot be opened yet, or empty.
    """

    value: Value
    private: bytes = b""
    renew_at: float | None = None
    deferred: str = ""


class Provider:
    """A connection to a running provider. Used and closed in one event loop; calls may overlap."""

    def __init__(self, plugin: Plugin, greeting: Greeting) -> None:
        # A provider that ends its connections as it stops is no news for whoever typed a command.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        import grpc
        import grpc.aio

        self.plugin = plugin
        self.version = greeting.version
        self._messages = messages(greeting.version)
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if greeting.certificate:
            credentials = grpc.ssl_channel_credentials(root_certificates=greeting.certificate)
            options.append(("grpc.ssl_target_name_override", "localhost"))
            self._channel = grpc.aio.secure_channel(greeting.address, credentials, options=options)
        else:
            self._channel = grpc.aio.insecure_channel(greeting.address, options=options)
        self._methods: dict[str, Any] = {}
        self._schema: ProviderSchema | None = None
        self._types: dict[str, Type] = {}

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        sockets: Path,
        *,
        name: str = "",
        environment: Mapping[str, str] | None = None,
        timeout_s: float = START_S,
    ) -> Provider:
        """Starts one as `launch` does. Raises `LaunchError`."""
        plugin, greeting = await launch(command, sockets, name=name, environment=environment, timeout_s=timeout_s)
        return cls(plugin, greeting)

    async def close(self) -> None:
        """Asks it to stop what it does, then ends it."""
        if self.plugin.running:
            with contextlib.suppress(ProviderError):  # it is ended all the same
                await self._call("stop", {}, timeout_s=2.0)
        await self._channel.close(LAST_ANSWERS_S)
        await self.plugin.stop()

    # Schemas

    async def schema(self) -> ProviderSchema:
        """All that it serves. Raises `ProviderError`."""
        if self._schema is None:
            answer = await self._call("schema", {})
            self._raise_errors(answer.diagnostics, "its schema")
            try:
                identities = await self._call("identities", {})
            except ProviderError as err:
                if err.code != "UNIMPLEMENTED":
                    raise
                identities = None
            try:
                self._schema = provider_schema(answer, identities)
            except SchemaFault as err:
                raise ProviderError(f"{self.plugin.name}: its schema makes no sense: {err}") from None
        return self._schema

    async def _kind(self, kind: str) -> Schema:
        found = (await self.schema()).resources.get(kind)
        if found is None:
            raise ProviderError(f"{self.plugin.name} has no resource {kind}")
        return found

    def _type(self, kind: str, block: Block) -> Type:
        if kind not in self._types:
            self._types[kind] = block.implied
        return self._types[kind]

    # The provider itself

    async def configure(self, config: Value) -> tuple[Diagnostic, ...]:
        """Checks and takes the provider's own configuration; returns warnings. Raises `ProviderError`, `ValueFault`."""
        block = (await self.schema()).provider.block
        raw = {"msgpack": encode(block.implied, fill(block, config))}
        prepared = await self._call("prepare", {"config": raw})
        warnings = self._raise_errors(prepared.diagnostics, "its configuration")
        if self.version == 5 and prepared.prepared_config.msgpack:
            raw = {"msgpack": prepared.prepared_config.msgpack}
        request = {
            "terraform_version": TERRAFORM_VERSION,
            "config": raw,
            "client_capabilities": {"write_only_attributes_allowed": True},
        }
        answer = await self._call("configure", request)
        return warnings + self._raise_errors(answer.diagnostics, "its configuration")

    # A resource

    async def validate(self, kind: str, config: Value) -> tuple[Diagnostic, ...]:
        """All that the provider has to say of a configuration, errors and warnings. Raises `ValueFault` when it does not fit the schema."""
        block = (await self._kind(kind)).block
        request = {
            "type_name": kind,
            "config": self._out(kind, block, fill(block, config)),
            "client_capabilities": {"write_only_attributes_allowed": True},
        }
        return _diagnostics((await self._call("validate", request)).diagnostics)

    async def plan(self, kind: str, prior: State, config: Value) -> Planned:
        """What would make `config` true; config None: what would delete it. Raises `ProviderError`, `ValueFault`."""
        block = (await self._kind(kind)).block
        if config is None and not (await self.schema()).plan_destroy:
            return Planned(value=None, private=prior.private)  # such a provider is not asked: some refuse the question
        full = None if config is None else fill(block, config)
        request = {
            "type_name": kind,
            "prior_state": self._out(kind, block, prior.value),
            "proposed_new_state": self._out(kind, block, unwritten(block, proposed_new(block, prior.value, full))),
            "config": self._out(kind, block, full),
            "prior_private": prior.private,
            "client_capabilities": {"write_only_attributes_allowed": True, "deferral_allowed": True},
            **await self._identity_out("prior_identity", kind, prior.identity),
        }
        answer = await self._call("plan", request)
        warnings = self._raise_errors(answer.diagnostics, kind)
        return Planned(
            value=self._in(kind, block, answer.planned_state),
            private=answer.planned_private,
            replace=tuple(_path(one) for one in answer.requires_replace),
            deferred=DEFERRED.get(answer.deferred.reason, "for a reason it does not name")
            if answer.HasField("deferred")
            else "",
            legacy=answer.legacy_type_system,
            identity=await self._identity_in(kind, answer, "planned_identity"),
            warnings=warnings,
        )

    async def apply(
        self, kind: str, prior: State, planned: Planned, config: Value, *, timeout_s: float = APPLY_S
    ) -> Applied:
        """Does what was planned. What comes back is to be kept, errors or not. Raises `ProviderError` only when no answer came."""
        block = (await self._kind(kind)).block
        request = {
            "type_name": kind,
            "prior_state": self._out(kind, block, prior.value),
            "planned_state": self._out(kind, block, planned.value),
            "config": self._out(kind, block, None if config is None else fill(block, config)),
            "planned_private": planned.private,
            **await self._identity_out("planned_identity", kind, planned.identity),
        }
        answer = await self._call("apply", request, timeout_s=max(timeout_s, given_timeout_s(config) + LATE_S))
        said = _diagnostics(answer.diagnostics)
        errors = tuple(one for one in said if one.error)
        # An error without a state means that nothing has changed.
        value = prior.value if errors and not _there(answer, "new_state") else self._in(kind, block, answer.new_state)
        identity = await self._identity_in(kind, answer, "new_identity")
        state = State(
            value=value,
            private=answer.private if _there(answer, "new_state") else prior.private,
            identity=prior.identity if identity is None else identity,
        )
        return Applied(state, errors, tuple(one for one in said if not one.error))

    async def read(self, kind: str, state: State) -> State:
        """The resource as it is now; value None when it is gone. Raises `ProviderError`."""
        block = (await self._kind(kind)).block
        request = {
            "type_name": kind,
            "current_state": self._out(kind, block, state.value),
            "private": state.private,
            **await self._identity_out("current_identity", kind, state.identity),
        }
        answer = await self._call("read", request)
        self._raise_errors(answer.diagnostics, kind)
        identity = await self._identity_in(kind, answer, "new_identity")
        return State(
            self._in(kind, block, answer.new_state),
            answer.private or state.private,
            state.identity if identity is None else identity,
        )

    async def import_(self, kind: str, name: str) -> list[Imported]:
        """What exists under this name of the provider's own, to be read next. Raises `ProviderError`."""
        return await self._import(kind, {"id": name}, name)

    async def import_identity(self, kind: str, identity: Value) -> list[Imported]:
        """As `import_`, of what its identity names. Raises `ProviderError`."""
        of = await self._identity_out("identity", kind, identity)
        return await self._import(kind, of, json.dumps(plain(identity)))

    async def _import(self, kind: str, by: Mapping[str, Any], name: str) -> list[Imported]:
        answer = await self._call("import", {"type_name": kind, **by})
        self._raise_errors(answer.diagnostics, f"{kind} {name}")
        out = []
        for one in answer.imported_resources:
            block = (await self._kind(one.type_name)).block
            identity = await self._identity_in(one.type_name, one, "identity")
            out.append(Imported(one.type_name, State(self._in(one.type_name, block, one.state), one.private, identity)))
        return out

    async def data(self, kind: str, config: Value, *, timeout_s: float = CALL_S) -> Value:
        """What a data source says. Raises `ProviderError`, `ValueFault`."""
        found = (await self.schema()).data_sources.get(kind)
        if found is None:
            raise ProviderError(f"{self.plugin.name} has no data source {kind}")
        of, request = found.block.implied, {"type_name": kind}
        raw = {"msgpack": encode(of, fill(found.block, config))}
        answer = await self._call("data", {**request, "config": raw}, timeout_s=timeout_s)
        self._raise_errors(answer.diagnostics, f"data source {kind}")
        return self._value(kind, of, answer.state, found.block)

    async def list_(self, kind: str, config: Value, limit: int) -> list[Listed]:
        """What is there, `limit` of it at most. Raises `ProviderError`, `ValueFault`."""
        import grpc.aio

        found = (await self.schema()).lists.get(kind)
        if found is None:
            raise ProviderError(f"{self.plugin.name} does not list {kind}")
        raw = {"msgpack": encode(found.block.implied, fill(found.block, config))}
        request = {"type_name": kind, "config": raw, "include_resource_object": True, "limit": limit}
        of, out = (await self._kind(kind)).block, []
        call = self._channel.unary_stream(
            path_of(self.version, "list"),
            request_serializer=self._messages["ListResource"].SerializeToString,
            response_deserializer=self._messages["Listed"].FromString,
        )(self._messages["ListResource"](**request), timeout=CALL_S)
        try:
            async for one in call:
                if one is None:
                    raise self._no_message("list")
                self._raise_errors(one.diagnostic, f"list of {kind}")
                value = self._in(kind, of, one.resource_object) if _there(one, "resource_object") else None
                out.append(Listed(await self._identity_in(kind, one, "identity"), value))
        except grpc.aio.AioRpcError as err:
            raise await self._broken("list", err.code().name, err.details() or "", CALL_S) from None
        return out

    # Ephemeral resources: opened, renewed while they are in use, closed. Nothing of them is kept.

    async def _ephemeral(self, kind: str) -> Schema:
        found = (await self.schema()).ephemeral.get(kind)
        if found is None:
            raise ProviderError(f"{self.plugin.name} has no ephemeral resource {kind}")
        return found

    async def validate_ephemeral(self, kind: str, config: Value) -> tuple[Diagnostic, ...]:
        """All that the provider has to say of a configuration. Raises `ProviderError`, `ValueFault`."""
        block = (await self._ephemeral(kind)).block
        request = {"type_name": kind, "config": {"msgpack": encode(block.implied, fill(block, config))}}
        return _diagnostics((await self._call("validate_ephemeral", request)).diagnostics)

    async def open_ephemeral(self, kind: str, config: Value) -> Opened:
        """Opens one. Raises `ProviderError`, `ValueFault`."""
        block = (await self._ephemeral(kind)).block
        request = {
            "type_name": kind,
            "config": {"msgpack": encode(block.implied, fill(block, config))},
            "client_capabilities": {"deferral_allowed": True},
        }
        answer = await self._call("open", request)
        self._raise_errors(answer.diagnostics, f"ephemeral resource {kind}")
        deferred = DEFERRED.get(answer.deferred.reason, "for a reason it does not name")
        return Opened(
            value=self._value(kind, block.implied, answer.result, block),
            private=answer.private,
            renew_at=_time(answer),
            deferred=deferred if answer.HasField("deferred") else "",
        )

    async def renew_ephemeral(self, kind: str, opened: Opened) -> Opened:
        """Keeps one open for longer. Raises `ProviderError`."""
        answer = await self._call("renew", {"type_name": kind, "private": opened.private})
        self._raise_errors(answer.diagnostics, f"ephemeral resource {kind}")
        return Opened(opened.value, answer.private or opened.private, _time(answer))

    async def close_ephemeral(self, kind: str, opened: Opened) -> None:
        """Raises `ProviderError`: it stays open until it runs out."""
        answer = await self._call("close", {"type_name": kind, "private": opened.private})
        self._raise_errors(answer.diagnostics, f"ephemeral resource {kind}")

    async def upgrade(self, kind: str, version: int, state: Any) -> Value:
        """A state that was kept as JSON by an older release of the provider, in this one's terms. Raises `ProviderError`."""
        block = (await self._kind(kind)).block
        raw = {"json": json.dumps(state).encode()}
        answer = await self._call("upgrade", {"type_name": kind, "version": version, "raw_state": raw})
        self._raise_errors(answer.diagnostics, kind)
        return self._in(kind, block, answer.upgraded_state)

    async def upgrade_identity(self, kind: str, version: int, identity: Value) -> Value:
        """An identity as an older release of the provider gave it, in this one's terms; None when it cannot say. Raises `ProviderError`."""
        raw = {"json": json.dumps(plain(identity)).encode()}
        request = {"type_name": kind, "version": version, "raw_identity": raw}
        try:
            answer = await self._call("upgrade_identity", request)
        except ProviderError as err:
            if err.code != "UNIMPLEMENTED":
                raise
            return None
        self._raise_errors(answer.diagnostics, kind)
        return await self._identity_in(kind, answer, "upgraded_identity")

    # Messages

    def _out(self, kind: str, block: Block, value: Value) -> dict[str, bytes]:
        try:
            return {"msgpack": encode(self._type(kind, block), value)}
        except ValueFault as err:
            raise ValueFault(err.path, str(err).removeprefix(f"{err.path}: ")) from None

    def _in(self, kind: str, block: Block, message: Any) -> Value:
        """What it may not give back, write-only fields, is taken out of it: nobody keeps them."""
        return unwritten(block, self._value(kind, self._type(kind, block), message, block))

    def _value(self, kind: str, of: Type, message: Any, block: Block) -> Value:
        try:
            if message.msgpack:
                return decode(of, message.msgpack)
            return decode_json(of, message.json) if message.json else None
        except ValueFault as err:
            said = f"{err.path}: is of another type" if _within_secret(block, err.path) else str(err)
            raise ProviderError(f"{self.plugin.name} answers of {kind} what does not fit its schema: {said}") from None

    async def _identity_out(self, field: str, kind: str, identity: Value) -> dict[str, Any]:
        schema = (await self.schema()).identities.get(kind)
        if schema is None or identity is None:
            return {}
        return {field: {"identity_data": {"msgpack": encode(schema.implied, identity)}}}

    async def _identity_in(self, kind: str, answer: Any, field: str) -> Value:
        schema = (await self.schema()).identities.get(kind)
        if schema is None or not answer.HasField(field):
            return None
        raw = getattr(answer, field).identity_data.msgpack
        try:
            return decode(schema.implied, raw) if raw else None
        except ValueFault as err:
            raise ProviderError(
                f"{self.plugin.name} answers of {kind} an identity that makes no sense: {err}"
            ) from None

    def _raise_errors(self, found: Any, what: str) -> tuple[Diagnostic, ...]:
        said = _diagnostics(found)
        errors = [one for one in said if one.error]
        if errors:
            raise ProviderError(f"{what}: {in_words(errors)}", errors)
        return said

    async def _call(self, method: str, request: Mapping[str, Any], *, timeout_s: float = CALL_S) -> Any:
        import grpc.aio

        _, _, asks, answers = METHODS[method]
        call = self._methods.get(method)
        if call is None:
            call = self._methods[method] = self._channel.unary_unary(
                path_of(self.version, method),
                request_serializer=self._messages[asks].SerializeToString,
                response_deserializer=self._messages[answers].FromString,
            )
        try:
            answer = await call(self._messages[asks](**request), timeout=timeout_s)
        except grpc.aio.AioRpcError as err:
            raise await self._broken(method, err.code().name, err.details() or "", timeout_s) from None
        if answer is None:  # so gRPC says that it could not read it
            raise self._no_message(method)
        return answer

    def _no_message(self, method: str) -> ProviderError:
        return ProviderError(f"{self.plugin.name} answers to {method} with what is no message of its protocol")

    async def _broken(self, method: str, code: str, details: str, timeout_s: float) -> ProviderError:
        name = self.plugin.name
        if code == ENDED:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.plugin.wait(), ENDING_S)
        if not self.plugin.running:
            return ProviderError(f"{name} {self.plugin.epitaph()}, while it was asked to {method}", code=ENDED)
        match code:
            case "DEADLINE_EXCEEDED":
                return ProviderError(f"{name} did not answer to {method} within {timeout_s:.0f} s", code=code)
            case "UNIMPLEMENTED":
                return ProviderError(f"{name} does not serve {method}", code=code)
        return ProviderError(f"{name} broke off at {method}: {' '.join(details.split())[:300] or code}", code=code)


def given_timeout_s(config: Value) -> float:
    """The longest of a resource's own `timeouts`, as providers have them: `{create = "90m"}`; 0 without."""
    found = config.get("timeouts") if isinstance(config, dict) else None
    texts = found.values() if isinstance(found, dict) else ()
    return max((seconds(text) for text in texts if isinstance(text, str)), default=0.0)


def _time(answer: Any) -> float | None:
    """When it has to be renewed, in seconds since 1970."""
    return answer.renew_at.seconds + answer.renew_at.nanos / 1e9 if answer.HasField("renew_at") else None


def _within_secret(block: Block, path: str) -> bool:
    """Whether a place may be within a field that nobody is shown: it has the name of one on its way."""
    secret = {re.sub(r".*\.", "", at) for at, one in fields(block) if one.secret}
    return not secret.isdisjoint(re.split(r"[.\[\]]", path))


def _there(answer: Any, field: str) -> bool:
    if not answer.HasField(field):
        return False
    value = getattr(answer, field)
    return bool(value.msgpack or value.json) and value.msgpack != NULL


def _diagnostics(found: Any) -> tuple[Diagnostic, ...]:
    return tuple(
        Diagnostic(error=one.severity != 2, summary=one.summary, detail=one.detail, path=_path(one.attribute))
        for one in found
    )


def _path(message: Any) -> str:
    """`pool[0].count` of an AttributePath."""
    out = ""
    for step in message.steps:
        if step.attribute_name:
            out += f".{step.attribute_name}" if out else step.attribute_name
        elif step.element_key_string:
            out += f"[{json.dumps(step.element_key_string)}]"
        else:
            out += f"[{step.element_key_int}]"
    return out


__all__ = [
    "Applied",
    "Diagnostic",
    "Imported",
    "LaunchError",
    "Listed",
    "Opened",
    "Planned",
    "Provider",
    "ProviderError",
    "State",
    "in_words",
    "plain",
]
