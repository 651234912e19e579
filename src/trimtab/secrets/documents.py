"""The formats of SOPS files. A `Document` is a text, where values stand in it (`Leaf`, in order), and SOPS' own part (`metadata`).

    read(text, format) -> Document --values()--> by leaf, as they stand there
                          Document --text(values, metadata)--> the same text with other values: comments, order, quotes stay

YAML and dotenv are changed in place, so that a difference in git shows what changed and nothing else. JSON is written anew with the
indentation that it had. A binary file is one value of a JSON file.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Protocol

from trimtab.secrets.cipher import Comment, Moment, Path, Value, name
from trimtab.secrets.errors import SopsError
from trimtab.secrets.scalars import plain, written

Metadata = dict[str, Any]
METADATA = "sops"

_SUFFIXES = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".env": "dotenv"}
FORMATS = ("yaml", "json", "dotenv", "binary")
_TAGS = {"tag:yaml.org,2002:str": str}


@dataclass(frozen=True)
class Leaf:
    """A value, or a comment, and where it stands.

    span: in the text; column: of its key, when lines may go below it; key_column: of its key, when that is on a line of its own;
    flow: inside of `[...]` or `{...}`.
    """

    path: Path
    value: Value
    span: tuple[int, int] = (0, 0)
    column: int | None = None
    position: tuple[str | int, ...] = ()
    flow: bool = False
    key_column: int | None = None


class Document(Protocol):
    """A text with values in it."""

    @property
    def leaves(self) -> Sequence[Leaf]: ...

    @property
    def metadata(self) -> Metadata | None:
        """SOPS' part; None for a text that is not encrypted."""

    def tree(self, values: Sequence[Value]) -> Any:
        """The data alone, with these values."""

    def text(self, values: Sequence[Value], metadata: Metadata | None) -> str:
        """The text with these values for its leaves."""


def format_of(path: PurePath | str) -> str:
    """Which format a file has by its name; `binary` for all that is not known."""
    return _SUFFIXES.get(PurePath(path).suffix, "dotenv" if PurePath(path).name == ".env" else "binary")


def read(text: str, format: str) -> Document:
    """What stands in a text.

    Raises:
        SopsError: it is no text of that format, or has what cannot be kept (anchors, several documents).
    """
    if format == "binary":
        return _json(text) if _looks_like_json(text) else _JSON({"data": text}, None, "\t")
    readers: dict[str, Callable[[str], Document]] = {"yaml": _yaml, "json": _json, "dotenv": _dotenv}
    return readers[format](text)


def _looks_like_json(text: str) -> bool:
    try:
        return METADATA in json.loads(text)
    except (ValueError, TypeError):
        return False


# YAML


@dataclass(frozen=True)
class _YAML:
    source: str
    leaves: Sequence[Leaf]
    metadata: Metadata | None
    own: tuple[int, int] | None
    data: Any

    def tree(self, values: Sequence[Value]) -> Any:
        found = {leaf.position: value for leaf, value in zip(self.leaves, values, strict=True) if leaf.position}
        return _filled(self.data, found, ())

    def text(self, values: Sequence[Value], metadata: Metadata | None) -> str:
        changes = [(self.own, "")] if self.own else []
        for leaf, value in zip(self.leaves, values, strict=True):
            if value != leaf.value or type(value) is not type(leaf.value):
                changes.append(self._change(leaf, value))
        out = self.source
        for (start, end), new in sorted(changes, reverse=True):
            out = out[:start] + new + out[end:]
        if metadata is None:
            return out
        return out.rstrip("\n") + "\n" + _yaml_metadata(metadata)

    def _change(self, leaf: Leaf, value: Value) -> tuple[tuple[int, int], str]:
        start, end = leaf.span
        if isinstance(leaf.value, Comment):
            return leaf.span, str(value)
        if isinstance(value, Comment):
            # SOPS writes an encrypted comment that is in a list as one of its items.
            return (self.source.rindex("-", 0, start), end), f"#{value}"
        old = self.source[start:end]
        new = written(value, leaf.column, flow=leaf.flow)
        ends = len(old) - len(old.rstrip("\n")) if old.startswith(("|", ">")) else 0
        return leaf.span, new + "\n" * ends


def _filled(data: Any, values: Mapping[tuple[str | int, ...], Value], at: tuple[str | int, ...]) -> Any:
    if isinstance(data, dict):
        return {key: _filled(value, values, (*at, key)) for key, value in data.items()}
    if isinstance(data, list):
        items = (_filled(value, values, (*at, i)) for i, value in enumerate(data))
        return [item for item in items if not isinstance(item, Comment)]
    return values.get(at, data)


def _yaml_metadata(metadata: Metadata) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump({METADATA: metadata}, Dumper=Dumper, sort_keys=False, width=10**9, indent=4)


def _yaml(text: str) -> _YAML:
    import yaml

    try:
        nodes = list(yaml.compose_all(text, yaml.SafeLoader))
        tokens = list(yaml.scan(text, yaml.SafeLoader))
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise SopsError(f"{where}{getattr(err, 'problem', None) or 'no YAML'}") from None
    if len(nodes) > 1:
        raise SopsError("there are several YAML documents in it; put each into a file of its own")
    for token in tokens:
        if isinstance(token, yaml.AliasToken):
            raise SopsError(f"line {token.start_mark.line + 1}: *{token.value}: aliases cannot be kept; write it out")
    root = nodes[0] if nodes else None
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise SopsError("the file is not a mapping of YAML, like `name: value` by lines")
    return _YAMLReader(text, yaml).read(root, tokens)


class _YAMLReader:
    def __init__(self, text: str, yaml: Any) -> None:
        self.text = text
        self.yaml = yaml
        self.leaves: list[Leaf] = []
        self.places: list[tuple[int, int, Path]] = []
        """(offset, column, path of the mapping) of every key: to find which mapping a comment is in."""

    def read(self, root: Any, tokens: Sequence[Any]) -> _YAML:
        metadata, own = None, None
        pairs = []
        for i, (key, value) in enumerate(root.value):
            if key.value == METADATA:
                after = root.value[i + 1][0].start_mark.index if i + 1 < len(root.value) else len(self.text)
                own = (key.start_mark.index, after)
                metadata = self.yaml.load(self.text[own[0] : own[1]], self.yaml.BaseLoader)[METADATA]
                if not isinstance(metadata, dict):
                    raise SopsError(
                        f"line {key.start_mark.line + 1}: `{METADATA}` is the key of SOPS' own part; rename it"
                    )
            else:
                pairs.append((key, value))
        data = self._mapping(pairs, (), (), flow=False)
        self.leaves += self._comments(tokens, own)
        return _YAML(self.text, tuple(self.leaves), metadata, own, data)

    def _mapping(self, pairs: Any, path: Path, at: tuple[str | int, ...], *, flow: bool) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in pairs:
            line = key.start_mark.line + 1
            read = self._scalar(key) if isinstance(key, self.yaml.ScalarNode) else None
            if not isinstance(read, str) or isinstance(read, Moment):
                raise SopsError(f"line {line}: the key {key.value!r} is no text; put it in quotes")
            if read in data:
                raise SopsError(f"line {line}: there are two keys {name((*path, read))}")
            self.places.append((key.start_mark.index, key.start_mark.column, path))
            column = None if flow else key.start_mark.column
            data[read] = self._value(value, (*path, read), (*at, read), column, flow)
        return data

    def _value(self, node: Any, path: Path, at: tuple[str | int, ...], column: int | None, flow: bool) -> Any:
        if isinstance(node, self.yaml.MappingNode):
            return self._mapping(node.value, path, at, flow=bool(node.flow_style))
        if isinstance(node, self.yaml.SequenceNode):
            items = []
            for i, item in enumerate(node.value):
                if not node.flow_style:
                    self.places.append((item.start_mark.index, item.start_mark.column - 2, path))
                items.append(self._value(item, path, (*at, i), None, bool(node.flow_style)))
            return items
        value = self._scalar(node)
        if value is not None:
            start, end = node.start_mark.index, node.end_mark.index
            beside = "" if node.style in ("|", ">") else self.text[end:].partition("\n")[0].strip()
            self.leaves.append(Leaf(path, value, (start, end), None if beside else column, at, flow, column))
        return value

    def _scalar(self, node: Any) -> Value | None:
        if node.tag.startswith("!") or node.tag == "tag:yaml.org,2002:binary":
            line = node.start_mark.line + 1
            raise SopsError(f"line {line}: {node.tag} cannot be kept in a file of secrets; write a text")
        said = self.text[node.start_mark.index : node.end_mark.index]
        if node.style is not None or said.startswith("!!str"):
            return str(node.value)
        return plain(node.value)

    def _comments(self, tokens: Sequence[Any], own: tuple[int, int] | None) -> Iterator[Leaf]:
        spans = [(t.start_mark.index, t.end_mark.index) for t in tokens if isinstance(t, self.yaml.ScalarToken)]
        starts = [start for start, _ in spans]
        offsets = [offset for offset, _, _ in self.places]
        for match in re.finditer(r"(?:^|(?<=\s))#([^\n]*)", self.text, re.MULTILINE):
            at, (start, end) = match.start(), match.span(1)
            inside = bisect_right(starts, at) - 1
            if (inside >= 0 and at < spans[inside][1]) or (own and own[0] <= at < own[1]):
                continue
            yield Leaf(self._mapping_around(match, offsets), Comment(self.text[start:end]), (start, end))

    def _mapping_around(self, match: re.Match[str], offsets: Sequence[int]) -> Path:
        """Which mapping a comment is in: of the key before it on its line, else of the next one, else of the last."""
        line = self.text.rfind("\n", 0, match.start()) + 1
        alone = not self.text[line : match.start()].strip()
        after = bisect_right(offsets, match.start())
        if alone and after < len(offsets):
            return self.places[after][2]
        return self.places[after - 1][2] if after else ()


# JSON


@dataclass(frozen=True)
class _JSON:
    data: dict[str, Any]
    metadata: Metadata | None
    indent: str
    leaves: Sequence[Leaf] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "leaves", tuple(_json_leaves(self.data, (), ())))

    def tree(self, values: Sequence[Value]) -> Any:
        found = {leaf.position: value for leaf, value in zip(self.leaves, values, strict=True)}
        return _filled(self.data, found, ())

    def text(self, values: Sequence[Value], metadata: Metadata | None) -> str:
        data = _filled(self.tree(values), {}, ())
        if metadata is not None:
            data[METADATA] = metadata
        return json.dumps(_numbers(data), indent=self.indent, ensure_ascii=False) + "\n"


def _numbers(data: Any) -> Any:
    """Numbers of JSON have one type: 1.0 is written 1, and up to 1e21 without an exponent, as Go does."""
    if isinstance(data, dict):
        return {key: _numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_numbers(value) for value in data]
    if isinstance(data, float) and data.is_integer() and abs(data) < 1e21:
        return int(Decimal(repr(data)))
    return data


def _json_leaves(data: Any, path: Path, at: tuple[str | int, ...]) -> Iterator[Leaf]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _json_leaves(value, (*path, key), (*at, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from _json_leaves(value, path, (*at, i))
    elif data is not None:
        number = isinstance(data, int) and not isinstance(data, bool)
        yield Leaf(path, float(data) if number else data, position=at)


def _json(text: str) -> _JSON:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise SopsError(f"there are two keys {twice!r}")
        return data

    try:
        data = json.loads(text, object_pairs_hook=once)
    except ValueError as err:
        raise SopsError(f"no JSON: {err}") from None
    if not isinstance(data, dict):
        raise SopsError("the file is not an object of JSON")
    metadata = data.pop(METADATA, None)
    if metadata is not None and not isinstance(metadata, dict):
        raise SopsError(f"{METADATA!r} is the key of SOPS' own part; rename it")
    indent = re.search(r"\{\n?([ \t]+)\"", text)
    return _JSON(data, metadata, indent[1] if indent and "\n" in text else "\t")


# dotenv


@dataclass(frozen=True)
class _Dotenv:
    lines: Sequence[str | Leaf]
    metadata: Metadata | None

    @property
    def leaves(self) -> Sequence[Leaf]:
        return [line for line in self.lines if isinstance(line, Leaf)]

    def tree(self, values: Sequence[Value]) -> Any:
        pairs = zip(self.leaves, values, strict=True)
        return {leaf.path[0]: value for leaf, value in pairs if not isinstance(leaf.value, Comment)}

    def text(self, values: Sequence[Value], metadata: Metadata | None) -> str:
        new = iter(values)
        out = []
        for line in self.lines:
            if isinstance(line, str):
                out.append(line)
            elif isinstance(line.value, Comment):
                out.append(f"#{next(new)}")
            else:
                out.append(f"{line.path[0]}=" + str(next(new)).replace("\n", "\\n"))
        if metadata is not None:
            out += [f"{METADATA}_{key}=" + _flat(value) for key, value in sorted(_flattened(metadata))]
        return "\n".join(out) + "\n"


def _flat(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace("\n", "\\n")


def _flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`age[0].enc` is `age__list_0__map_enc`."""
    entries: Any = ()
    if isinstance(value, dict):
        entries = ((f"{prefix}__map_{key}" if prefix else key, item) for key, item in value.items())
    elif isinstance(value, list):
        entries = ((f"{prefix}__list_{i}", item) for i, item in enumerate(value))
    else:
        yield prefix, value
    for key, item in entries:
        yield from _flattened(item, key)


def _nested(flat: Mapping[str, str]) -> Metadata:
    root: Metadata = {}
    for key, value in flat.items():
        at: Any = root
        steps = re.split(r"(__map_|__list_)", key)
        names: list[Any] = [steps[0]]
        names += [int(n) if kind == "__list_" else n for kind, n in zip(steps[1::2], steps[2::2], strict=True)]
        for step in names[:-1]:
            at = at.setdefault(step, {})
        at[names[-1]] = value == "true" if key == "mac_only_encrypted" else value
    return {key: _listed(value) for key, value in root.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(isinstance(key, int) for key in value):
        return [_listed(value[i]) for i in sorted(value)]
    return {key: _listed(item) for key, item in value.items()}


def _dotenv(text: str) -> _Dotenv:
    lines: list[str | Leaf] = []
    own: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        key, equals, value = line.partition("=")
        if not line:
            lines.append(line)
        elif line.startswith("#"):
            lines.append(Leaf((), Comment(line[1:])))
        elif not equals:
            raise SopsError(f"line {number}: no NAME=value")
        elif key.startswith(f"{METADATA}_"):
            own[key.removeprefix(f"{METADATA}_")] = value.replace("\\n", "\n")
        else:
            lines.append(Leaf((key,), value.replace("\\n", "\n"), position=(key,)))
    while lines and lines[-1] == "":
        lines.pop()
    return _Dotenv(lines, _nested(own) if own else None)
