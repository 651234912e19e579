"""Sessions with kubectl: shell commands and what they print, as in a terminal.

    $ kubectl create configmap c --from-literal=a=1
    configmap/c created

A file of such lines is played in a namespace of its own and must print the same again. The files in
`tests/conformance/sessions` were recorded on the real kube-apiserver (`TRIMTAB_RECORD=1`), so each line of them is its word.
What differs from run to run (ids, versions, times, addresses, the widths of columns) is written as a capital word.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STEP_S = 60.0
PROMPT = "$ "
RECORD = "TRIMTAB_RECORD"

# What differs from run to run, and its name in a session.
_UNSTABLE: tuple[tuple[str, str], ...] = (
    (r"https://127\.0\.0\.1:\d+", "https://SERVER"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
    (r"<(unknown|invalid)>", "AGE"),
    (r"(?<![\w.-])(\d+h)?(\d+m)?\d+s(?![\w.-])( ago)?", "AGE"),
    (r"\b\d+m(?= *$)", "AGE"),
    (r'(resourceVersion"?: *)"?\d+"?', r"\1VERSION"),
    (r"(Resource Version: +)\d+", r"\1VERSION"),
    (r"(?<![\w.])10\.\d+\.\d+\.\d+", "ADDRESS"),
    (r"(nodePort\"?: *|NodePort: +\S+ +)\d{5}", r"\1PORT"),
    (r"(\d+):3\d{4}/", r"\1:PORT/"),
    (r"/tmp/(LIVE|MERGED)-\d+", r"\1"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \+0000", "TIME"),
    (r"(?<=/p-)[a-z0-9]{5}\b", "SUFFIX"),
    (r"\b[0-9a-f]{64}\b", "DIGEST"),
)


@dataclass
class Step:
    """One command, with the lines that follow it as its input, and what it printed."""

    command: str
    printed: str


def read(path: Path) -> list[Step]:
    """The steps of a session."""
    return list(_steps(path.read_text().splitlines()))


def _steps(lines: list[str]) -> Iterator[Step]:
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if not line.startswith(PROMPT):
            assert not line.strip() or line.startswith("#"), f"a session begins with a command, not with: {line}"
            continue
        command = [line.removeprefix(PROMPT)]
        end = re.search(r"<<'?(\w+)'?", line)
        while end and command[-1] != end[1]:
            command.append(lines[position])
            position += 1
        printed = []
        while position < len(lines) and not lines[position].startswith(PROMPT):
            printed.append(lines[position])
            position += 1
        yield Step("\n".join(command), "\n".join(printed).strip("\n"))


def replay(path: Path, environment: Mapping[str, str], folder: Path, names: Mapping[str, str]) -> str | None:
    """Plays a session and returns what it printed otherwise than recorded, as a diff; None when it was recorded anew."""
    played, wrong = [], []
    for step in read(path):
        printed = play(step, environment, folder, names)
        played.append(Step(step.command, printed))
        if printed != step.printed:
            lines = difflib.unified_diff(
                step.printed.splitlines(), printed.splitlines(), "recorded", "printed", n=1, lineterm=""
            )
            wrong.append("\n".join((f"$ {step.command}", *lines)))
    if os.environ.get(RECORD):
        write(path, played)
        return None
    return "\n".join(wrong)


def play(step: Step, environment: Mapping[str, str], folder: Path, names: Mapping[str, str]) -> str:
    """Runs the command in a shell and returns what it prints, errors included, with `names` for what they stand for."""
    done = subprocess.run(
        ["bash", "-c", step.command],
        capture_output=True,
        text=True,
        timeout=STEP_S,
        env=dict(environment),
        cwd=folder,
        check=False,
    )
    printed = stable(done.stdout + done.stderr, names)
    return f"{printed}\n[exit {done.returncode}]".strip("\n") if done.returncode else printed


def stable(printed: str, names: Mapping[str, str]) -> str:
    """The text without what differs from run to run."""
    for value, name in names.items():
        printed = printed.replace(value, name)
    lines = []
    for line in printed.splitlines():
        if line.startswith("WARNING: version difference"):
            continue
        for pattern, name in _UNSTABLE:
            line = re.sub(pattern, name, line)
        indent = len(line) - len(line.lstrip(" "))
        lines.append(line[:indent] + re.sub(r"[ \t]{2,}", "  ", line[indent:]).rstrip())
    return "\n".join(lines).strip("\n")


def write(path: Path, played: list[Step]) -> None:
    """Writes what was printed into the session; its comments stay."""
    comments = [line for line in path.read_text().split("\n\n", 1)[0].splitlines() if line.startswith("#")]
    steps = [f"{PROMPT}{step.command}\n{step.printed}".rstrip("\n") for step in played]
    path.write_text("\n".join(comments) + "\n\n" + "\n".join(steps) + "\n")
