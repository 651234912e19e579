"""Python bytecode for an image, so that a container does not compile its libraries at every start.

A worker process of the image's Python version compiles: our own interpreter where the version is the same, else one of
that version on this machine, else nothing (the image then works, and starts slower). The result is reproducible: the
validation is by hash, not by time (PEP 552), and the code is marshalled in version 2, which has neither references nor
interning, the two things that depend on what else the compiling process holds.
"""

from __future__ import annotations

import marshal
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from trimtab.content.tools import run

_BATCH_BYTES = 48 << 20

# Runs in the worker, which has the standard library alone. A file that does not compile gets no bytecode.
_WORKER = """
import importlib.util, marshal, sys, warnings
warnings.simplefilter("ignore")
out = []
for path, source, checked in marshal.load(sys.stdin.buffer):
    try:
        code = marshal.dumps(compile(source, path, "exec", dont_inherit=True, optimize=0), 2)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        out.append(b"")
        continue
    head = importlib.util.MAGIC_NUMBER + bytes([3 if checked else 1, 0, 0, 0]) + importlib.util.source_hash(source)
    out.append(head + code)
marshal.dump(out, sys.stdout.buffer)
"""


def compiler_for(version: str) -> str | None:
    """An interpreter of this version (`3.11`) on this machine."""
    if running_version() == version and sys.implementation.name == "cpython":
        return sys.executable
    return shutil.which(f"python{version}")


def running_version() -> str:
    """The version of the interpreter that runs us, `3.11`."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def pyc_path(path: str, version: str) -> str:
    """`app/web.py` -> `app/__pycache__/web.cpython-311.pyc`."""
    directory, _, name = path.rpartition("/")
    stem = name.removesuffix(".py")
    parent = f"{directory}/" if directory else ""
    return f"{parent}__pycache__/{stem}.cpython-{version.replace('.', '')}.pyc"


async def compile_sources(
    sources: Sequence[tuple[str, bytes]], version: str, *, checked: bool, directory: Path
) -> list[bytes]:
    """The .pyc of each (path in the image, source), b"" where there is none. `checked`: Python compares the source's
    hash at import, for files that someone may edit in a running container. `directory` names whom the worker runs as.
    """
    interpreter = compiler_for(version)
    if interpreter is None:
        return [b""] * len(sources)
    compiled: list[bytes] = []
    batch: list[tuple[str, bytes, bool]] = []
    batched = 0
    for position, (path, source) in enumerate(sources):
        batch.append(("/" + path.lstrip("/"), source, checked))
        batched += len(source)
        if batched >= _BATCH_BYTES or position == len(sources) - 1:
            out = await run(
                [interpreter, "-I", "-S", "-c", _WORKER],
                cwd=Path("/"),
                env={"PYTHONHASHSEED": "0"},
                stdin=marshal.dumps(batch),
                as_owner_of=directory,
            )
            compiled.extend(marshal.loads(out))
            batch, batched = [], 0
    return compiled
