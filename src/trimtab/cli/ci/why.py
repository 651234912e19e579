"""`trimtab ci why STEP [RUN]`: what made a step run, from what was recorded then; every component and file that had changed."""

from __future__ import annotations

import json
import time
from typing import Any

from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.cache.index import CacheError, Index, state_directory
from trimtab.ci.cache.local import LocalCache
from trimtab.ci.cache.why import VERBS, Change, explain
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.runs.record import JSON, LAST
from trimtab.cli.ci import GREEN
from trimtab.cli.ci.history import recorded
from trimtab.cli.ci.options import parser, project

FILES_MAX = 20
"""Of a change, in the text; all are in the JSON."""
DID = {
    "hit": "did not run",
    "unneeded": "did not run: nothing that ran takes anything of it",
    "skipped": "did not run",
    "cancelled": "was ended",
}


def why(arguments: list[str]) -> int:
    """Says why a step ran."""
    options = parser("why", "Say why a step ran: what had changed since the nearest record of it.")
    options.add_argument("step", metavar="STEP")
    options.add_argument("run", metavar="RUN", nargs="?", default=LAST, help="its id; default: the last")
    options.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="default: text")
    said = options.parse_args(arguments)
    record, id = recorded(f"{said.run}/{said.step}", project(said.directory))
    doc = told(record, id)
    print(json.dumps(doc, indent=2) if said.output == "json" else "\n".join(_lines(doc)))
    return GREEN


def told(record: JSON, id: str) -> dict[str, Any]:
    """The reason as plain values."""
    step = record["steps"][id]
    return {
        "run": record["id"],
        "started": record["started"],
        "step": id,
        "state": step["state"],
        "reason": step.get("reason") or step.get("said", ""),
        "nearest": step.get("nearest", ""),
        "changes": [
            {"component": one.component, "what": one.what, "words": one.words, "before": one.before, "after": one.after}
            | {"files": dict(one.files)}
            for one in _changes(step)
        ],
    }


def _changes(step: JSON) -> tuple[Change, ...]:
    """What differs from the record that was the nearest then, if that is still known."""
    nearest_key = step.get("nearest", "")
    if not nearest_key or nearest_key == step["contentKey"]:
        return ()
    try:
        index = Index(state_directory())
    except CacheError as err:
        raise EngineFault(str(err)) from None
    try:
        blobs = Blobs(index.directory)
        nearest = LocalCache(index, blobs).record(nearest_key)
        if nearest is None:
            return ()
        return explain(step["components"], step["contentKey"], nearest, blobs, time.time()).changes
    finally:
        index.close()


def _lines(doc: dict[str, Any]) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(doc["started"]))
    lines = [f"{doc['step']} {DID.get(doc['state'], 'ran')} in run {doc['run']} of {when}"]
    if not doc["changes"]:
        return [*lines, f"  {doc['reason']}"] if doc["reason"] else lines
    for change in doc["changes"]:
        lines.append(f"  {change['words']}")
        paths = sorted(change["files"])
        if len(paths) > 1:
            lines += [f"    {path} {VERBS[change['files'][path]]}" for path in paths[:FILES_MAX]]
            if len(paths) > FILES_MAX:
                lines.append(f"    and {len(paths) - FILES_MAX} more")
    return lines
