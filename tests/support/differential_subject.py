"""A kind whose two servers are compared: what can be written into its objects, as Hypothesis strategies.

Names and values come from small pools, so that requests meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

JSON = dict[str, Any]


def some(**fields: SearchStrategy[Any]) -> SearchStrategy[JSON]:
    """An object with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def exactly(**fields: SearchStrategy[Any]) -> SearchStrategy[JSON]:
    return st.fixed_dictionaries(fields)


def items(item: SearchStrategy[Any], key: str, at_most: int = 3) -> SearchStrategy[list[Any]]:
    """A list of items that differ in `key`."""
    return st.lists(item, max_size=at_most, unique_by=lambda one: str(one[key]))


def text(*words: str) -> SearchStrategy[str]:
    return st.sampled_from(words)


number = st.integers(0, 3)
word = text("x", "y", "")
words = st.dictionaries(text("k1", "k2", "k3"), word, max_size=3)
quantity = text("100m", "0.1", "1", "1Gi", "64M", "1000m")
word_set = st.lists(text("p", "q", "r"), max_size=3, unique=True)


NOTHING: SearchStrategy[JSON] = st.just({})
UNKNOWN: SearchStrategy[JSON] = st.just({"unknownField": 1})


@dataclass(frozen=True)
class Subject:
    """A kind under test. `base` is what every object of it needs; `parts` draws what may stand besides; `wrong` what is
    refused or pruned; `status` what its status may hold; `edits` are JSON patch operations."""

    plural: str
    kind: str
    group_version: str = "v1"
    base: JSON = field(default_factory=dict)
    parts: SearchStrategy[JSON] = NOTHING
    wrong: SearchStrategy[JSON] = UNKNOWN
    status: SearchStrategy[JSON] | None = None
    scale: bool = False
    strategic: SearchStrategy[JSON] | None = None
    edits: tuple[JSON, ...] = ()
    custom: bool = False
    versions: bool = True
    """Whether both servers count its versions alike: controllers, and defaults that come with the first reading, may add some."""

    @property
    def collection(self) -> str:
        root = "api" if "/" not in self.group_version else "apis"
        return f"/{root}/{self.group_version}/namespaces/<ns>/{self.plural}"

    def object(self, name: str | None, *more: JSON) -> JSON:
        out: JSON = {"apiVersion": self.group_version, "kind": self.kind, "metadata": {"name": name} if name else {}}
        for one in more:
            out = merged(out, one)
        return out


def merged(a: JSON, b: JSON) -> JSON:
    """Objects merged key by key; lists and scalars of `b` win."""
    out = dict(a)
    for key, value in b.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


labels = st.dictionaries(text("app", "tier", "example.com/x"), text("web", "db", ""), max_size=2)
finalizers = st.lists(text("example.com/f", "example.com/g"), max_size=2, unique=True)
metadata = exactly(metadata=some(labels=labels, annotations=words, finalizers=finalizers))
wrong_metadata = st.sampled_from(
    [
        {"metadata": {"labels": {"-bad-": "x"}}},
        {"metadata": {"labels": {"app": "not a value!"}}},
        {"metadata": {"annotations": {"no good/key/": "x"}}},
        {"metadata": {"finalizers": ["nodomain"]}},
        {"metadata": {"finalizers": ["bad domain/f"]}},
        {"metadata": {"labels": {"app": 1}}},
        {"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}},
        {"metadata": {"name": "other"}},
        {"metadata": {"namespace": "other"}},
        {"metadata": {"unknownMeta": "x"}},
        {"metadata": {"generation": 7, "creationTimestamp": "2001-01-01T00:00:00Z", "selfLink": "/x"}},
        {"kind": "Other"},
        {"apiVersion": "other/v1"},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": ""}]}},
    ]
)
condition = exactly(type=text("Ready", "Available"), status=text("True", "False")).flatmap(
    lambda one: some(reason=text("R"), message=word).map(lambda more: {**one, **more})
)
