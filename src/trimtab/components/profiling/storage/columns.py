"""Samples in columns on their way into a segment: of batches, or of segments that are merged.

batches --of_batches--> Columns --write, by group (`groups.py`)--> segment     (what is in its files: `segment.py`)
segments --merged---------'
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.batch import TIME_S, Frame, SampleType
from trimtab.components.profiling.storage import trie
from trimtab.components.profiling.storage.groups import Grouped, grouped, rows
from trimtab.components.profiling.storage.part import Damaged, Frames, Gathered, Interned, Opened
from trimtab.components.profiling.storage.segment import HOUR_S, About, Columns, Lost, Name, hours
from trimtab.components.profiling.storage.trie import Ints, Trie

COMPRESSION_LEVEL = 3
"""Of zstd: 9 makes a busy hour 2 % smaller in 1.7 times the time, 15 by 8 % in seven times."""

ROWS = 1 << 16
"""Of a row group of Parquet: who wants some of the rows reads no more than that around them."""


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
        made = grouped(_summed(_ordered(columns)))
        columns = made.columns
        for table, contents in _tables(made):
            _write_table(fresh / f"{table}.parquet", contents)
        about = About(
            types=columns.types,
            lost=_lost(columns.lost),
            label_sets=len(columns.labels),
            groups=made.groups,
            first=int(columns.samples["time"].min(initial=(start + HOUR_S) // TIME_S)),
            last=int(columns.samples["time"].max(initial=start // TIME_S)),
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


def _tables(made: Grouped) -> Iterator[tuple[str, Any]]:
    """The tables of a segment, one after the other: each takes memory."""
    import polars as pl

    yield "samples", pl.DataFrame(_by_group(made))
    for name, table in _tree_tables(made).items():
        yield name, pl.DataFrame({column: array.astype(np.int32) for column, array in table.items()})
    frames = Frames.of(map(msgspec.structs.astuple, made.columns.frames))
    yield "frames", pl.DataFrame({"place": frames.place.astype(np.int32), "address": frames.address})
    schema = {"kind": pl.String, "name": pl.String, "file": pl.String, "line": pl.Int64, "build_id": pl.String}
    yield "places", pl.DataFrame(frames.places, schema=schema, orient="row")
    labels = [(index, name, one[name]) for index, one in enumerate(made.columns.labels) for name in one]
    labels.sort(key=lambda row: (row[1], row[0]))
    yield "labels", pl.DataFrame(labels, schema={"set": pl.Int32, "name": pl.String, "value": pl.String}, orient="row")


def _by_group(made: Grouped) -> dict[str, NDArray[Any]]:
    """Samples in the order of their labels, which is that of the groups."""
    samples, wide = made.columns.samples, {"value", "count"}
    group = np.repeat(np.arange(len(made.groups)), [one.sets for one in made.groups])[samples["labels"]]
    order = np.lexsort((samples["time"], samples["node"], samples["labels"], samples["type"], group))
    return {name: array[order] if name in wide else array[order].astype(np.int32) for name, array in samples.items()}


def _tree_tables(made: Grouped) -> dict[str, dict[str, Ints]]:
    """Nodes and edges, told by small differences within each group."""
    up, caller = (np.diff(array, prepend=-1) for array in (made.columns.tree.parent, made.caller))
    for group in rows(made.groups):
        for told, array, (first, last) in (
            (up, made.columns.tree.parent, group.nodes),
            (caller, made.caller, group.edges),
        ):
            if last > first:
                told[first] = array[first] + 1
    return {"nodes": {"up": up, "call": made.call}, "edges": {"caller": caller, "callee": made.callee - made.caller}}


def _lost(lost: Sequence[Lost]) -> list[Lost]:
    sums: dict[tuple[int, str], int] = {}
    for one in lost:
        sums[one.time, one.reason] = sums.get((one.time, one.reason), 0) + one.count
    return [Lost(time, reason, count) for (time, reason), count in sorted(sums.items())]


def _write_table(path: Path, table: Any) -> None:
    """By way of memory: of a disk that is full the writer of Parquet says that the file is not one."""
    made = io.BytesIO()
    table.write_parquet(
        made, compression="zstd", compression_level=COMPRESSION_LEVEL, statistics=False, row_group_size=ROWS
    )
    _write_bytes(path, made.getbuffer())


def _write_bytes(path: Path, content: bytes | memoryview) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
