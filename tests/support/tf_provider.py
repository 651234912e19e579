#!/usr/bin/env python3
"""A Terraform provider as somebody writes one with the package `tf` (protocol 6): kinds to plan with, and no cloud.

Runs in an environment of its own (`make setup-test` makes it), for `tf` asks for an older protobuf than we do.
"""

import sys
from typing import Any

from tf.iface import Provider, Resource
from tf.runner import run_provider
from tf.schema import Attribute, Block, NestedBlock, NestMode, Schema
from tf.types import Bool, List, Map, Number, Set, String
from tf.utils import Diagnostics


class Planned(Resource):
    """Plans as the package does by itself."""

    def __init__(self, provider: Any) -> None:
        self.provider = provider

    def create(self, ctx: Any, planned: Any) -> Any:
        raise NotImplementedError

    def read(self, ctx: Any, current: Any) -> Any:
        return current

    def update(self, ctx: Any, current: Any, planned: Any) -> Any:
        raise NotImplementedError

    def delete(self, ctx: Any, current: Any) -> None:
        raise NotImplementedError


class Machine(Planned):
    @classmethod
    def get_name(cls) -> str:
        return "machine"

    @classmethod
    def get_schema(cls) -> Schema:
        return Schema(
            version=1,
            attributes=[
                Attribute("id", String(), computed=True),
                Attribute("name", String(), required=True),
                Attribute("zone", String(), optional=True, requires_replace=True),
                Attribute("cores", Number(), optional=True, computed=True, default=2),
                Attribute("address", String(), computed=True),
                Attribute("on", Bool(), optional=True),
                Attribute("labels", Map(String()), optional=True),
                Attribute("groups", Set(String()), optional=True),
                Attribute("disks", List(Number()), optional=True, computed=True),
                Attribute("note", String(), optional=True),
            ],
        )


class Gate(Planned):
    @classmethod
    def get_name(cls) -> str:
        return "gate"

    @classmethod
    def get_schema(cls) -> Schema:
        rule = [
            Attribute("port", Number(), required=True),
            Attribute("host", String(), optional=True),
            Attribute("weight", Number(), optional=True),
        ]
        return Schema(
            version=2,
            attributes=[
                Attribute("id", String(), computed=True),
                Attribute("name", String(), required=True, requires_replace=True),
                Attribute("serial", Number(), computed=True),
            ],
            block_types=[
                NestedBlock("rule", NestMode.Set, Block(attributes=rule), min_items=1),
            ],
        )


class Plans(Provider):
    def get_model_prefix(self) -> str:
        return "tf_"

    def get_provider_schema(self, diags: Diagnostics) -> Schema:
        return Schema(attributes=[])

    def full_name(self) -> str:
        return "registry.terraform.io/oracle/tf"

    def validate_config(self, diags: Diagnostics, config: Any) -> None:
        pass

    def configure_provider(self, diags: Diagnostics, config: Any) -> None:
        pass

    def get_data_sources(self) -> list[Any]:
        return []

    def get_resources(self) -> list[Any]:
        return [Machine, Gate]


if __name__ == "__main__":
    run_provider(Plans(), sys.argv)
