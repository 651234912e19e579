"""What a backup of 1 GB costs, first and again, and a restore; next to tar piped into age. Prints the machine's load and cores.

    sudo .venv/bin/python benchmarks/backup.py [--mb 1024]

The volume is one half random bytes and one half text that compresses, in files of 16 MB and 8 kB, as a database and a directory of
uploads would have. The peer is `tar | age` (without compression) and, beside it, `tar | zstd -1 | age`, to the same disk.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from engine_at_rest import engine_at_rest  # noqa: E402
from trimtab.runtime.settings import Settings  # noqa: E402

LARGE_BYTES, SMALL_BYTES = 16 << 20, 8 << 10
SMALL_SHARE = 16
"""One byte in so many is in small files."""
SETTLE_S = 3.0
"""What was written within the last two seconds is read again while pods stand still: that is not measured here."""
TRIMTAB = Path(sys.executable).with_name("trimtab")


def fill(directory: Path, size_bytes: int) -> None:
    """Writes the files of the volume."""
    text = b"".join(b"%d: a line of a log that says much the same as the one before\n" % n for n in range(300_000))
    for number in range(size_bytes // LARGE_BYTES * (SMALL_SHARE - 1) // SMALL_SHARE):
        start = (number * 7919) % 1000
        content = os.urandom(LARGE_BYTES) if number % 2 else text[start : start + LARGE_BYTES]
        (directory / f"segment-{number}").write_bytes(content)
    (directory / "small").mkdir()
    for number in range(size_bytes // SMALL_SHARE // SMALL_BYTES):
        content = os.urandom(SMALL_BYTES) if number % 2 else text[number : number + SMALL_BYTES]
        (directory / "small" / str(number)).write_bytes(content)


class Timed:
    """A command that was run, after everything dirty was on disk: what it said, seconds by the clock and of CPU."""

    def __init__(self, *argv: str | Path) -> None:
        os.sync()
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        self.said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        self.s = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def tell(self, name: str, rest: str) -> None:
        print(f"{name:<20} {self.s:6.2f} s, {self.cpu_s:6.2f} s of CPU, {rest}")


def piped(script: str) -> Timed:
    """A pipe with its result flushed to disk, as ours is."""
    return Timed("bash", "-c", f"set -o pipefail; {script} && sync -f {script.rpartition('>')[2].strip()}")


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def measure(work: Path, settings: Settings, size_bytes: int) -> None:
    volume = settings.data_path("node", "volumes", "pvc-1")
    volume.mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()):
        fill(volume, size_bytes)
    time.sleep(SETTLE_S)
    total = size_of(volume) / 1e6
    place, data = work / "vault", ["--data", settings.data]
    first = Timed(TRIMTAB, *data, "backup", place, "-o", "json")
    again = Timed(TRIMTAB, *data, "backup", place, "-o", "json")
    with open(volume / "segment-1", "r+b") as file:
        file.seek(5 << 20)
        file.write(b"one page of a database changed")
    changed = Timed(TRIMTAB, *data, "backup", place, "-o", "json")
    key = Path(settings.data, "backup", "identity.txt")
    verify = Timed(TRIMTAB, *data, "backup", "verify", place)
    restore = Timed(TRIMTAB, "--data", work / "restored", "restore", place, "--key", key)
    commit = json.loads(first.said)
    print(f"{total:.0f} MB in {commit['files']} files")
    for name, run in (("first backup", first), ("again, unchanged", again), ("again, a page more", changed)):
        run.tell(name, f"{json.loads(run.said)['sentBytes'] / 1e6:.2f} MB sent")
    verify.tell("verify, every byte", f"{total / verify.s:.0f} MB/s")
    restore.tell("restore", f"{total / restore.s:.0f} MB/s")
    if shutil.which("age") is None:
        print("peer: age is not installed (apt-get install age zstd)")
        return
    recipient = commit["recipients"][0]
    plain = piped(f"tar -C {volume} -c . | age -r {recipient} > {work}/plain.age")
    packed = piped(f"tar -C {volume} -c . | zstd -1 -T1 -q | age -r {recipient} > {work}/packed.age")
    script = f"mkdir {work}/back && age -d -i {key} {work}/packed.age | zstd -dq | tar -C {work}/back -x && sync -f {work}/back"
    back = Timed("bash", "-c", script)
    for name, run, path in (("tar|age", plain, "plain.age"), ("tar|zstd|age", packed, "packed.age")):
        run.tell(name, f"{(work / path).stat().st_size / 1e6:.0f} MB")
    back.tell("age|zstd|tar back", f"{total / back.s:.0f} MB/s")
    for peer, run in (("tar|age", plain), ("tar|zstd|age", packed)):
        print(
            f"ratio to {peer}: first {first.s / run.s:.2f} ({first.cpu_s / run.cpu_s:.2f} of its CPU), "
            f"again {again.s / run.s:.2f} ({again.cpu_s / run.cpu_s:.2f})"
        )
    print(f"ratio to age|zstd|tar back: restore {restore.s / back.s:.2f} ({restore.cpu_s / back.cpu_s:.2f} of its CPU)")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mb", type=int, default=1024)
    size_bytes = options.parse_args().mb << 20
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory:
        work = Path(directory)
        settings = engine_at_rest(work / "data")
        try:
            measure(work, settings, size_bytes)
        finally:
            shutil.rmtree(settings.run)


if __name__ == "__main__":
    main()
