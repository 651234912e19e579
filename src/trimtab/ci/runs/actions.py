"""A run in a workflow of GitHub Actions, and of Forgejo's and Gitea's, which speak as they do: notes at the lines that failed, and a table.

    record -> `::error file=...,line=...::...` in the output      -> at the line, beside the change
           -> Markdown, added to $GITHUB_STEP_SUMMARY             -> on the page of the workflow's run

What steps print cannot give such orders: it stands behind its step's name, never at the beginning of a line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.ci.runs.screen import WORDS, failure_text, seconds_text, shown

JSON = dict[str, Any]

NOTES_MAX = 10
"""So many errors GitHub shows of one command."""
TESTS_MAX = 50
"""Failed tests in the table's list."""


def inside(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this is such a workflow."""
    return env.get("GITHUB_ACTIONS") == "true"


def note(message: str, file: str = "", line: str = "", title: str = "", env: Mapping[str, str] = os.environ) -> str:
    """An error as a workflow's command, in one line."""
    place = {"file": _relative(file, env), "line": line, "title": title}
    said = ",".join(f"{name}={_property(value)}" for name, value in place.items() if value)
    return f"::error{' ' + said if said else ''}::{_data(message)}"


def notes(record: JSON, env: Mapping[str, str] = os.environ) -> list[str]:
    """Each failed step at its line in `ship.py`, each failed test at its file."""
    found: list[str] = []
    for id, step in record["steps"].items():
        if step["state"] not in ("failed", "fault"):
            continue
        how = step.get("said", "")
        if step["state"] == "failed":
            how = failure_text(step.get("ended", ""), step.get("exit"), how, step["seconds"])
        file, _, line = step["site"].rpartition(":")
        tail = [shown(one) for one in step.get("tail", [])]
        found.append(note("\n".join([how, *tail]), file, line, f"{id} failed", env))
        for test in step.get("failedTests", ()):
            at = str(test["test"]).partition("::")[0]
            file = str(Path(record["project"], at)) if at.endswith(".py") else ""
            found.append(note(f"{test['test']}: {test['said']}", file, "", f"{id}: a test failed", env))
    return found[:NOTES_MAX]


def summarise(record: JSON, said: str, env: Mapping[str, str] = os.environ) -> str:
    """Adds the run to the workflow's summary. Returns one line of what went wrong, "" when nothing did."""
    path = env.get("GITHUB_STEP_SUMMARY", "")
    if not path:
        return ""
    try:
        with open(path, "a") as file:
            file.write("\n".join(_markdown(record, said)) + "\n")
    except OSError as err:
        return f"the workflow's summary {path} cannot be written: {err.strerror}"
    return ""


def _markdown(record: JSON, said: str) -> Iterator[str]:
    yield f"### {_cell(record['pipeline'])}: {_cell(said)}"
    yield ""
    yield "| step | | seconds | why |"
    yield "|---|---|---|---|"
    for id, step in record["steps"].items():
        took = seconds_text(step["seconds"]) if step["state"] in ("succeeded", "failed") else ""
        word = WORDS.get(step["state"], step["state"])
        yield f"| {_cell(id)} | {word} | {took} | {_cell(step.get('said') or step.get('reason', ''))} |"
    tests = [one for step in record["steps"].values() for one in step.get("failedTests", ())]
    if tests:
        yield ""
        for one in tests[:TESTS_MAX]:
            yield f"* {_cell(one['test'])}: {_cell(one['said'])}"
    yield ""
    yield f"`trimtab ci log {record['id']}/STEP` prints what a step printed, where its state is kept."
    yield ""


def _cell(text: object) -> str:
    """A text that Markdown and HTML leave as it is."""
    out = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "\\`")
    return " ".join(out.split())


def _relative(file: str, env: Mapping[str, str]) -> str:
    """A path as GitHub knows it: below the checkout."""
    root = env.get("GITHUB_WORKSPACE", "")
    return os.path.relpath(file, root) if file and root and Path(file).is_relative_to(root) else file


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
