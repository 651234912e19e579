"""Which installation of the program an engine runs with: the one that the user installed, or one that `upgrade` put beside it.

    DATA/programs/VERSION-HASH/   a Python environment of its own
    DATA/programs/current.json    {"prefix", "version"} of the one that runs this engine
    DATA/programs/former.json     the one before

The `trimtab` command that a person types may be older than the engine that it means: it then becomes that engine's own (`delegate`).
One that is newer stays itself, so that a program that was upgraded by other means takes the engine over.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trimtab.engine.plan import read_json, write_json

PROGRAMS = "programs"
CURRENT, FORMER = "current.json", "former.json"
DEFAULT_DATA = "/var/lib/trimtab"
ITSELF = "TRIMTAB_ITSELF"
"""Set in the environment, the command that is called is the one that runs."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def version_key(version: str) -> tuple[int, ...]:
    """`0.10.1` as numbers, for comparing; what is no number (`rc1`) ends it."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


class Program:
    """One installation."""

    __slots__ = ("prefix", "version")

    def __init__(self, prefix: str, version: str) -> None:
        self.prefix = prefix
        self.version = version

    @property
    def python(self) -> str:
        return os.path.join(self.prefix, "bin", "python")

    def command(self, data: Path, *arguments: str) -> list[str]:
        """The command line of this program's `trimtab` for an engine."""
        return [self.python, "-I", "-m", "trimtab.cli", "--data", str(data), *arguments]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and (self.prefix, self.version) == (other.prefix, other.version)

    def __hash__(self) -> int:
        return hash((self.prefix, self.version))


def itself() -> Program:
    """The program that runs this process."""
    from trimtab import __version__

    return Program(sys.prefix, __version__)


def recorded(data: Path, name: str = CURRENT) -> Program | None:
    """The program that is noted as an engine's; None where none is, or where it is gone."""
    raw = read_json(str(data / PROGRAMS / name))
    if not isinstance(raw, dict) or not isinstance(raw.get("prefix"), str) or not isinstance(raw.get("version"), str):
        return None
    program = Program(raw["prefix"], raw["version"])
    return program if os.access(program.python, os.X_OK) else None


def record(data: Path, program: Program, name: str = CURRENT) -> None:
    """Notes a program as the engine's. Atomic."""
    (data / PROGRAMS).mkdir(mode=0o755, exist_ok=True)
    write_json(str(data / PROGRAMS / name), {"prefix": program.prefix, "version": program.version}, 0o644)


def delegate(arguments: Sequence[str]) -> None:
    """Becomes the program of the engine that the command line means, when that is another one and not older. Otherwise
    returns."""
    if os.environ.get(ITSELF) or "--back" in arguments:
        return
    data = Path(_data_of(arguments)).absolute()
    program = recorded(data)
    if program is None or os.path.samefile(program.prefix, sys.prefix):
        return
    me = itself()
    if version_key(me.version) > version_key(program.version):
        return
    argv = [program.python, os.path.join(program.prefix, "bin", "trimtab"), *arguments]
    os.execve(argv[0], argv, {**os.environ, ITSELF: "1"})


def _data_of(arguments: Sequence[str]) -> str:
    """What the global option --data says, read without the command line's parser: every command pays for this."""
    for number, argument in enumerate(arguments):
        if argument == "--data" and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith("--data="):
            return argument.partition("=")[2]
        if not argument.startswith("-") and (number == 0 or not arguments[number - 1].startswith("--")):
            break
    return os.environ.get("TRIMTAB_DATA", DEFAULT_DATA)
