"""YAML bodies, read as JSON: no tags, no anchors that explode, keys as text. Imported only when YAML comes."""

from __future__ import annotations

from typing import Any

import yaml

ALIASES_MAX = 1_000
"""Aliases in one document; more is the "billion laughs"."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlProblem(ValueError):
    """One line: what is wrong and where."""


class _Loader(_Base):  # type: ignore[misc]  # the C loader has no type
    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []
        self.aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > ALIASES_MAX:
                raise YamlProblem(f"more than {ALIASES_MAX} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        self.flatten_mapping(node)
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            text = key if isinstance(key, str) else key_node.value
            if text in out:
                self.duplicates.append(text)
            out[text] = self.construct_object(value_node, deep=deep)
        return out


def _timestamp_as_text(loader: Any, node: Any) -> str:
    return str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _timestamp_as_text)


def load(body: bytes) -> tuple[Any, list[str]]:
    """The document's value and the keys that stand twice in it. Raises `YamlProblem`."""
    loader = _Loader(body)
    try:
        return loader.get_single_data(), loader.duplicates
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise YamlProblem(where + str(getattr(err, "problem", None) or err)) from None
    finally:
        loader.dispose()
