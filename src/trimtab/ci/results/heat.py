"""The heat map of tests by runs as one HTML page that needs nothing else: 500 tests by 200 runs are drawn on a canvas at once.

    Ledger.heat -> html

Names and messages are data in the page, and become text in it, never markup.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from trimtab.ci.results.ledger import Heat

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2128;--dim:#66707b;--p:#c7e5cf;--f:#cf222e;--k:#8250df;--s:#d8dee4}
@media(prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e2e8ee;--dim:#8d97a3;--p:#1f4a2c;--f:#f4656d;--k:#b48cf2;--s:#39414b}}
body{background:var(--bg);color:var(--fg);font:14px/1.5 system-ui,sans-serif;margin:1.5em}
h1{font-size:1.4em;margin:0 0 .5em}.dim{color:var(--dim)}label{margin-right:1.5em}
input[type=search]{font:inherit;width:22em;padding:.2em .5em;background:var(--bg);color:var(--fg);border:1px solid var(--dim);border-radius:4px}
#said{min-height:3em;white-space:pre-wrap;overflow-wrap:anywhere}canvas{display:block;cursor:crosshair}
.key{display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 1em;vertical-align:-.1em}
#place{overflow:auto;max-height:80vh}
"""
_SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent);
const canvas = document.getElementById('map'), said = document.getElementById('said'), search = document.getElementById('search');
const trouble = document.getElementById('trouble'), W = Math.max(4, Math.min(14, Math.floor(900 / data.runs.length))), H = 14, LEFT = 360;
const words = {p: 'passed', f: 'failed', s: 'skipped', k: 'flaked: failed, then passed on the same content', ' ': 'did not run'};
let shown = [];
function draw() {
  const wanted = search.value.toLowerCase(), css = getComputedStyle(document.documentElement);
  shown = data.rows.map((row, i) => i).filter(i => (!wanted || data.rows[i].toLowerCase().includes(wanted))
    && (!trouble.checked || /[fk]/.test(data.cells[i])));
  const ratio = devicePixelRatio || 1, width = LEFT + data.runs.length * W, height = Math.max(H, shown.length * H);
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = width + 'px'; canvas.style.height = height + 'px';
  const c = canvas.getContext('2d'); c.scale(ratio, ratio); c.font = '11px system-ui,sans-serif'; c.textBaseline = 'middle';
  const colours = {}; for (const key of 'pfks') colours[key] = css.getPropertyValue('--' + key);
  const ink = css.getPropertyValue('--fg');
  shown.forEach((row, at) => {
    c.fillStyle = ink;
    let name = data.rows[row]; while (name.length > 4 && c.measureText(name).width > LEFT - 12) name = '\\u2026' + name.slice(4);
    c.fillText(name, 0, at * H + H / 2);
    for (let run = 0; run < data.runs.length; run++) {
      const cell = data.cells[row][run];
      if (cell === ' ') continue;
      c.fillStyle = colours[cell]; c.fillRect(LEFT + run * W, at * H + 1, W - 1, H - 2);
    }
  });
  document.getElementById('count').textContent = shown.length + ' of ' + data.rows.length + ' tests, ' + data.runs.length + ' runs, the newest on the right';
}
canvas.addEventListener('mousemove', event => {
  const run = Math.floor((event.offsetX - LEFT) / W), row = shown[Math.floor(event.offsetY / H)];
  if (row === undefined) return;
  const about = data.rows[row];
  if (run < 0 || run >= data.runs.length) { said.textContent = about; return; }
  const when = new Date(data.at[run] * 1000).toISOString().slice(0, 16).replace('T', ' ');
  said.textContent = about + '\\n' + data.runs[run] + ' (' + when + '): ' + words[data.cells[row][run]]
    + (data.said[row + ',' + run] ? '\\n' + data.said[row + ',' + run] : '');
});
search.addEventListener('input', draw); trouble.addEventListener('change', draw);
matchMedia('(prefers-color-scheme:dark)').addEventListener('change', draw);
draw();
"""


def html(heat: Heat, project: str) -> str:
    """The page. project: what it is called."""
    data: dict[str, Any] = {
        "runs": list(heat.runs),
        "at": list(heat.at),
        "rows": [f"{step}  {test}" for step, test in heat.rows],
        "cells": ["".join(cell or " " for cell in cells) for cells in heat.cells],
        "said": {f"{row},{column}": text for (row, column), text in heat.said.items()},
    }
    # In a script element only `</script` and `<!--` could end it.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    keys = "".join(
        f'<span class="key" style="background:var(--{key})"></span>{word}'
        for key, word in (("p", "passed"), ("f", "failed"), ("k", "flaked"), ("s", "skipped"))
    )
    title = escape(f"Tests of {project}")
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body>",
            f'<h1>{title}</h1><p><input type="search" id="search" placeholder="find a test" aria-label="find a test">',
            '<label><input type="checkbox" id="trouble"> only what failed or flaked</label>',
            f'<span class="dim" id="count"></span>{keys}</p>',
            '<div id="said" class="dim" role="status"></div><div id="place"><canvas id="map" role="img" aria-label="tests by runs"></canvas></div>',
            f'<script type="application/json" id="data">{text}</script><script>{_SCRIPT}</script></body></html>',
            "",
        )
    )
