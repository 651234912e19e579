"""The definitions of a provider's enabled kinds, and by what those are known that another version of ours wrote.

    provider's schema, what every kind has in common --> CustomResourceDefinition          what is in common --> mark, on the Provider

An administrator's commands write definitions, not the controllers: these compare marks, and say which command it takes.
"""

from __future__ import annotations

import functools
import hashlib

import msgspec

from trimtab.api import JSON, ObjectMeta
from trimtab.components.infrastructure.kinds import DEFINED, Managed, Provider
from trimtab.components.infrastructure.protocol.schema import Block, ProviderSchema, Schema
from trimtab.components.infrastructure.schemas.definition import definition
from trimtab.runtime.crd import kind_schema


def definition_of(provider: Provider, name: str, schema: ProviderSchema) -> JSON:
    """The definition of one kind; of one that the provider no longer has, what there is to know of it by its name."""
    common, status = _in_common()
    return definition(provider.name, name, schema.resources.get(name) or Schema(block=Block()), common, status)


@functools.cache
def _in_common() -> tuple[JSON, JSON]:
    """What every kind has beside its own, in `spec` and in `status`."""
    properties = kind_schema(Managed)["properties"]
    spec = {k: v for k, v in properties["spec"]["properties"].items() if k not in ("forProvider", "initProvider")}
    return spec, {k: v for k, v in properties["status"]["properties"].items() if k != "atProvider"}


@functools.cache
def mark() -> str:
    """Of the definitions that this version writes: of a kind without fields of its own, which shows all that is ours."""
    bare = definition_of(Provider(metadata=ObjectMeta(name="any")), "any_kind", ProviderSchema(Schema(Block()), {}))
    return hashlib.blake2s(msgspec.json.encode(bare, order="sorted"), digest_size=8).hexdigest()


def outdated(provider: Provider) -> bool:
    """Whether another version of ours wrote the definitions of a provider's kinds."""
    return bool(provider.spec.kinds) and provider.metadata.annotations.get(DEFINED) != mark()
