"""`trimtab ci shell`: into the state in which a step has failed."""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab.ci.cache.index import state_directory
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.runs.screen import went_with_its_pod
from trimtab.ci.sandbox.kept import Kept, choose, failures
from trimtab.cli.ci import GREEN, UsageError
from trimtab.cli.ci.history import recorded
from trimtab.cli.ci.options import parser, project


def shell(arguments: list[str]) -> int:
    """Enters a failed step's state, or runs a command in it; without a name lists what can be entered."""
    options = parser("shell", "Enter the state in which a step failed, its services running again.")
    options.add_argument(
        "what", nargs="?", metavar="RUN/STEP", help="`last/STEP`, or STEP for its newest; without: a list"
    )
    options.add_argument("command", nargs="*", metavar="-- COMMAND", help="what to run there; default: a shell")
    options.add_argument("--user", help="as whom; default: as the step's command")
    said = options.parse_args(arguments)
    state = Path(state_directory())
    if said.what is None:
        _list(failures(state))
        return GREEN
    from trimtab.ci.sandbox.shell import enter

    where = project(said.directory)
    try:
        kept = choose(state, said.what)
    except EngineFault:
        _was_a_pod(where, said.what)
        raise
    secrets = _secrets(kept, where)
    return enter(state, kept, said.command, secrets=secrets, user=said.user, tell=_tell)


def _was_a_pod(project: Path, what: str) -> None:
    """Says so of a step that failed as a pod. Raises `EngineFault`."""
    try:
        record, step = recorded(what, project)
    except UsageError:
        return
    if where := record["steps"][step].get("where"):
        raise EngineFault(f"{step}: {went_with_its_pod(step, where)}")


def _list(kept: list[Kept]) -> None:
    if not kept:
        print("no failed step is kept here")
    for one in kept:
        print(f"{one.run}/{one.step}  {one.ended}  {one.size_bytes >> 20} MiB")


def _secrets(kept: Kept, project: Path) -> dict[str, str]:
    """The values of the step's secrets, which are not kept with it: read anew out of the project's files."""
    wanted = kept.job.action.get("secrets", {})
    if not wanted:
        return {}
    from trimtab.secrets import sops
    from trimtab.secrets.errors import SopsError

    found = {}
    for variable, said in wanted.items():
        file, _, key = said.partition("#")
        try:
            found[variable] = sops.load(project / file).value(key)
        except SopsError as err:
            _tell(f"{variable} is not set: {err}")
    return found


def _tell(line: str) -> None:
    print(f"trimtab: {line}", file=sys.stderr)
