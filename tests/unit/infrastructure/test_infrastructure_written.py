"""Write-only fields: found wherever they are, taken out, given by Secrets and shown nowhere."""

from __future__ import annotations

from trimtab.components.infrastructure.protocol.provider import given_timeout_s
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, NestedType, fill
from trimtab.components.infrastructure.protocol.types import STRING
from trimtab.components.infrastructure.protocol.written import unwritten, written
from trimtab.components.infrastructure.schemas.definition import block_schema
from trimtab.components.infrastructure.schemas.mapping import api_path, configured, shown

PLAIN = Attribute(type=STRING, optional=True)
ONLY = Attribute(type=STRING, optional=True, write_only=True)
BLOCK = Block(
    {
        "name": PLAIN,
        "root_pin": ONLY,
        "users": Attribute(nested=NestedType("map", {"name": PLAIN, "pin": ONLY}), optional=True),
    },
    {
        "disk": NestedBlock("list", Block({"label": PLAIN, "key": ONLY})),
        "boot": NestedBlock("single", Block({"key": ONLY})),
    },
)
VALUE = fill(
    BLOCK,
    {
        "name": "web",
        "root_pin": "1",
        "users": {"a": {"name": "x", "pin": "2"}, "b": {"name": "y"}},
        "disk": [{"label": "l"}, {"label": "m", "key": "3"}],
        "boot": {"key": "4"},
    },
)


def test_every_one_is_found_and_taken_out() -> None:
    assert list(written(BLOCK, VALUE)) == [
        ("root_pin", "1"),
        ("users[a].pin", "2"),
        ("disk[1].key", "3"),
        ("boot.key", "4"),
    ]
    bare = unwritten(BLOCK, VALUE)
    assert list(written(BLOCK, bare)) == []
    assert bare["disk"] == [{"label": "l", "key": None}, {"label": "m", "key": None}]
    assert bare["users"]["a"] == {"name": "x", "pin": None}
    assert VALUE["root_pin"] == "1"
    assert unwritten(BLOCK, None) is None


def test_they_are_given_by_secrets_and_shown_nowhere() -> None:
    given = block_schema(BLOCK, given=True, levels=5)["properties"]
    assert set(given) == {"name", "rootPinSecretRef", "users", "disk", "boot"}
    assert set(given["disk"]["items"]["properties"]) == {"label", "keySecretRef"}
    assert set(block_schema(BLOCK, given=False, levels=5)["properties"]) == {"name", "users", "disk", "boot"}
    config = configured(BLOCK, {"rootPinSecretRef": {"name": "s", "key": "pin"}}, lambda name, key: f"{name}/{key}")
    assert config == {"root_pin": "s/pin"}
    assert shown(BLOCK, VALUE)["disk"] == [{"label": "l"}, {"label": "m"}]
    assert api_path(BLOCK, "disk[1].key") == "disk[1].keySecretRef"


def test_a_resources_own_timeout_is_waited_for() -> None:
    assert given_timeout_s({"timeouts": {"create": "90m", "delete": "2h", "update": None}}) == 7200
    assert given_timeout_s({"timeouts": None}) == given_timeout_s({"name": "web"}) == given_timeout_s(None) == 0
