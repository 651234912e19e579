"""A run as one HTML page that needs nothing else: a timeline with the longest way in it, and all that is known of each step.

    record, logs -> html

No script, no font, no address: it opens from a disk, an artifact store or a mail. What a step printed is text in it, never markup.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from typing import Any

from trimtab.ci.runs.screen import command_text, failure_text, seconds_text, shown

JSON = dict[str, Any]

LOG_LINES_MAX = 200
"""Of a step's log, its last ones; the whole is `trimtab ci log`."""
_STATES = {
    "succeeded": "ran",
    "failed": "failed",
    "fault": "could not be run",
    "hit": "unchanged",
    "skipped": "skipped",
    "cancelled": "ended",
    "unneeded": "not needed",
}
_RUN_STATES = {"succeeded": "green", "failed": "red", "cancelled": "interrupted", "fault": "the engine failed"}
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2128;--dim:#66707b;--line:#d8dee4;--ran:#2f6fde;--failed:#cf222e;
--hit:#9aa4ae;--skipped:#bf8700;--path:#8250df}
@media(prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e2e8ee;--dim:#8d97a3;--line:#2b323a;--ran:#5b93f5;--failed:#f4656d;
--hit:#5c6670;--skipped:#d9a520;--path:#b48cf2}}
body{background:var(--bg);color:var(--fg);font:14px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:2em 0 .5em}.dim{color:var(--dim)}
.state-red,.state-the{color:var(--failed)}.state-green{color:#1a7f37}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1.2em;margin:1em 0}dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.row{display:grid;grid-template-columns:minmax(8em,16em) 1fr 6em;gap:.8em;align-items:center;height:1.7em}
.row>:first-child{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.lane{position:relative;height:1.1em;background:linear-gradient(90deg,var(--line) 1px,transparent 1px) 0 0/10% 100%}
.bar{position:absolute;top:0;height:100%;min-width:3px;border-radius:3px;background:var(--ran)}
.bar.failed,.bar.fault{background:var(--failed)}.bar.cancelled{background:var(--skipped)}.bar.hit{background:var(--hit)}
.on-path .bar{outline:2px solid var(--path);outline-offset:1px}.on-path>:first-child{color:var(--path);font-weight:600}
.num{text-align:right;font-variant-numeric:tabular-nums}
details{border-top:1px solid var(--line);padding:.4em 0}summary{cursor:pointer}
.tag{display:inline-block;min-width:8em}.tag.failed,.tag.fault{color:var(--failed);font-weight:600}.tag.hit,.tag.unneeded{color:var(--dim)}
.tag.skipped,.tag.cancelled{color:var(--skipped)}
pre{background:color-mix(in srgb,var(--line) 35%,transparent);padding:.7em;overflow:auto;max-height:30em;font-size:12.5px}
code{font-size:12.5px}table{border-collapse:collapse;font-size:12.5px}td{padding:.1em 1em .1em 0;vertical-align:top;overflow-wrap:anywhere}
"""


def html(record: JSON, logs: Mapping[str, str]) -> str:
    """The page of a run. logs: by step what it printed."""
    steps = record["steps"]
    word = _RUN_STATES[record["state"]]
    title = f"{record['pipeline']}: {word}"
    failed = [id for id, step in steps.items() if step["state"] in ("failed", "fault")]
    rest = [id for id in steps if id not in failed]
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f'<h1>{escape(record["pipeline"])}: <span class="state-{word.split()[0]}">{escape(word)}</span></h1>',
            _facts(record),
            "<h2>Timeline</h2>",
            _timeline(record),
            "<h2>Steps</h2>",
            *(_step(id, steps[id], logs.get(id, ""), record["project"], opened=True) for id in failed),
            *(_step(id, steps[id], logs.get(id, ""), record["project"], opened=False) for id in rest),
            "</body></html>",
            "",
        )
    )


def _facts(record: JSON) -> str:
    states = [step["state"] for step in record["steps"].values()]
    counted = ", ".join(f"{states.count(state)} {word}" for state, word in _STATES.items() if state in states)
    facts = [
        ("run", record["id"]),
        ("started", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record["started"]))),
        ("took", seconds_text(record["seconds"])),
        ("steps", counted),
        ("saved", seconds_text(record["savedSeconds"]) if record["savedSeconds"] else ""),
        ("longest way", " → ".join(record["criticalPath"])),
        ("that took", seconds_text(record["criticalSeconds"]) if record["criticalPath"] else ""),
        ("parameters", ", ".join(f"{name}={value}" for name, value in record["parameters"].items())),
        ("commit", record["commit"]),
        ("machine", f"{record['host']['name']}, {record['host']['platform']}, {record['host']['cpus']} processors"),
        ("said", record["said"]),
    ]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(str(said))}</dd>" for name, said in facts if said) + "</dl>"


def _timeline(record: JSON) -> str:
    ran = {
        id: step
        for id, step in record["steps"].items()
        if step["state"] in ("succeeded", "failed", "fault", "cancelled")
    }
    ran = {id: step for id, step in ran.items() if step["seconds"] > 0}
    if not ran:
        return '<p class="dim">Nothing had to run.</p>'
    whole = max(max(step["started"] + step["seconds"] for step in ran.values()), 1e-9)
    path = set(record["criticalPath"])
    rows = []
    for id, step in sorted(ran.items(), key=lambda one: (one[1]["started"], one[0])):
        left, width = step["started"] / whole * 100, step["seconds"] / whole * 100
        about = f"{id}: from {seconds_text(step['started'])} for {seconds_text(step['seconds'])}"
        rows.append(
            f'<div class="row{" on-path" if id in path else ""}"><span title="{escape(id)}">{escape(id)}</span>'
            f'<span class="lane"><span class="bar {step["state"]}" style="left:{left:.2f}%;width:{width:.2f}%"'
            f' title="{escape(about)}"></span></span><span class="num">{seconds_text(step["seconds"])}</span></div>'
        )
    legend = '<p class="dim">Outlined: the longest way; only shortening a step on it makes the run shorter.</p>'
    return "".join(rows) + legend


def _step(id: str, step: JSON, log: str, project: str, *, opened: bool) -> str:
    state = step["state"]
    said = seconds_text(step["seconds"]) if state == "succeeded" else ""
    if state == "failed":
        said = failure_text(step.get("ended", ""), step.get("exit"), step.get("said", ""), step["seconds"])
    head = (
        f'<summary><span class="tag {state}">{_STATES[state]}</span> <b>{escape(id)}</b>'
        f' <span class="dim">{escape(said or step.get("said", ""))} {escape(step.get("reason", ""))}</span></summary>'
    )
    job = step.get("job") or {}
    commands = [command_text(run["argv"]) for run in job.get("action", {}).get("runs", [])]
    facts = [
        ("line", step["site"].removeprefix(f"{project}/")),
        ("needs", ", ".join(step.get("needs", ()))),
        ("commands", "; ".join(commands)),
        ("processor", seconds_text(step["cpuSeconds"]) if step.get("cpuSeconds") else ""),
        ("memory", f"{step['rssBytes'] / (1 << 20):.0f} MiB" if step.get("rssBytes") else ""),
        ("saved", seconds_text(step["savedSeconds"]) if step.get("savedSeconds") else ""),
        ("outputs", ", ".join(f"{name} {digest[:19]}" for name, digest in step.get("outputs", {}).items())),
    ]
    body = "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(said)}</dd>" for name, said in facts if said) + "</dl>"
    lines = [shown(line) for line in log.splitlines()]
    if lines:
        left_out = len(lines) - LOG_LINES_MAX
        before = f"... {left_out} lines before\n" if left_out > 0 else ""
        body += f"<pre>{escape(before + chr(10).join(lines[-LOG_LINES_MAX:]))}</pre>"
    parts = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(text)}</code></td></tr>"
        for name, text in step.get("components", {}).items()
    )
    body += f'<details><summary class="dim">what its key is made of</summary><table>{parts}</table></details>'
    return f"<details{' open' if opened else ''}>{head}{body}</details>"
