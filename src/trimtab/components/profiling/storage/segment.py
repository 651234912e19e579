"""A segment: samples of one hour in a directory of Parquet files, which is there whole or not at all.

    hours/START-TOKEN/    START: Unix seconds of the hour
      samples.parquet     time (of `TIME_S` seconds since 1970, int32), type, labels, node, value, count; by type, labels, node, time
      nodes.parquet       up, call: the stacks, as the tree that they share (`trie.py`)
      edges.parquet       caller, callee: who calls whom, once, however many stacks it is in
      frames.parquet      kind, name, file, line, build_id, address
      labels.parquet      set, name, value
      segment.json        what it was made of, so that nothing counts twice: batch files and segments

A tree's nodes and its edges are told by small differences, a tenth of the bytes of plain numbers: `up` is by how much a node's parent is
further than that of the node before (the first is after node -1), and `call` the place of its frame among all that its parent's frame
calls. Edges stand by caller (frame -1 calls the roots) and callee; `caller` is how much further it is than in the row before, `callee` how
much further than its caller.

Frames and stacks are numbered within their segment and told apart by what they are, not by a hash of it. A segment stands alone, so
keeping less is deleting directories. Any program that reads Parquet can read one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from trimtab.components.profiling.batch import TIME_S, Frame, SampleType
from trimtab.components.profiling.storage import trie
from trimtab.components.profiling.storage.part import Damaged, Gathered, Interned, Opened, Piece, summed
from trimtab.components.profiling.storage.trie import Ints, Trie

Mask = NDArray[np.bool_]

HOUR_S = 3600
COMPRESSION_LEVEL = 9
"""Of zstd: 3 % smaller than its 3, and half a second a day more; above 12 hardly smaller at several times the time."""

PIECE_NODES_MAX = 200_000
"""Of what one segment answers; 30 times what can be seen of a flame graph."""


class Lost(Struct, frozen=True, array_like=True):
    time: int
    """In `TIME_S` seconds since 1970."""
    reason: str
    count: int


class About(Struct, frozen=True, kw_only=True):
    """What a segment says of itself in segment.json."""

    types: list[SampleType]
    lost: list[Lost]
    label_sets: int
    samples: int
    events: int
    """The sum of the samples' counts."""
    batches: list[str]
    """Names of batch files that are in it and may still be in incoming/."""
    replaces: list[str]
    """Names of segments that are in it and may still be there."""


_ABOUT = msgspec.json.Decoder(About)


class Columns(Struct, frozen=True, kw_only=True):
    """All samples of a segment, or of what is to become one."""

    types: list[SampleType]
    labels: list[dict[str, str]]
    frames: list[Frame]
    tree: Trie
    samples: dict[str, Ints]
    """time, type, labels, node, value, count."""
    lost: list[Lost]


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
        samples = self._chosen(choice, ["node", "value", "count"])
        if samples is None:
            return Piece([], trie.EMPTY, np.zeros(1, np.int64), np.zeros(1, np.int64), 0)
        parent, call = self._nodes()
        self._check_nodes(samples["node"], parent)
        kept, number = trie.pruned(Trie(parent, call), samples["node"])
        node = np.append(number, -1)[samples["node"]]
        values, counts = (summed(node, samples[name], len(kept.parent)) for name in ("value", "count"))
        (kept, values, counts), merged = trie.folded(kept, values, counts, PIECE_NODES_MAX)
        tree = self._with_frames(kept)
        used, frame = np.unique(tree.frame, return_inverse=True)
        return Piece(self._frames(used), Trie(tree.parent, frame), values, counts, merged)

    def steps(self, choice: Choice) -> dict[str, Ints] | None:
        """Time, value and count of the samples that `piece` would sum."""
        return self._chosen(choice, ["time", "value", "count"])

    def see(self, choice: Choice, latest: Latest) -> None:
        """Shows the samples of a gauge to `latest`."""
        if (found := self._chosen(choice, ["time", "labels"])) is not None:
            latest.see(found["time"], found["labels"], self.labels().sets())

    def totals(self, choice: Choice, label: str) -> dict[str, int]:
        """The sum of the samples that `piece` would sum, by the value of a label."""
        samples = self._chosen(choice, ["labels", "value"])
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
        table, tree, frames = self._samples([]), self._with_frames(Trie(*self._nodes())), self._frames(None)
        samples = {name: _ints(table[name]) for name in ("time", "type", "labels", "node", "value", "count")}
        self._check_nodes(samples["node"], tree.parent)
        if len(tree.frame) and not 0 <= tree.frame.min() <= tree.frame.max() < len(frames):
            raise self._damage("edges", "a frame that there is not")
        return Columns(
            types=self.about.types,
            labels=self.labels().sets(),
            frames=frames,
            tree=tree,
            samples=samples,
            lost=self.about.lost,
        )

    def _chosen(self, choice: Choice, columns: list[str]) -> dict[str, Ints] | None:
        if choice.kind not in self.about.types:
            return None
        table = self._samples(columns)
        wanted = table["type"].to_numpy() == self.about.types.index(choice.kind)
        labels = self.labels()
        wanted &= choice.accepted(labels)[table["labels"].to_numpy()]
        time = table["time"].to_numpy()
        wanted &= (time >= choice.start // TIME_S) & (time < -(-choice.end // TIME_S))
        if choice.latest is not None and wanted.any():
            times, sets = _ints(table["time"])[wanted], _ints(table["labels"])[wanted]
            wanted[wanted] = choice.latest.keep(times, sets, labels.sets())
        return {name: _ints(table[name])[wanted] for name in columns} if wanted.any() else None

    def _samples(self, columns: list[str]) -> Any:
        """Some columns of the samples, or all."""
        table = self._read("samples", list({"type", "labels", "time", "node", *columns}) if columns else None)
        limits = {"type": len(self.about.types), "labels": self.about.label_sets}
        if len(table) and not all(0 <= table[name].min() <= table[name].max() < limits[name] for name in limits):
            raise self._damage("samples", "a type or labels that there are not")
        return table

    def _nodes(self) -> tuple[Ints, Ints]:
        """The parent of each node, and `call`."""
        table = self._read("nodes")
        up, call = _ints(table["up"]), _ints(table["call"])
        parent = np.cumsum(up) - 1
        if (up < 0).any() or (parent >= np.arange(len(parent))).any():
            raise self._damage("nodes", "out of order")
        return parent, call

    def _with_frames(self, tree: Trie) -> Trie:
        """A tree, or some of it, whose `frame` is still `call`, with its frames."""
        table = self._read("edges")
        caller = np.cumsum(_ints(table["caller"])) - 1
        callee = caller + _ints(table["callee"])
        frame = np.empty(len(tree.frame), np.int64)
        for start, end in tree.levels():
            above = frame[tree.parent[start:end]] if start else np.full(end - start, -1)
            edge = np.searchsorted(caller, above) + tree.frame[start:end]
            if int(edge.max()) >= len(caller) or (caller[edge] != above).any():
                raise self._damage("edges", "a call that there is not")
            frame[start:end] = callee[edge]
        return Trie(tree.parent, frame)

    def _frames(self, used: Ints | None) -> list[Frame]:
        table = self._read("frames", ["kind", "name", "file", "line", "build_id", "address"])
        if used is not None:
            if len(used) and not 0 <= used[0] <= used[-1] < len(table):
                raise self._damage("edges", "a frame that there is not")
            table = table[used]
        return [Frame(*row) for row in table.iter_rows()]

    def _check_nodes(self, nodes: Ints, parent: Ints) -> None:
        if len(nodes) and not -1 <= nodes.min() <= nodes.max() < len(parent):
            raise self._damage("samples", "a node that there is not")

    def _damage(self, table: str, why: str) -> Damaged:
        return Damaged(f"{self.path}/{table}.parquet: damaged ({why})")

    def _read(self, name: str, columns: list[str] | None = None) -> Any:
        import polars as pl

        path = self.path / f"{name}.parquet"
        try:
            return pl.read_parquet(path, columns=columns, glob=False, memory_map=False)
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


def of_batches(batches: Sequence[Opened], refused: Callable[[Opened, Damaged], None]) -> Columns:
    """Batches in columns. One whose stacks cannot be read is refused, and left out."""
    gathered, types, sets = Gathered(), Interned[SampleType](), Interned[frozenset[tuple[str, str]]]()
    samples: dict[str, list[Ints]] = {name: [] for name in ("time", "type", "labels", "node", "value", "count")}
    lost: list[Lost] = []
    for opened in batches:
        head, taken = opened.head, opened.samples
        try:
            samples["node"].append(gathered.add(opened, taken.stack))
        except Damaged as err:
            refused(opened, err)
            continue
        samples["time"].append(np.full(len(taken.type), head.start // TIME_S, np.int64))
        samples["type"].append(types.map(head.types)[taken.type])
        samples["labels"].append(sets.map([frozenset(one.items()) for one in head.labels])[taken.labels])
        samples["value"].append(taken.value)
        samples["count"].append(taken.count)
        lost += [Lost(head.start // TIME_S, reason, count) for reason, count in head.lost.items()]
    tree, nodes = gathered.build()
    table = {name: np.concatenate([np.empty(0, np.int64), *parts]) for name, parts in samples.items()}
    table["node"] = nodes[table["node"]]
    return Columns(
        types=types.items,
        labels=[dict(one) for one in sets.items],
        frames=gathered.frames.items,
        tree=tree,
        samples=table,
        lost=lost,
    )


def merged(parts: Sequence[Columns]) -> Columns:
    """The samples of several."""
    frames, types, sets = Interned[Frame](), Interned[SampleType](), Interned[frozenset[tuple[str, str]]]()
    tries = []
    for part in parts:
        numbers = frames.map(part.frames)
        tries.append(Trie(part.tree.parent, numbers[part.tree.frame] if len(numbers) else part.tree.frame))
    tree, maps = trie.merge(tries)
    samples: dict[str, list[Ints]] = {name: [] for name in ("time", "type", "labels", "node", "value", "count")}
    for part, nodes in zip(parts, maps, strict=True):
        taken = part.samples
        for name in ("time", "value", "count"):
            samples[name].append(taken[name])
        samples["type"].append(types.map(part.types)[taken["type"]])
        samples["labels"].append(sets.map([frozenset(one.items()) for one in part.labels])[taken["labels"]])
        samples["node"].append(np.append(nodes, -1)[taken["node"]])
    return Columns(
        types=types.items,
        labels=[dict(one) for one in sets.items],
        frames=frames.items,
        tree=tree,
        samples={name: np.concatenate([np.empty(0, np.int64), *arrays]) for name, arrays in samples.items()},
        lost=[lost for part in parts for lost in part.lost],
    )


def write(root: Path, start: int, columns: Columns, batches: Sequence[str], replaces: Sequence[str]) -> Path:
    """Puts a segment in place, durable when this returns. Raises `OSError`, leaving nothing of it."""
    name = Name(start, secrets.token_hex(4))
    path, fresh = hours(root) / str(name), hours(root) / f".{name}.part"
    try:
        fresh.mkdir(mode=0o750, parents=True)
        columns = _summed(_ordered(columns))
        for table, contents in _tables(columns).items():
            _write_table(fresh / f"{table}.parquet", contents)
        about = About(
            types=columns.types,
            lost=_lost(columns.lost),
            label_sets=len(columns.labels),
            samples=len(columns.samples["time"]),
            events=int(columns.samples["count"].sum()),
            batches=sorted(batches),
            replaces=sorted(replaces),
        )
        _write_bytes(fresh / "segment.json", msgspec.json.encode(about))
        sync(fresh)
        fresh.rename(path)
        sync(hours(root))
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return path


def sync(directory: Path) -> None:
    """What was renamed in a directory stays so."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _summed(columns: Columns) -> Columns:
    """One sample a time, type, labels and stack."""
    samples = columns.samples
    order = np.lexsort((samples["time"], samples["node"], samples["labels"], samples["type"]))
    taken = {name: array[order] for name, array in samples.items()}
    if not len(order):
        return columns
    fresh = np.zeros(len(order), bool)
    fresh[0] = True
    for name in ("type", "labels", "node", "time"):
        fresh[1:] |= taken[name][1:] != taken[name][:-1]
    first = np.flatnonzero(fresh)
    kept = {name: taken[name][first] for name in ("time", "type", "labels", "node")}
    kept |= {name: np.add.reduceat(taken[name], first) for name in ("value", "count")}
    return msgspec.structs.replace(columns, samples=kept)


def _ordered(columns: Columns) -> Columns:
    """Frames that are near each other in their files stand side by side, so that their addresses compress; the tree follows."""
    frames = columns.frames
    keys = [(frame.kind, frame.build_id, frame.file, frame.address, frame.name, frame.line) for frame in frames]
    order = sorted(range(len(frames)), key=keys.__getitem__)
    number = np.empty(len(frames), np.int64)
    number[order] = np.arange(len(frames))
    tree, maps = trie.merge([Trie(columns.tree.parent, number[columns.tree.frame])])
    samples = columns.samples | {"node": np.append(maps[0], -1)[columns.samples["node"]]}
    return msgspec.structs.replace(columns, frames=[frames[index] for index in order], tree=tree, samples=samples)


def _tables(columns: Columns) -> dict[str, Any]:
    import polars as pl

    samples, frames, tree = columns.samples, columns.frames, columns.tree
    labels = [(index, name, one[name]) for index, one in enumerate(columns.labels) for name in one]
    labels.sort(key=lambda row: (row[1], row[0]))
    return {
        "samples": pl.DataFrame(
            {
                "time": samples["time"].astype(np.int32),
                "type": samples["type"].astype(np.int32),
                "labels": samples["labels"].astype(np.int32),
                "node": samples["node"].astype(np.int32),
                "value": samples["value"],
                "count": samples["count"],
            }
        ),
        **_tree_tables(tree),
        "frames": pl.DataFrame(
            [[getattr(frame, name) for frame in frames] for name in Frame.__struct_fields__],
            schema={
                "kind": pl.String,
                "name": pl.String,
                "file": pl.String,
                "line": pl.Int64,
                "build_id": pl.String,
                "address": pl.UInt64,
            },
        ),
        "labels": pl.DataFrame(labels, schema={"set": pl.Int32, "name": pl.String, "value": pl.String}, orient="row"),
    }


def _tree_tables(tree: Trie) -> dict[str, Any]:
    import polars as pl

    above = np.where(tree.parent >= 0, tree.frame[tree.parent], -1) if len(tree.parent) else tree.parent
    edges, edge = np.unique((above + 1) << 32 | tree.frame, return_inverse=True)
    caller, callee = (edges >> 32) - 1, edges & 0xFFFFFFFF
    call = (np.arange(len(edges)) - np.searchsorted(caller, caller))[edge]
    columns = {
        "nodes": {"up": np.diff(tree.parent, prepend=-1), "call": call},
        "edges": {"caller": np.diff(caller, prepend=-1), "callee": callee - caller},
    }
    return {
        name: pl.DataFrame({column: array.astype(np.int32) for column, array in table.items()})
        for name, table in columns.items()
    }


def _lost(lost: Sequence[Lost]) -> list[Lost]:
    sums: dict[tuple[int, str], int] = {}
    for one in lost:
        sums[one.time, one.reason] = sums.get((one.time, one.reason), 0) + one.count
    return [Lost(time, reason, count) for (time, reason), count in sorted(sums.items())]


def _write_table(path: Path, table: Any) -> None:
    with open(path, "wb") as file:
        table.write_parquet(file, compression="zstd", compression_level=COMPRESSION_LEVEL, statistics=False)
        file.flush()
        os.fsync(file.fileno())


def _write_bytes(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _ints(column: Any) -> Ints:
    found: Ints = column.to_numpy().astype(np.int64)
    return found
