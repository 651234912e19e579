"""What the commands of `trimtab ci` have in common: which project, which pipeline, its parameters."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from trimtab.ci.runs.prepare import FILE


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with `-C`."""
    found = argparse.ArgumentParser(prog=f"trimtab ci {command}", description=description, allow_abbrev=False)
    found.add_argument(
        "-C", dest="directory", metavar="DIR", help=f"the project; default: the nearest directory upwards with {FILE}"
    )
    return found


def with_pipeline(found: argparse.ArgumentParser) -> None:
    """Adds what chooses a pipeline."""
    found.add_argument("--pipeline", metavar="NAME", help="of several pipelines the one to take; default: ci")
    found.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the pipeline; --NAME=VALUE means the same, and --NAME alone means true",
    )


def project(directory: str | None) -> Path:
    """The directory of `ship.py`."""
    if directory is not None:
        return Path(directory).absolute()
    here = Path.cwd()
    return next((one for one in (here, *here.parents) if os.path.isfile(one / FILE)), here)


def parameters(found: argparse.ArgumentParser, said: list[str], further: list[str]) -> dict[str, str]:
    """By name the texts of the parameters. further: arguments that the parser did not know. Exits for what is none."""
    given = {}
    for one in said:
        name, equals, value = one.partition("=")
        if not equals:
            found.error(f"-p {one}: write NAME=VALUE")
        given[name] = value
    for one in further:
        name, equals, value = one.removeprefix("--").partition("=")
        if not one.startswith("--") or not name.isidentifier():
            found.error(f"unrecognized argument: {one}")
        given[name] = value if equals else "true"
    return given
