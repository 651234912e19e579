"""A provider's schema from its messages. What makes no sense in it is said in one line with the field's path."""

from __future__ import annotations

from typing import Any

from trimtab.components.infrastructure.protocol.schema import (
    NESTINGS,
    Attribute,
    Block,
    Identity,
    NestedBlock,
    NestedType,
    Nesting,
    ProviderSchema,
    Schema,
)
from trimtab.components.infrastructure.protocol.types import DEPTH_MAX, Type, one_line, parse


class SchemaFault(ValueError):
    """A schema that a provider should not have sent: where, and what is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def provider_schema(answer: Any, identities: Any = None) -> ProviderSchema:
    """From the answers to `schema` and, where it is served, `identities`. Raises `SchemaFault`."""
    return ProviderSchema(
        provider=_schema(answer.provider, "provider"),
        resources=_schemas(answer.resource_schemas),
        data_sources=_schemas(answer.data_source_schemas),
        ephemeral=_schemas(answer.ephemeral_resource_schemas),
        lists=_schemas(answer.list_resource_schemas),
        identities={e.key: _identity(e.value, e.key) for e in identities.identity_schemas} if identities else {},
        plan_destroy=answer.server_capabilities.plan_destroy,
    )


def _schemas(entries: Any) -> dict[str, Schema]:
    return {entry.key: _schema(entry.value, entry.key) for entry in sorted(entries, key=lambda e: str(e.key))}


def _schema(message: Any, path: str) -> Schema:
    return Schema(block=_block(message.block, path, 0), version=message.version)


def _block(message: Any, path: str, depth: int) -> Block:
    if depth > DEPTH_MAX:
        raise SchemaFault(f"{path}: blocks are nested deeper than {DEPTH_MAX} levels")
    return Block(
        attributes=_attributes(message.attributes, path, depth),
        blocks={one.type_name: _nested_block(one, f"{path}.{one.type_name}", depth) for one in message.block_types},
        description=message.description,
        deprecated=_deprecated(message),
    )


def _deprecated(message: Any) -> str:
    return (message.deprecation_message or "deprecated") if message.deprecated else ""


def _nested_block(message: Any, path: str, depth: int) -> NestedBlock:
    return NestedBlock(
        nesting=_nesting(message.nesting, path),
        block=_block(message.block, path, depth + 1),
        min_items=message.min_items,
        max_items=message.max_items,
    )


def _nesting(number: int, path: str) -> Nesting:
    if number not in NESTINGS:
        raise SchemaFault(f"{path}: there is no nesting {number}")
    return NESTINGS[number]


def _attributes(messages: Any, path: str, depth: int) -> dict[str, Attribute]:
    return {one.name: _attribute(one, f"{path}.{one.name}", depth) for one in messages}


def _attribute(message: Any, path: str, depth: int) -> Attribute:
    if depth > DEPTH_MAX:
        raise SchemaFault(f"{path}: attributes are nested deeper than {DEPTH_MAX} levels")
    nested = None
    if "nested_type" in message.DESCRIPTOR.fields_by_name and message.HasField("nested_type"):
        inner = message.nested_type
        nested = NestedType(_nesting(inner.nesting, path), _attributes(inner.attributes, path, depth + 1))
    return Attribute(
        type=None if nested is not None else _type(message.type, path),
        nested=nested,
        description=message.description,
        required=message.required,
        optional=message.optional,
        computed=message.computed,
        sensitive=message.sensitive,
        write_only=message.write_only,
        deprecated=_deprecated(message),
    )


def _type(raw: bytes, path: str) -> Type:
    try:
        return parse(raw)
    except ValueError as err:
        raise SchemaFault(f"{path}: {err}") from None


def _identity(message: Any, path: str) -> Identity:
    return Identity(
        attributes={one.name: _type(one.type, f"{path}.{one.name}") for one in message.identity_attributes},
        required=frozenset(one.name for one in message.identity_attributes if one.required_for_import),
        version=message.version,
    )
