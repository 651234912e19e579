"""Random configurations and states of a provider's kinds, to ask two planners the same question.

    schema --Maker--> config, one that the provider accepts: what it says of a wrong one is a hint for the next
    config --provider's own plan--> prior (what it would have made)      mutate --> another config      drift --> another live state

Everything follows from a seed and from the provider's answers, so that the same program gives the same cases.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from msgspec import Struct

from trimtab.components.infrastructure.protocol.provider import Provider, ProviderError, State
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, NestedType, fill
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Dynamic, ValueFault, implied
from trimtab.components.infrastructure.schemas.changes import bare

TRIES = 14
META = {"count", "for_each", "provider", "lifecycle", "depends_on", "connection", "provisioner", "timeouts"}
"""Fields that mean something to Terraform itself."""
WORDS = (
    "alpha",
    "beta",
    "gamma",
    "delta-1",
    "eu-central",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "192.0.2.7",
    "2",
    "80",
    "a.example.org",
)
ODD_WORDS = ("", "cafe\u0301", "caf\u00e9", "a\u2028b", "${not}")
"""The second and third mean the same; the last is a template to Terraform, and escaped for it."""
ODD_NUMBERS = (0, 0.1, -2.75, 1e15, 12345678901234567890, 0.30000000000000004, 1e-7)


class Case(Struct, frozen=True):
    """One question: what has to be done so that `live` becomes `config`? prior: what was last known; config None: it has to go."""

    name: str
    kind: str
    prior: Any
    live: Any
    config: Any
    tainted: bool = False


class Maker:
    """Makes configurations of one kind; learns from refusals. odd: with values that few people give, and members of sets given twice."""

    def __init__(self, block: Block, seed: str, *, odd: bool = False) -> None:
        self.block = block
        self.odd = odd
        self.random = random.Random(seed)
        self.hints: dict[str, list[Any]] = {}
        self.never: set[str] = set()

    def config(self, richness: float) -> dict[str, Any]:
        return self._block(self.block, "", richness)

    def _block(self, block: Block, path: str, richness: float) -> dict[str, Any]:
        out = self._attributes(block.attributes, path, richness)
        for name, nested in block.blocks.items():
            at = _at(path, name)
            if at not in self.never and (path or name not in META):
                made = self._blocks(nested, at, richness)
                if made is not None:
                    out[name] = made
        return out

    def _attributes(self, attributes: dict[str, Attribute], path: str, richness: float) -> dict[str, Any]:
        out = {}
        for name, one in attributes.items():
            at = _at(path, name)
            if not one.given or one.write_only or at in self.never or (not path and name in META):
                continue
            if one.required or self.random.random() < richness:
                out[name] = self._value(one, at, richness)
        return out

    def _blocks(self, nested: NestedBlock, path: str, richness: float) -> Any:
        def make() -> Any:
            return self._block(nested.block, path, richness * 0.8)

        if nested.nesting in ("single", "group"):
            return make() if nested.min_items or self.random.random() < richness else None
        most = min(nested.max_items or 3, 3)
        count = max(nested.min_items, self.random.randint(1, most) if self.random.random() < richness else 0)
        if nested.nesting == "map":
            return {f"k{i}": make() for i in range(count)} or None
        return self._several(nested.nesting, [make() for _ in range(count)]) or None

    def _value(self, one: Attribute, path: str, richness: float) -> Any:
        if one.nested is not None:
            return self._nested(one.nested, path, richness)
        assert one.type is not None
        return self.of_type(one.type, path)

    def _nested(self, nested: NestedType, path: str, richness: float) -> Any:
        def make() -> Any:
            return self._attributes(nested.attributes, path, richness * 0.8)

        match nested.nesting:
            case "list" | "set":
                return self._several(nested.nesting, [make() for _ in range(self.random.randint(1, 3))])
            case "map":
                return {f"k{i}": make() for i in range(self.random.randint(1, 3))}
        return make()

    def _several(self, nesting: str, made: list[Any]) -> list[Any]:
        out = _distinct(made)
        return [*out, out[0]] if self.odd and nesting == "set" and out and self.random.random() < 0.3 else out

    def of_type(self, of: Type, path: str) -> Any:
        pick = self.random
        if of.kind in ("string", "number", "dynamic") and self.hints.get(path):
            found = pick.choice(self.hints[path])
            if of.kind != "number":
                return str(found)
            if str(found).lstrip("-").isdigit():
                return int(found)
        match of.kind:
            case "string":
                return pick.choice(ODD_WORDS if self.odd and pick.random() < 0.3 else WORDS)
            case "number":
                return pick.choice(ODD_NUMBERS if self.odd and pick.random() < 0.3 else (1, 2, 3, 7, 10, 443))
            case "bool":
                return pick.random() < 0.5
            case "list" | "set":
                assert of.element is not None
                made = [self.of_type(of.element, path) for _ in range(pick.randint(1, 3))]
                return self._several(of.kind, made) if of.kind == "set" else made
            case "map":
                assert of.element is not None
                keys = ("a", "b", "team", "x.y/z", *(["e\u0301t"] if self.odd else []))
                return {key: self.of_type(of.element, path) for key in pick.sample(keys, pick.randint(1, 3))}
            case "object":
                return {name: self.of_type(one, _at(path, name)) for name, one in of.attributes.items()}
            case "tuple":
                return [self.of_type(one, path) for one in of.elements]
        return pick.choice(("text", 5, True))

    def learn(self, path: str, text: str) -> bool:
        """Takes what a refusal says; whether there was something in it."""
        path = bare(path)
        quoted = re.search(
            r"(?:one of|values?:?|are|allowed)[:\s]*[\[(]?((?:\s*[\"'`][\w.:/ -]+[\"'`],?(?:\s*(?:or|and))?)+)", text
        )
        if quoted:
            self.hints[path] = re.findall(r"[\"'`]([\w.:/ -]+)[\"'`]", quoted[1])
            return True
        bracket = re.search(r"one of \[([\w. :/-]+)\]", text)
        if bracket:
            self.hints[path] = bracket[1].split()
            return True
        span = re.search(r"range \(?(\d+)\s*-\s*(\d+)", text) or re.search(r"between (\d+) and (\d+)", text)
        if span:
            low, high = int(span[1]), int(span[2])
            self.hints[path] = [low, high, (low + high) // 2, low + 1]
            return True
        for word, values in FORMS.items():
            if re.search(word, text, re.IGNORECASE):
                self.hints[path] = values
                return True
        return False


FORMS: dict[str, list[Any]] = {
    r"CIDR|network address|IP range|subnet": ["10.0.0.0/16", "10.1.0.0/24", "192.168.0.0/20"],
    r"\bIP\b|IPv4": ["192.0.2.1", "192.0.2.99"],
    r"not an? (integer|int|number)|strconv|parsing .*invalid syntax|numeric|must be a number": ["1", "2", "33"],
    r"RFC ?3339|timestamp|date": ["2024-01-02T03:04:05Z"],
    r"duration": ["10s", "5m"],
    r"JSON": ["{}", '{"a":1}'],
    r"URL|URI": ["https://a.example.org/x", "https://b.example.org"],
    r"ARN|\barn\b": ["arn:aws:iam::123456789012:role/alpha", "arn:aws:sns:eu-west-1:123456789012:beta"],
    r"base64": ["YQ==", "Ym9i"],
}


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _distinct(values: Any) -> list[Any]:
    out: list[Any] = []
    for one in values:
        if one not in out:
            out.append(one)
    return out


async def accepted(provider: Provider, kind: str, maker: Maker, richness: float) -> Any | None:
    """A configuration that the provider accepts, and would plan; None when none was found."""
    for _ in range(TRIES):
        config = maker.config(richness)
        try:
            said = [one for one in await provider.validate(kind, config) if one.error]
        except ValueFault:
            return None
        if not said:
            return config
        for one in said:
            text = f"{one.summary} {one.detail}"
            if maker.learn(one.path, text):
                continue
            named = re.findall(r"[\"'`]([a-z_0-9.]+)[\"'`]", text)
            given = [name for name in (bare(one.path), *named) if name and not _required(maker.block, name)]
            if given:
                maker.never.add(maker.random.choice(given))
        richness *= 0.9
    return None


def _required(block: Block, path: str) -> bool:
    name, _, rest = path.partition(".")
    if name in block.attributes:
        return block.attributes[name].required and not rest
    if name in block.blocks:
        return _required(block.blocks[name].block, rest) if rest else block.blocks[name].min_items > 0
    return False


def settled(of: Type, value: Any, pick: random.Random) -> Any:
    """A planned value as if it had been made: something for everything that is unknown."""
    if value is UNKNOWN:
        return _made_up(of, pick)
    if isinstance(value, Dynamic):
        return Dynamic(value.type, settled(value.type, value.value, pick))
    if isinstance(value, list):
        kinds = [of.element] * len(value) if of.element else list(of.elements)
        return [settled(t, one, pick) for t, one in zip(kinds, value, strict=True)]
    if isinstance(value, dict):
        return {name: settled(of.attributes.get(name) or of.element, one, pick) for name, one in value.items()}  # type: ignore[arg-type]
    return value


def _made_up(of: Type, pick: random.Random) -> Any:
    match of.kind:
        case "string":
            return str(pick.randint(1000, 9999))
        case "number":
            return pick.randint(1, 99)
        case "bool":
            return pick.random() < 0.5
        case "list" | "set":
            assert of.element is not None
            return [_made_up(of.element, pick)] if pick.random() < 0.5 else []
        case "map":
            assert of.element is not None
            return {"made": _made_up(of.element, pick)} if pick.random() < 0.5 else {}
        case "object":
            return {name: _made_up(one, pick) for name, one in of.attributes.items()}
        case "tuple":
            return [_made_up(one, pick) for one in of.elements]
    return Dynamic(implied("made"), "made")


def mutated(maker: Maker, config: dict[str, Any], richness: float) -> dict[str, Any]:
    """Another configuration, like the first but for some fields at its top, or deeper in one of them."""
    other = maker.config(richness)
    out = dict(config)
    names = sorted(config.keys() | other.keys())
    for name in maker.random.sample(names, min(len(names), maker.random.randint(1, 3))):
        if maker.random.random() < 0.3 and isinstance(out.get(name), list) and len(out[name]) > 1:
            out[name] = [*out[name][1:], out[name][0]] if maker.random.random() < 0.5 else out[name][1:]
        elif isinstance(out.get(name), list) and isinstance(other.get(name), list) and maker.random.random() < 0.5:
            out[name] = _distinct([*out[name][: len(out[name]) // 2], *other[name]])
        elif name in other:
            out[name] = other[name]
        elif not _required(maker.block, name):
            out.pop(name, None)
    return out


def drifted(of: Type, value: Any, pick: random.Random) -> Any:
    """A state that somebody changed here and there."""
    leaves = list(_leaves(value, ()))
    out = value
    for path in pick.sample(leaves, min(len(leaves), pick.randint(1, 2))):
        if path[-1] != "id":
            out = _changed(of, out, path, pick)
    return out


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _leaves(one, (*path, name))
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _leaves(one, (*path, i))
    elif path and value is not None:
        yield path


def _changed(of: Type, value: Any, path: tuple[Any, ...], pick: random.Random) -> Any:
    if not path:
        return _made_up(of, pick)
    step, rest = path[0], path[1:]
    if isinstance(value, list):
        inner = of.element or of.elements[step]
        return [_changed(inner, one, rest, pick) if i == step else one for i, one in enumerate(value)]
    inner = of.attributes.get(step) or of.element  # type: ignore[assignment]
    return value | {step: _changed(inner, value[step], rest, pick)}


class Peer:
    """A provider that is started again when it broke off, as real ones do on values that nobody foresaw."""

    def __init__(self, start: Callable[[], Awaitable[Provider]]) -> None:
        self._start = start
        self._running: Provider | None = None

    async def provider(self) -> Provider:
        if self._running is not None and not self._running.plugin.running:
            await self.close()
        if self._running is None:
            self._running = await self._start()
        return self._running

    async def close(self) -> None:
        if self._running is not None:
            await self._running.close()
        self._running = None


async def cases(peer: Peer, kinds: list[str], seed: int, per_kind: int, *, odd: bool = False) -> list[Case]:
    """The same for the same provider and seed. Kinds for which no configuration was found are left out. odd: as `Maker` has it."""
    schema = await (await peer.provider()).schema()
    out: list[Case] = []
    for kind in kinds:
        maker = Maker(schema.resources[kind].block, f"{seed} {kind}", odd=odd)
        for number in range(per_kind):
            made = await _case(await peer.provider(), kind, maker, f"{kind}-{number}", number)
            if made is not None:
                out.append(made)
            elif number == 3 and not any(one.kind == kind for one in out):
                break
    return out


async def _case(provider: Provider, kind: str, maker: Maker, name: str, number: int) -> Case | None:
    pick, block = maker.random, maker.block
    richness = pick.choice((0.1, 0.4, 0.7))
    try:
        before = await accepted(provider, kind, maker, richness)
        if before is None:
            return None
        planned = await provider.plan(kind, State(None), before)
        prior = settled(block.implied, planned.value, pick)
        form = number % 8
        if form == 0:
            config = _sometimes_unknown(block, before, pick)
            found = (await provider.plan(kind, State(None), config)).value
            return Case(name, kind, None, None, config) if _sound(block, found) else None
        if form == 1:
            return Case(name, kind, prior, prior, None)
        live = drifted(block.implied, prior, pick) if form in (3, 5) else prior
        config = before
        if form in (4, 5, 6, 7):
            config = _sometimes_unknown(block, mutated(maker, before, richness), pick)
            if any(one.error for one in await provider.validate(kind, config)):
                config = before
        found = (await provider.plan(kind, State(live), fill(block, config))).value
        tainted = form == 7 and pick.random() < 0.3
        return Case(name, kind, prior, live, config, tainted=tainted) if _sound(block, found) else None
    except ValueFault:
        return None
    except ProviderError as err:
        if err.code:  # no refusal: it broke off
            await provider.close()
        return None


def _sound(block: Block, planned: Any) -> bool:
    """Whether Terraform would take this plan: some providers have null where there are no nested blocks."""
    return all(planned.get(name) is not None for name, one in block.blocks.items() if one.nesting in ("list", "set"))


def _sometimes_unknown(block: Block, config: dict[str, Any], pick: random.Random) -> dict[str, Any]:
    """The configuration, in one of four cases with a text that comes from something not made yet."""
    texts = [
        n
        for n, v in config.items()
        if isinstance(v, str) and n in block.attributes and block.attributes[n].type is not None
    ]
    if not texts or pick.random() > 0.25:
        return config
    return config | {pick.choice(texts): UNKNOWN}
