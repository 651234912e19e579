"""A segment: samples of one hour in a directory of Parquet files, which is there whole or not at all.

    hours/START-TOKEN/    START: Unix seconds of the hour
      samples.parquet     time (of `TIME_S` seconds since 1970, int32), type, labels, node, value, count; by type, labels, node, time
      nodes.parquet       up, call: the stacks, as the trees that they share (`trie.py`)
      edges.parquet       caller, callee: who calls whom, once in a group, however many stacks it is in
      frames.parquet      place, address: a row of places.parquet, and the address where the frame is one
      places.parquet      kind, name, file, line, build_id
      labels.parquet      set, name, value
      segment.json        what it was made of, so that nothing counts twice: batch files and segments

Samples, nodes, edges and label sets stand by group (`groups.py`; segment.json says how many rows each has): each has a tree of its own,
with nodes that are numbered from 0.

A tree's nodes and its edges are told by small differences, a tenth of the bytes of plain numbers: `up` is by how much a node's parent is
further than that of the node before (the first is after node -1), and `call` the place of its frame among all that its parent's frame
calls. Edges stand by caller (frame -1 calls the roots) and callee; `caller` is how much further it is than in the row before (the first is
after frame -1), `callee` how much further than its caller.

Frames and stacks are numbered within their segment and told apart by what they are, not by a hash of it. A segment stands alone, so
keeping less is deleting directories. Any program that reads Parquet can read one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from trimtab.components.profiling.batch import TIME_S, Frame, SampleType
from trimtab.components.profiling.storage import trie
from trimtab.components.profiling.storage.groups import Group, Rows, rows, runs
from trimtab.components.profiling.storage.part import Damaged, Frames, Piece, summed
from trimtab.components.profiling.storage.trie import Ints, Trie

Mask = NDArray[np.bool_]

HOUR_S = 3600
PIECE_NODES_MAX = 200_000
"""Of what one segment answers; ten times what is drawn of a tree."""


class Lost(Struct, frozen=True, array_like=True):
    time: int
    """In `TIME_S` seconds since 1970."""
    reason: str
    count: int


class Columns(Struct, frozen=True, kw_only=True):
    """All samples of a segment, or of what is to become one."""

    types: list[SampleType]
    labels: list[dict[str, str]]
    frames: list[Frame]
    tree: Trie
    samples: dict[str, Ints]
    """time, type, labels, node, value, count."""
    lost: list[Lost]


class About(Struct, frozen=True, kw_only=True):
    """What a segment says of itself in segment.json."""

    types: list[SampleType]
    lost: list[Lost]
    label_sets: int
    groups: list[Group]
    first: int
    """The time of its first sample, in `TIME_S` seconds since 1970."""
    last: int
    samples: int
    events: int
    """The sum of the samples' counts."""
    batches: list[str]
    """Names of batch files that are in it and may still be in incoming/."""
    replaces: list[str]
    """Names of segments that are in it and may still be there."""


_ABOUT = msgspec.json.Decoder(About)


class Latest(Protocol):
    """`gauges.Latest`."""

    def see(self, time: Ints, sets: Ints, labels: Sequence[Mapping[str, str]]) -> None: ...
    def keep(self, time: Ints, sets: Ints, labels: Sequence[Mapping[str, str]]) -> Mask: ...


class Choice(NamedTuple):
    """Which samples are asked for."""

    kind: SampleType
    accepted: Callable[[LabelTable], Mask]
    """Which label sets."""
    start: int
    """Unix seconds."""
    end: int
    latest: Latest | None = None
    """Of a gauge, the last snapshots alone."""


class Name(NamedTuple):
    start: int
    token: str

    def __str__(self) -> str:
        return f"{self.start:011d}-{self.token}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        start, dash, token = text.partition("-")
        return cls(int(start), token) if dash and token and start.isdecimal() else None


def hours(root: Path) -> Path:
    return root / "hours"


class Segment:
    """A segment on disk. Everything raises `FileNotFoundError` when it went meanwhile, and `Damaged` when it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.about = _ABOUT.decode((path / "segment.json").read_bytes())
        except msgspec.MsgspecError as err:
            raise Damaged(f"{path}/segment.json: damaged ({err})") from err

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.path.iterdir())

    def piece(self, choice: Choice) -> Piece:
        """The samples that are chosen, summed by stack."""
        tries, values, counts = [], [], []
        for samples, tree in self._grown(choice):
            kept, number = trie.pruned(tree, samples["node"])
            node = np.append(number, -1)[samples["node"]]
            tries.append(kept)
            values.append(summed(node, samples["value"], len(kept.parent)))
            counts.append(summed(node, samples["count"], len(kept.parent)))
        if not tries:
            return Piece(Frames.of(()), trie.EMPTY, np.zeros(1, np.int64), np.zeros(1, np.int64), 0)
        tree, sums, events = trie.together(tries, values, counts)
        (tree, sums, events), merged = trie.folded(tree, sums, events, PIECE_NODES_MAX)
        used, frame = np.unique(tree.frame, return_inverse=True)
        frames = self._frames()
        if len(used) and used[-1] >= len(frames.place):
            raise self._damage("edges", "a frame that there is not")
        return Piece(frames.some(used), Trie(tree.parent, frame), sums, events, merged)

    def steps(self, choice: Choice) -> dict[str, Ints] | None:
        """Time, value and count of the samples that `piece` would sum."""
        return self._joined(choice, ["time", "value", "count"])

    def see(self, choice: Choice, latest: Latest) -> None:
        """Shows the samples of a gauge to `latest`."""
        if (found := self._joined(choice, ["time", "labels"])) is not None:
            latest.see(found["time"], found["labels"], self.labels().sets())

    def totals(self, choice: Choice, label: str) -> dict[str, int]:
        """The sum of the samples that `piece` would sum, by the value of a label."""
        samples = self._joined(choice, ["labels", "value"])
        if samples is None:
            return {}
        sums = summed(samples["labels"], samples["value"], self.about.label_sets)
        values, found = self.labels().of(label), dict[str, int]()
        for number in np.unique(samples["labels"]).tolist():
            value = values.get(number, "")
            found[value] = found.get(value, 0) + int(sums[number])
        return found

    def labels(self) -> LabelTable:
        table = self._read("labels")
        if len(table) and not 0 <= table["set"].min() <= table["set"].max() < self.about.label_sets:
            raise self._damage("labels", "a set that there is not")
        return LabelTable(table, self.about.label_sets)

    def columns(self) -> Columns:
        """All of it."""
        table, frames = self._samples([]), self._frames()
        samples = {name: _ints(table[name]) for name in ("time", "type", "labels", "node", "value", "count")}
        trees = self._trees(0, len(self._of))
        if any(int(tree.frame.max(initial=-1)) >= len(frames.place) for tree in trees):
            raise self._damage("edges", "a frame that there is not")
        tree, maps = trie.merge(trees)
        for group, numbers in zip(self._of, maps, strict=True):
            nodes = samples["node"][slice(*group.samples)]
            self._check_nodes(nodes, numbers)
            nodes[:] = np.append(numbers, -1)[nodes]
        return Columns(
            types=self.about.types,
            labels=self.labels().sets(),
            frames=frames.frames(),
            tree=tree,
            samples=samples,
            lost=self.about.lost,
        )

    @property
    def _of(self) -> list[Rows]:
        return rows(self.about.groups)

    def _grown(self, choice: Choice) -> Iterator[tuple[dict[str, Ints], Trie]]:
        """Of each group that has some the samples that are chosen, and its tree."""
        for first, last, found in self._chosen(choice, ["node", "value", "count"]):
            for samples, tree in zip(found, self._trees(first, last), strict=True):
                self._check_nodes(samples["node"], tree.parent)
                if len(samples["node"]):
                    yield samples, tree

    def _joined(self, choice: Choice, columns: list[str]) -> dict[str, Ints] | None:
        parts = [part for _, _, found in self._chosen(choice, columns) for part in found]
        return {name: np.concatenate([part[name] for part in parts]) for name in columns} if parts else None

    def _chosen(self, choice: Choice, columns: list[str]) -> Iterator[tuple[int, int, list[dict[str, Ints]]]]:
        """Columns of the samples that are chosen, by group, for each run of groups that may have some."""
        if choice.kind not in self.about.types:
            return
        labels, of = self.labels(), self._of
        accepted = choice.accepted(labels)
        for first, last in runs([index for index, group in enumerate(of) if accepted[slice(*group.sets)].any()]):
            start, end = of[first].samples[0], of[last - 1].samples[1]
            table = self._samples(columns, start, end)
            wanted = table["type"].to_numpy() == self.about.types.index(choice.kind)
            wanted &= accepted[table["labels"].to_numpy()]
            time = table["time"].to_numpy()
            wanted &= (time >= choice.start // TIME_S) & (time < -(-choice.end // TIME_S))
            if choice.latest is not None and wanted.any():
                times, sets = _ints(table["time"])[wanted], _ints(table["labels"])[wanted]
                wanted[wanted] = choice.latest.keep(times, sets, labels.sets())
            arrays = {name: _ints(table[name]) for name in columns}
            yield first, last, [_where(arrays, wanted, *group.samples, start) for group in of[first:last]]

    def _samples(self, columns: list[str], start: int = 0, end: int | None = None) -> Any:
        """Some columns of the samples, or all; of some rows, or all."""
        end = self.about.samples if end is None else end
        wanted = sorted({"type", "labels", "time", "node", *columns}) if columns else None
        table = self._read("samples", wanted, start, end)
        limits = {"type": len(self.about.types), "labels": self.about.label_sets}
        if len(table) != end - start:
            raise self._damage("samples", "fewer than there should be")
        if len(table) and not all(0 <= table[name].min() <= table[name].max() < limits[name] for name in limits):
            raise self._damage("samples", "a type or labels that there are not")
        return table

    def _trees(self, first: int, last: int) -> list[Trie]:
        """The trees of some groups."""
        of = self._of[first:last]
        if not of:
            return []
        nodes = self._stretch("nodes", of[0].nodes[0], of[-1].nodes[1])
        edges = self._stretch("edges", of[0].edges[0], of[-1].edges[1])
        found = []
        for group in of:
            node, edge = (
                [column[first - start : last - start] for column in columns]
                for columns, (first, last), start in (
                    (nodes, group.nodes, of[0].nodes[0]),
                    (edges, group.edges, of[0].edges[0]),
                )
            )
            found.append(self._tree(*node, *edge))
        return found

    def _tree(self, up: Ints, call: Ints, further: Ints, callee: Ints) -> Trie:
        """A group's tree, of its rows of nodes and edges."""
        parent = np.cumsum(up) - 1
        if (up < 0).any() or (parent >= np.arange(len(parent))).any():
            raise self._damage("nodes", "out of order")
        caller = np.cumsum(further) - 1
        callee = caller + callee
        tree, frame = Trie(parent, call), np.empty(len(parent), np.int64)
        for start, end in tree.levels():
            above = frame[parent[start:end]] if start else np.full(end - start, -1)
            edge = np.searchsorted(caller, above) + call[start:end]
            if int(edge.max()) >= len(caller) or (caller[edge] != above).any():
                raise self._damage("edges", "a call that there is not")
            frame[start:end] = callee[edge]
        if len(frame) and frame.min() < 0:
            raise self._damage("edges", "a frame that there is not")
        return Trie(parent, frame)

    def _stretch(self, name: str, start: int, end: int) -> list[Ints]:
        """The columns of some rows."""
        table = self._read(name, None, start, end)
        if len(table) != end - start:
            raise self._damage(name, "fewer rows than there should be")
        return [_ints(column) for column in table.iter_columns()]

    def _frames(self) -> Frames:
        table, places = self._read("frames"), self._read("places").rows()
        place = _ints(table["place"])
        if len(place) and not 0 <= place.min() <= place.max() < len(places):
            raise self._damage("frames", "a place that there is not")
        return Frames(places, place, table["address"].to_numpy())

    def _check_nodes(self, nodes: Ints, parent: Ints) -> None:
        if len(nodes) and not -1 <= nodes.min() <= nodes.max() < len(parent):
            raise self._damage("samples", "a node that there is not")

    def _damage(self, table: str, why: str) -> Damaged:
        return Damaged(f"{self.path}/{table}.parquet: damaged ({why})")

    def _read(self, name: str, columns: list[str] | None = None, start: int = 0, end: int | None = None) -> Any:
        """A table: some columns, or all; some rows, or all."""
        import polars as pl

        path = self.path / f"{name}.parquet"
        try:
            if end is None:
                return pl.read_parquet(path, columns=columns, glob=False, memory_map=False)
            asked = pl.scan_parquet(path, glob=False).slice(start, end - start)
            return (asked.select(columns) if columns else asked).collect()
        except FileNotFoundError:
            raise
        except (pl.exceptions.PolarsError, OSError) as err:
            raise self._damage(name, str(err).splitlines()[0]) from err


class LabelTable:
    """Label sets, one row a label."""

    def __init__(self, table: Any, length: int) -> None:
        self._table, self.length = table, length

    def accepted(self, label: str, accepts: Callable[[str], bool]) -> Mask:
        """Which sets have a value of this label that is accepted."""
        import polars as pl

        mask = np.full(self.length, accepts(""))
        rows = self._table.filter(pl.col("name") == label)
        values = [value for value in rows["value"].unique().to_list() if accepts(value)]
        mask[rows["set"].to_numpy()] = False
        mask[rows.filter(pl.col("value").is_in(values))["set"].to_numpy()] = True
        return mask

    def of(self, label: str) -> dict[int, str]:
        """The value that each set has of a label."""
        import polars as pl

        rows = self._table.filter(pl.col("name") == label)
        return dict(zip(rows["set"].to_list(), rows["value"].to_list(), strict=True))

    def values(self) -> dict[str, list[str]]:
        return {name: part["value"].unique().to_list() for (name,), part in self._table.group_by("name")}

    def sets(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = [{} for _ in range(self.length)]
        for index, name, value in self._table.iter_rows():
            found[index][name] = value
        return found


def _where(arrays: dict[str, Ints], wanted: Mask, start: int, end: int, base: int) -> dict[str, Ints]:
    here = slice(start - base, end - base)
    return {name: array[here][wanted[here]] for name, array in arrays.items()}


def _ints(column: Any) -> Ints:
    found: Ints = column.to_numpy().astype(np.int64)
    return found
