"""The proposal: what is given wins, what the provider gave stays, and elements are paired with what they were."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.infrastructure.protocol.proposed import proposed_new
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, NestedType, Nesting, fill
from trimtab.components.infrastructure.protocol.types import NUMBER, STRING
from trimtab.components.infrastructure.protocol.values import UNKNOWN, decode, encode, same

GIVEN = Attribute(type=STRING, optional=True)
BOTH = Attribute(type=STRING, optional=True, computed=True)
COMPUTED = Attribute(type=STRING, computed=True)
REQUIRED = Attribute(type=STRING, required=True)


def of(nesting: Nesting) -> Block:
    inner = Block(attributes={"name": REQUIRED, "note": GIVEN, "zone": BOTH, "id": COMPUTED})
    return Block(attributes={"id": COMPUTED}, blocks={"disk": NestedBlock(nesting, inner)})


def disk(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "note": None, "zone": None, "id": None} | more


def propose(block: Block, prior: Any, config: Any) -> Any:
    return proposed_new(block, prior, fill(block, config))


def test_each_kind_of_attribute() -> None:
    block = Block(attributes={"name": REQUIRED, "note": GIVEN, "zone": BOTH, "id": COMPUTED})
    prior = {"name": "a", "note": "old", "zone": "eu", "id": "7"}
    assert propose(block, prior, {"name": "b"}) == {"name": "b", "note": None, "zone": "eu", "id": "7"}
    assert propose(block, prior, {"name": "b", "zone": "us"})["zone"] == "us"
    assert propose(block, prior, {"name": UNKNOWN})["name"] is UNKNOWN
    assert propose(block, None, {"name": "b"}) == {"name": "b", "note": None, "zone": None, "id": None}
    assert proposed_new(block, prior, None) is None


def test_blocks_of_a_list_are_paired_by_place() -> None:
    prior = {"id": "1", "disk": [disk("a", id="d1", zone="eu"), disk("b", id="d2", note="mine")]}
    out = propose(of("list"), prior, {"disk": [{"name": "b"}, {"name": "b"}, {"name": "c"}]})
    assert out["disk"] == [disk("b", id="d1", zone="eu"), disk("b", id="d2"), disk("c")]
    assert propose(of("list"), prior, {})["disk"] == []


def test_blocks_of_a_map_are_paired_by_key() -> None:
    prior = {"id": "1", "disk": {"x": disk("a", id="d1"), "y": disk("b", id="d2")}}
    out = propose(of("map"), prior, {"disk": {"y": {"name": "z"}, "new": {"name": "n"}}})
    assert out["disk"] == {"y": disk("z", id="d2"), "new": disk("n")}


def test_blocks_of_a_set_are_paired_with_what_they_can_have_become_and_each_only_once() -> None:
    prior = {"id": "1", "disk": [disk("a", id="d1"), disk("b", id="d2", zone="eu"), disk("a", id="d3")]}
    config = {"disk": [{"name": "b"}, {"name": "a"}, {"name": "a"}, {"name": "a"}, {"name": "b", "zone": "us"}]}
    assert propose(of("set"), prior, config)["disk"] == [
        disk("b", id="d2", zone="eu"),
        disk("a", id="d1"),
        disk("a", id="d3"),
        disk("a"),
        disk("b", zone="us"),
    ]


def test_a_single_block() -> None:
    prior = {"id": "1", "disk": disk("a", id="d1")}
    assert propose(of("single"), prior, {"disk": {"name": "q"}})["disk"] == disk("q", id="d1")
    assert propose(of("single"), prior, {})["disk"] is None
    assert propose(of("group"), prior, {})["disk"] == disk(None, id="d1")  # type: ignore[arg-type]
    assert propose(of("single"), prior, {"disk": UNKNOWN})["disk"] is UNKNOWN


def test_a_nested_attribute_that_is_not_given_stays_only_if_the_provider_can_have_made_it() -> None:
    def block(**inner: Attribute) -> Block:
        return Block(
            attributes={"net": Attribute(nested=NestedType("single", inner), optional=True, computed=True)},
        )

    prior = {"net": {"cidr": "10.0.0.0/8"}}
    assert propose(block(cidr=BOTH), prior, {}) == prior
    assert propose(block(cidr=GIVEN), prior, {}) == {"net": None}
    assert propose(block(cidr=BOTH), prior, {"net": {}}) == prior
    assert propose(block(cidr=GIVEN), prior, {"net": {}}) == {"net": {"cidr": None}}


nestings = st.sampled_from(["single", "list", "set", "map"])
text = st.sampled_from(["a", "b", None])


@st.composite
def stories(draw: st.DrawFn) -> tuple[Block, Any]:
    """A block, and a configuration of it."""
    attributes: dict[str, Attribute] = {
        name: draw(st.sampled_from([GIVEN, BOTH, COMPUTED])) for name in draw(st.sets(st.sampled_from("pqr")))
    }
    inner = Block(attributes={"name": GIVEN, "size": Attribute(type=NUMBER, optional=True, computed=True)})
    nesting = draw(nestings)
    block = Block(attributes=attributes, blocks={"sub": NestedBlock(nesting, inner)})
    config: dict[str, Any] = {name: draw(text) for name, one in attributes.items() if one.optional}
    one = st.fixed_dictionaries({"name": text, "size": st.sampled_from([1, 2, None])})
    if nesting == "single":
        config["sub"] = draw(st.one_of(one, st.none()))
    elif nesting == "map":
        config["sub"] = draw(st.dictionaries(text.filter(bool), one, max_size=3))
    else:
        config["sub"] = draw(st.lists(one, max_size=3))
    return block, fill(block, config)


def answer(block: Block, proposed: Any) -> Any:
    """What a provider makes of a proposal: a value for all that it computes."""

    def attributes(of: Block, value: dict[str, Any], at: str) -> dict[str, Any]:
        made = {
            name: (7 if one.type == NUMBER else f"made-{at}") if one.computed and value[name] is None else value[name]
            for name, one in of.attributes.items()
        }
        return value | made

    out = attributes(block, proposed, "top")
    for name, nested in block.blocks.items():
        value = out[name]
        if isinstance(value, list):
            out[name] = [attributes(nested.block, one, "sub") for one in value]
        elif nested.nesting == "map":
            out[name] = {key: attributes(nested.block, one, "sub") for key, one in value.items()}
        elif value is not None:
            out[name] = attributes(nested.block, value, "sub")
    return out


@given(stories())
def test_what_was_made_of_a_configuration_is_proposed_again_for_it(story: tuple[Block, Any]) -> None:
    """No drift where nothing changed, whatever the provider computed, and however it orders a set."""
    block, config = story
    made = answer(block, proposed_new(block, None, config))
    if block.blocks["sub"].nesting == "set":
        made["sub"] = list(reversed(made["sub"]))
    assert same(block.implied, proposed_new(block, made, config), made)


@given(stories(), stories())
def test_what_is_given_is_in_every_proposal(before: tuple[Block, Any], after: tuple[Block, Any]) -> None:
    block, config = after
    prior = fill(block, {n: v for n, v in before[1].items() if n in block.attributes})
    out = proposed_new(block, prior, config)
    assert all(out[name] == value for name, value in config.items() if name in block.attributes and value is not None)
    assert same(block.implied, decode(block.implied, encode(block.implied, out)), out)
