"""Batches become segments: the same answers before and after, whoever is killed in between, and whatever is damaged."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType, incoming, packed, write
from trimtab.components.profiling.storage import arrivals
from trimtab.components.profiling.storage.contents import contents
from trimtab.components.profiling.storage.segment import HOUR_S, hours
from trimtab.components.profiling.storage.store import Profiles, Query

CPU, ALLOC = SampleType("cpu", "nanoseconds"), SampleType("alloc_space", "bytes")
HOUR = 1_800_000_000 - 1_800_000_000 % HOUR_S


def random_batch(seed: int, start: int) -> Batch:
    """Whatever a batch may hold, out of few enough frames and labels that batches share some."""
    chance = random.Random(seed)
    frames = [
        *(Frame(kind="native", build_id="ab" * 10, address=16 * i, file="/lib/x.so") for i in range(6)),
        *(Frame(kind="python", name=f"f{i}", file="é.py", line=i) for i in range(4)),
        Frame(kind="native", build_id="top", address=(1 << 64) - 1),
        Frame(kind="mark", name="truncated"),
    ]
    chance.shuffle(frames)
    stacks = [chance.choices(range(len(frames)), k=chance.randrange(8)) for _ in range(12)]
    labels = [{"app": chance.choice("abc"), "pid": str(chance.randrange(3))} for _ in range(4)] + [{}]
    samples = [
        Sample(chance.randrange(2), chance.randrange(5), chance.randrange(12), chance.randrange(1 << 40), 2)
        for _ in range(30)
    ]
    return Batch(
        start=start,
        source="agent",
        types=[CPU, ALLOC] if chance.random() < 0.5 else [ALLOC, CPU],
        labels=labels,
        frames=frames,
        stacks=stacks,
        samples=samples,
        lost={"lost": seed % 3},
    )


def filled(root: Path, first: int, last: int, step: int = 10) -> Profiles:
    store = Profiles(root)
    for start in range(first, last, step):
        store.append(random_batch(start, start))
    return store


def answers(store: Profiles, start: int, end: int) -> list[object]:
    """All that can be asked, in an order of its own."""
    found: list[object] = [store.labels(start, end), store.types(start, end)]
    for kind in ("cpu", "alloc_space"):
        for selector in ("", 'app="a"', 'pid=~"1|2",app!="b"', 'app=""', 'app="none"'):
            query = Query(type=kind, start=start, end=end, selector=selector)
            one = store.select(query)
            stacks = sorted(
                (tuple(str(one.frames[frame]) for frame in stack), value, count)
                for stack, value, count in zip(one.stacks, one.values.tolist(), one.counts.tolist(), strict=True)
            )
            series = store.series(query, 60)
            found += [stacks, one.total, one.unit, sorted(one.lost.items()), series.values.tolist()]
            found += [sorted(store.totals(query, label).items()) for label in ("app", "none")]
    return found


def segments(root: Path) -> list[str]:
    return sorted(path.name for path in hours(root).glob("[0-9]*"))


def test_answers_are_the_same_before_and_after(tmp_path: Path) -> None:
    start, end = HOUR, HOUR + HOUR_S + 300
    store = filled(tmp_path, start, end, 60)
    before = answers(store, start, end), answers(store, start + 130, start + 1990)
    for now in (HOUR + 600, HOUR + 1300, end + HOUR_S, end + 2 * HOUR_S):
        store.roll_up(now)
        assert (answers(store, start, end), answers(store, start + 130, start + 1990)) == before
    store.roll_up(end + 2 * HOUR_S)
    assert [name.partition("-")[0] for name in segments(tmp_path)] == [f"{HOUR:011d}", f"{HOUR + HOUR_S:011d}"]
    assert not list(incoming(tmp_path).iterdir())


def test_an_hour_that_is_not_over_is_a_few_segments_and_one_when_it_is(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    for step in range(12):
        store.append(random_batch(step, HOUR + step * 10))
        store.roll_up(HOUR + step * 10)
        assert len(contents(tmp_path).segments[HOUR]) <= 9
    store.roll_up(HOUR + HOUR_S)
    assert len(segments(tmp_path)) > 1  # the grace for what comes late
    store.roll_up(HOUR + HOUR_S + 60)
    store.roll_up(HOUR + HOUR_S + 60)
    assert len(segments(tmp_path)) == 1
    before = answers(store, HOUR, HOUR + 200)
    assert store.roll_up(HOUR + 2 * HOUR_S).segments == 0
    store.append(random_batch(99, HOUR + 10))  # late
    store.roll_up(HOUR + 2 * HOUR_S)
    store.roll_up(HOUR + 2 * HOUR_S)
    assert len(segments(tmp_path)) == 1
    assert answers(store, HOUR, HOUR + 200) != before


def test_segments_are_parquet_of_the_stated_columns(tmp_path: Path) -> None:
    filled(tmp_path, HOUR, HOUR + 60).roll_up(HOUR)
    (path,) = hours(tmp_path).glob("[0-9]*")
    samples = pl.read_parquet(path / "samples.parquet")
    assert samples.schema["time"] == pl.Int32
    assert samples["time"].unique().sort().to_list() == [HOUR // 10 + i for i in range(6)]
    assert pl.read_parquet(path / "nodes.parquet").columns == ["up", "call"]
    assert pl.read_parquet(path / "edges.parquet").columns == ["caller", "callee"]
    assert pl.read_parquet(path / "labels.parquet").columns == ["set", "name", "value"]
    assert pl.read_parquet(path / "frames.parquet").columns == ["place", "address"]
    assert pl.read_parquet(path / "places.parquet").columns == list(Frame.__struct_fields__)[:-1]


KILLED = """
import os, shutil, sys
from pathlib import Path
import polars  # its threads begin with its first use, so that a child may be forked
sys.path.insert(0, sys.argv[3])
import test_profiling_rollup as stories
from trimtab.components.profiling.storage.store import Profiles

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
root, now = Path(sys.argv[1]), float(sys.argv[2])

def child(work):
    if (pid := os.fork()) == 0:
        try:
            os._exit(work() or 0)
        except BaseException as err:
            print(repr(err), flush=True)
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed_at(step):
    left = [step]
    def hook(event, arguments):
        if event in CHANGES and (event != "open" or str(arguments[0]).startswith(str(root))):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
    sys.addaudithook(hook)
    Profiles(root).roll_up(now)

def same():
    return 0 if repr(stories.answers(Profiles(root), stories.HOUR, stories.HOUR + 200)) == expected else 4

expected = (root / "expected").read_text()
for step in range(0, 1000, int(sys.argv[4])):
    root = Path(sys.argv[1], str(step))
    shutil.copytree(Path(sys.argv[1], "start"), root)
    ended = child(lambda: killed_at(step))
    assert ended in (0, 9), ended
    assert child(same) == 0, step
    assert child(lambda: Profiles(root).roll_up(now) and Profiles(root).roll_up(now) and None) == 0, step
    assert child(same) == 0, step
    assert not list((root / "incoming").glob("*.batch")), step
    assert len(list((root / "hours").glob("[0-9]*"))) == 1, step
    if ended == 0:
        break
print(step)
"""


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.long)])
def test_whoever_is_killed_at_any_step_loses_nothing_and_counts_nothing_twice(tmp_path: Path, stride: int) -> None:
    store = filled(tmp_path / "start", HOUR, HOUR + 30)
    store.roll_up(HOUR)
    for start in range(HOUR + 30, HOUR + 60, 10):
        store.append(random_batch(start, start))
    (tmp_path / "expected").write_text(repr(answers(store, HOUR, HOUR + 200)))
    here, now = str(Path(__file__).parent), str(HOUR + 2 * HOUR_S)
    program = [sys.executable, "-c", KILLED, str(tmp_path), now, here, str(stride)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert int(ended.stdout) > 20  # the last step, which came to its end; those before were kills


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    import fcntl

    store = filled(tmp_path, HOUR, HOUR + 20)
    hours(tmp_path).mkdir()
    with open(hours(tmp_path) / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            store.roll_up(HOUR)


def test_what_is_damaged_is_set_aside_with_one_line_and_blocks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(tmp_path, HOUR, HOUR + 60)
    store.roll_up(HOUR)
    for start in range(HOUR + 60, HOUR + 90, 10):
        store.append(random_batch(start, start))
    (incoming(tmp_path) / f"{HOUR:011d}-agent-bad.batch").write_bytes(b"\xc1")
    (damaged,) = hours(tmp_path).glob("[0-9]*")
    content = bytearray((damaged / "samples.parquet").read_bytes())
    content[4:200] = bytes(196)
    (damaged / "samples.parquet").write_bytes(content)
    caplog.clear()
    done = store.roll_up(HOUR + 2 * HOUR_S)
    assert (done.batches, done.aside) == (3, 2)
    assert all("\n" not in record.getMessage() for record in caplog.records)
    lines = [record.getMessage() for record in caplog.records]
    assert any("-agent-bad.batch: not a batch of samples" in line and "set aside in" in line for line in lines), lines
    assert any("samples.parquet: damaged (" in line for line in lines), lines
    assert len(list((tmp_path / "aside").iterdir())) == 2
    selection = store.select(Query(start=HOUR, end=HOUR + 100))
    assert selection.total > 0
    assert "unreadable" not in selection.lost


@pytest.mark.parametrize("table", ["samples", "nodes", "edges", "frames", "places", "labels", "segment"])
def test_a_damaged_segment_is_left_out_of_answers_and_counted(tmp_path: Path, table: str) -> None:
    store = filled(tmp_path, HOUR, HOUR + 60)
    store.roll_up(HOUR)
    store.roll_up(HOUR)
    store.append(random_batch(7, HOUR + 60))
    (path,) = hours(tmp_path).glob("[0-9]*")
    (damaged,) = path.glob(f"{table}.*")
    damaged.write_bytes(damaged.read_bytes()[:-20])
    selection = store.select(Query(start=HOUR, end=HOUR + 100, selector='app=~".*"'))
    assert selection.lost["unreadable"] == 1
    assert selection.total == store.select(Query(start=HOUR + 60, end=HOUR + 70)).total > 0


def test_hours_older_than_the_retention_go_a_few_at_a_call(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    for hour in range(20):
        store.append(random_batch(hour, HOUR + hour * HOUR_S))
    now = HOUR + 20 * HOUR_S
    store.roll_up(now)
    assert store.retain(now, 18 * HOUR_S, 1 << 40).deleted == 1
    assert segments(tmp_path)[0].startswith(f"{HOUR + HOUR_S:011d}")
    # The clock jumps a year ahead, and back: some of the oldest hours are gone, not all.
    assert store.retain(now + 365 * 86400, 18 * HOUR_S, 1 << 40).deleted == 12
    assert store.retain(now, 18 * HOUR_S, 1 << 40).deleted == 0
    assert len(segments(tmp_path)) == 7


def test_what_is_too_much_goes_the_impossible_future_first_then_the_oldest(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    future, past = HOUR + 400 * 86400, 0
    for start in (past, HOUR - HOUR_S, HOUR, future):
        store.append(random_batch(5, start - start % 10))
    store.roll_up(HOUR)
    sizes = {path.name: sum(file.stat().st_size for file in path.iterdir()) for path in hours(tmp_path).glob("[0-9]*")}
    names = sorted(sizes)
    assert [int(name.partition("-")[0]) for name in names] == [past, HOUR - HOUR_S, HOUR, future]
    total = sum(sizes.values())
    store.retain(HOUR, 1 << 40, total - 1)
    assert segments(tmp_path) == names[:3]
    store.retain(HOUR, 1 << 40, total - sizes[names[3]] - 1)
    assert segments(tmp_path) == names[1:3]
    store.retain(HOUR, 1 << 40, 0)
    assert segments(tmp_path) == []


def test_on_a_full_disk_the_oldest_that_wait_make_room_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, HOUR, HOUR + 40)
    dropped = random_batch(HOUR, HOUR)
    full = {"left": 1}

    def full_once(root: Path, batch: Batch) -> Path:
        if full["left"]:
            full["left"] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(root, batch)

    monkeypatch.setattr(arrivals, "write", full_once)
    store.append(random_batch(1, HOUR + 40))
    names = sorted(path.name for path in incoming(tmp_path).iterdir())
    assert [int(name.partition("-")[0]) for name in names] == [HOUR + 10, HOUR + 20, HOUR + 30, HOUR + 40]
    lost = store.select(Query(start=HOUR + 40, end=HOUR + 50)).lost
    assert lost["no-room"] == sum(sample.count for sample in dropped.samples)


def test_what_is_rolled_up_makes_room_without_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, HOUR, HOUR + 40)
    store.roll_up(HOUR)
    before = store.select(Query(start=HOUR, end=HOUR + 40)).total
    monkeypatch.setattr(arrivals, "INCOMING_BYTES_MAX", 1)
    store.append(random_batch(1, HOUR + 40))
    assert len(list(incoming(tmp_path).iterdir())) == 1
    assert store.select(Query(start=HOUR, end=HOUR + 40)).total == before
    assert "no-room" not in store.select(Query(start=HOUR + 40, end=HOUR + 50)).lost


def test_a_copy_of_the_files_made_while_a_roll_up_works_has_everything_once(tmp_path: Path) -> None:
    """As a backup reads: what is listed first is copied last, with a roll-up between any two directories."""
    store = filled(tmp_path / "data", HOUR, HOUR + 60)
    store.roll_up(HOUR)
    store.append(random_batch(3, HOUR + 70))
    before = answers(store, HOUR, HOUR + 200)
    listed = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.name != ".lock")
    for name, first in (("a", "hours"), ("b", "incoming")):
        copy = tmp_path / name
        ordered = sorted(listed, key=lambda path: path.relative_to(tmp_path / "data").parts[0] != first)
        for index, path in enumerate(ordered):
            if index == len(ordered) // 2 and name == "a":
                store.roll_up(HOUR + 2 * HOUR_S)
            target = copy / path.relative_to(tmp_path / "data")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                target.write_bytes(path.read_bytes())
        assert answers(Profiles(copy), HOUR, HOUR + 200) == before


def test_a_batch_that_is_rolled_up_while_another_comes_in_is_no_error(tmp_path: Path) -> None:
    """Its name is read from the directory, and then the file is gone: here, as a link to nothing."""
    store = filled(tmp_path, HOUR, HOUR + 10)
    (incoming(tmp_path) / f"{HOUR - 10:011d}-agent-gone.batch").symlink_to(tmp_path / "gone")
    store.append(random_batch(1, HOUR + 10))
    assert len(list(incoming(tmp_path).glob("*.batch"))) == 3


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(packed(random_batch(HOUR, HOUR)))
    monkeypatch.setattr(arrivals, "INCOMING_BYTES_MAX", 3 * size)
    filled(tmp_path, HOUR, HOUR + 200)
    assert 2 <= len(list(incoming(tmp_path).iterdir())) <= 6


def test_the_process_that_rolls_up_tells_what_it_did(tmp_path: Path) -> None:
    store = filled(tmp_path, HOUR, HOUR + 60)
    before = store.select(Query(start=HOUR, end=HOUR + 60)).total
    module = "trimtab.components.profiling.storage.rollup"
    command = [sys.executable, "-m", module, str(tmp_path), "--max-bytes", str(1 << 30)]
    kept = subprocess.run([*command, "--retention-s", str(1 << 40)], capture_output=True, text=True, timeout=60)
    assert kept.stdout == '{"batches":6,"segments":1,"aside":0,"deleted":0}\n', kept.stderr
    assert store.select(Query(start=HOUR, end=HOUR + 60)).total == before
    clock = str(-(1 << 40))  # all is older than a time to come
    gone = subprocess.run([*command, "--retention-s", clock], capture_output=True, text=True, timeout=60)
    assert gone.stdout == '{"batches":0,"segments":0,"aside":0,"deleted":1}\n', gone.stderr
    assert store.select(Query(start=HOUR, end=HOUR + 60)).total == 0


def test_the_last_minutes_are_asked_without_what_reads_parquet(tmp_path: Path) -> None:
    store = filled(tmp_path, HOUR, HOUR + 60)
    store.roll_up(HOUR)
    store.append(random_batch(1, HOUR + 60))
    program = (
        "import sys; from pathlib import Path; from trimtab.components.profiling.storage.store import Profiles, Query;"
        f"print(Profiles(Path(sys.argv[1])).select(Query(start={HOUR} + int(sys.argv[2]), end={HOUR} + 70)).total,"
        "'polars' in sys.modules)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), start], capture_output=True, text=True, timeout=60
        ).stdout
        for start in ("60", "50")
    ]
    totals = [store.select(Query(start=HOUR + start, end=HOUR + 70)).total for start in (60, 50)]
    assert said == [f"{totals[0]} False\n", f"{totals[1]} True\n"]


def test_what_retention_took_does_not_come_back_from_what_was_not_deleted_yet(tmp_path: Path) -> None:
    store = filled(tmp_path, HOUR, HOUR + 60)
    store.roll_up(HOUR)
    assert list(incoming(tmp_path).iterdir())
    store.retain(HOUR, 1 << 40, 0)
    assert store.select(Query(start=HOUR, end=HOUR + 60)).total == 0
    assert store.roll_up(HOUR).batches == 0
