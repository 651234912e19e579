"""The proposal: what is given wins, what the provider gave stays, and elements are paired with what they were."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.infrastructure.protocol import proposed
from trimtab.components.infrastructure.protocol.proposed import proposed_new
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, NestedType, Nesting, fill
from trimtab.components.infrastructure.protocol.types import NUMBER, STRING, map_of, set_of
from trimtab.components.infrastructure.protocol.values import UNKNOWN, decode, encode, fingerprint, same

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
    config = {"disk": [{"name": "b"}, {"name": "a"}, {"name": "b", "zone": "eu"}, {"name": "b", "zone": "us"}]}
    assert propose(of("set"), prior, config)["disk"] == [
        disk("b"),
        disk("a", id="d1"),
        disk("b", id="d2", zone="eu"),
        disk("b", zone="us"),
    ]


def test_what_a_set_is_given_twice_is_there_once() -> None:
    prior = {"id": "1", "disk": [disk("a", id="d1")]}
    config = {"disk": [{"name": "a"}, {"name": "a"}, {"name": UNKNOWN}, {"name": UNKNOWN}]}
    unknown = disk("") | {"name": UNKNOWN}
    assert propose(of("set"), prior, config)["disk"] == [disk("a", id="d1"), unknown, unknown]
    plain = Block(attributes={"by": Attribute(type=map_of(set_of(NUMBER)), optional=True)})
    assert propose(plain, None, {"by": {"x": [1, 2, 1, 1.0]}}) == {"by": {"x": [1, 2]}}
    assert same(set_of(NUMBER), [1, 1, 2], [2, 1])


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


@st.composite
def sets(draw: Any) -> tuple[Block, Any, Any]:
    """A set of blocks with blocks and nested attributes in them, as it was and as it is given: few values, so that many fit."""
    fields = {"note": GIVEN, "zone": BOTH, "id": COMPUTED}
    word = st.sampled_from(["a", "b", None])
    one = st.fixed_dictionaries(dict.fromkeys(fields, word))
    kinds = {
        "list": st.lists(one, max_size=2),
        "set": st.lists(one, max_size=2),
        "map": st.dictionaries(st.sampled_from(["x", "y"]), one, max_size=2),
        "single": st.one_of(one, st.none()),
    }
    outer = dict(fields)
    nestings: dict[str, Nesting] = {"list": "list", "set": "set", "map": "map", "single": "single"}
    attributes = {f"{name}_{c}": (name, c) for name in kinds for c in ("given", "both")}
    for field, (name, c) in attributes.items():
        outer[field] = Attribute(nested=NestedType(nestings[name], fields), optional=True, computed=c == "both")
    inner = Block(
        attributes=outer, blocks={name: NestedBlock(n, Block(attributes=fields)) for name, n in nestings.items()}
    )
    few = draw(st.sets(st.sampled_from([*attributes, *kinds]), max_size=2))
    values = {
        **dict.fromkeys(fields, word),
        **{f: st.one_of(st.none(), kinds[n]) for f, (n, _) in attributes.items() if f in few},
        **{name: kind for name, kind in kinds.items() if name in few},
    }
    block = Block(blocks={"sub": NestedBlock("set", inner)})
    elements = st.lists(st.fixed_dictionaries(values), max_size=5)
    prior, config = ({"sub": draw(elements)} for _ in range(2))
    return block, fill(block, prior), fill(block, config)


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


def test_each_of_a_set_of_thousands_is_paired_by_looking_at_few() -> None:
    """In whatever order they come back, with what the provider added; one is gone, one changed, one is new."""
    inner = Block(
        attributes={"name": REQUIRED, "zone": BOTH, "id": COMPUTED},
        blocks={"port": NestedBlock("list", Block(attributes={"number": GIVEN, "id": COMPUTED}))},
    )
    block = Block(blocks={"rule": NestedBlock("set", inner)})
    given = [{"name": f"r{i}", "port": [{"number": str(i)}, {"number": "80"}]} for i in range(2000)]
    made = answer(block, proposed_new(block, None, fill(block, {"rule": given})))
    prior = {"rule": [one | {"id": f"id-{one['name']}"} for one in reversed(made["rule"])]}
    config = {"rule": [*given[:-2], given[-2] | {"port": [{"number": "81"}]}, {"name": "new"}]}
    looked = 0

    def counted(*of: Any) -> bool:
        nonlocal looked
        looked += 1
        return fits(*of)

    fits = proposed._block_fits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposed, "_block_fits", counted)
        out = propose(block, prior, config)
    assert [one["id"] for one in out["rule"]] == [*(f"id-r{i}" for i in range(1998)), None, None]
    assert looked < 20_000


@given(sets())
def test_an_element_of_a_set_is_the_first_that_it_can_have_been(story: tuple[Block, Any, Any]) -> None:
    """As when each is held against every other."""
    block, prior, config = story
    nested = block.blocks["sub"]
    left = list(range(len(prior["sub"])))
    expected: list[Any] = [None] * len(config["sub"])
    for i in sorted(range(len(expected)), key=lambda i: proposed._said(config["sub"][i]), reverse=True):
        found = next((k for k in left if proposed._block_fits(nested.block, prior["sub"][k], config["sub"][i])), None)
        if found is not None:
            left.remove(found)
        expected[i] = proposed._block(
            nested.block, prior["sub"][found] if found is not None else None, config["sub"][i]
        )
    assert proposed_new(block, prior, config)["sub"] == expected


def test_elements_that_leave_open_what_they_like_are_each_looked_at_a_few_times() -> None:
    """However many ways there are: each field of each element is gone through a few times, not once for every other element."""
    names = [f"f{i}" for i in range(10)]
    inner = Block(attributes={"name": REQUIRED, "id": COMPUTED} | dict.fromkeys(names, BOTH))
    block = Block(blocks={"rule": NestedBlock("set", inner)})
    given = [{"name": f"r{i}"} | {n: n for k, n in enumerate(names) if i >> k & 1} for i in range(400)]
    made = [dict.fromkeys(names, "made") | one | {"id": f"id-{one['name']}"} for one in given]
    gone_through = 0

    def counted(*of: Any) -> str:
        nonlocal gone_through
        gone_through += 1
        return fingerprint(*of)

    config = fill(block, {"rule": given})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposed, "fingerprint", counted)
        out = proposed_new(block, {"rule": made[::-1]}, config)
    assert [one["id"] for one in out["rule"]] == [f"id-r{i}" for i in range(400)]
    assert gone_through < 3 * 2 * 400 * 12
