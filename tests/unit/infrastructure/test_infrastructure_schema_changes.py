"""What differs between two versions of a provider's schema, and what of a state is the user's."""

from __future__ import annotations

from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, ProviderSchema, Schema
from trimtab.components.infrastructure.protocol.types import NUMBER, STRING, map_of
from trimtab.components.infrastructure.questions.importing import given_of
from trimtab.components.infrastructure.schemas.schema_changes import schema_changes


def schema(version: int = 1, blocks: dict[str, NestedBlock] | None = None, **attributes: Attribute) -> ProviderSchema:
    return ProviderSchema(Schema(Block()), {"c_server": Schema(Block(attributes, blocks or {}), version)})


GIVEN = Attribute(type=STRING, optional=True)


def told(before: ProviderSchema, after: ProviderSchema) -> list[tuple[str, bool]]:
    return [(one.text, one.breaks) for one in schema_changes(before, after, ["c_server"])]


def test_what_may_break_a_manifest_is_marked() -> None:
    before = schema(
        node_count=GIVEN,
        label=GIVEN,
        password=GIVEN,
        zone=GIVEN,
        seen=Attribute(type=STRING, computed=True),
        image=GIVEN,
    )
    after = schema(
        2,
        node_count=Attribute(type=NUMBER, optional=True),
        label=Attribute(type=STRING, required=True),
        password=Attribute(type=STRING, optional=True, sensitive=True),
        zone=Attribute(type=STRING, computed=True),
        image=Attribute(type=STRING, optional=True, deprecated="use picture"),
        owner=Attribute(type=STRING, required=True),
        picture=GIVEN,
    )
    assert told(before, after) == [
        ("image: is deprecated: use picture", False),
        ("label: is required now", True),
        ("nodeCount: is number, and was string", True),
        ("owner: is new, and required", True),
        ("passwordSecretRef: is sensitive now: name a Secret", True),
        ("picture: is new", False),
        ("seen: is gone", False),
        ("zone: is set by the provider alone now", True),
        ("its state is of version 2, and was of 1", False),
    ]
    assert told(before, before) == []
    assert told(before, ProviderSchema(Schema(Block()), {})) == [("there is no such resource any more", True)]


def test_blocks_are_told_by_their_fields() -> None:
    disk = NestedBlock("list", Block({"size": GIVEN}))
    grown = NestedBlock("set", Block({"size": GIVEN, "io_rate": GIVEN}))
    assert told(schema(blocks={"disk": disk}), schema(blocks={"disk": grown})) == [
        ("disk[*].ioRate: is new", False),
        ("disk: is a set, and was a list", True),
    ]


def test_of_a_state_a_user_is_given_what_is_theirs() -> None:
    block = Block(
        {
            "id": Attribute(type=STRING, computed=True),
            "name": Attribute(type=STRING, required=True),
            "host_name": Attribute(type=STRING, optional=True, computed=True),
            "token": Attribute(type=STRING, optional=True, sensitive=True),
            "old": Attribute(type=STRING, optional=True, deprecated="use name"),
            "tags": Attribute(type=map_of(STRING), optional=True),
        },
        {"disk": NestedBlock("list", Block({"size": GIVEN, "serial": Attribute(type=STRING, computed=True)}))},
    )
    value = {"id": "1", "name": "web", "host_name": "w", "token": "hush", "old": "web", "tags": {"a_b": "c"}}
    state = value | {"disk": [{"size": "1", "serial": "x"}]}
    assert given_of(block, state, both=True) == {
        "name": "web",
        "hostName": "w",
        "tags": {"a_b": "c"},
        "disk": [{"size": "1"}],
    }
    assert "hostName" not in given_of(block, state, both=False)
    assert given_of(block, {"name": "web", "disk": []}, both=True) == {"name": "web"}
