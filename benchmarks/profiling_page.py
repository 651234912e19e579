"""How smoothly the page of profiles moves in Chromium: the time between two frames while the mouse wanders over a tree of 20,000 nodes, zooms
into it and back, scrolls and searches; and how long one drawing takes. 16.7 ms is a screen's own 60 frames a second.

    npm install --prefix DIR playwright-core && python benchmarks/profiling_page.py DIR [--chromium /usr/bin/chromium]

Pictures of what was seen are left in DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

from profiling_tree import synthetic
from trimtab.components.profiling.queries.diff import diff
from trimtab.components.profiling.queries.page import html
from trimtab.components.profiling.queries.shapes import Side
from trimtab.components.profiling.queries.tree import merge

STACKS = 1_300
SCRIPT = r"""
import { chromium } from "playwright-core";
const [executablePath, ...files] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const said = {};
for (const file of files) {
  for (const colorScheme of ["light", "dark"]) {
    const page = await browser.newPage({ viewport: { width: 1400, height: 860 }, colorScheme });
    const problems = [];
    page.on("pageerror", (error) => problems.push(error.message));
    await page.goto(`file://${file}`);
    await page.waitForFunction(() => document.querySelector("#crumbs button") && document.querySelector("tbody tr"));
    const box = await page.locator("#tree").boundingBox();
    const at = (x, row) => [box.x + x, box.y + 19 * row + 9];
    await page.evaluate(() => {
      let last = 0;
      window.gaps = [];
      const frame = (now) => {
        if (last) window.gaps.push(now - last);
        last = now;
        if (!window.done) requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 20; i++) await page.mouse.move(...at(20 + i * 30, 3 + ((i * 7) % 20)));
      await page.mouse.click(...at(60 + round * 60, 3 + round));
      await page.waitForTimeout(250);
      await page.mouse.wheel(0, 300);
      await page.keyboard.press("Backspace");
      await page.waitForTimeout(250);
      await page.fill("#search", `function_${round}`);
      await page.fill("#search", "");
    }
    const gaps = await page.evaluate(() => ((window.done = true), window.gaps.sort((a, b) => a - b)));
    const of = (part) => gaps[Math.min(Math.floor(gaps.length * part), gaps.length - 1)];
    const nodes = await page.evaluate(() => JSON.parse(document.getElementById("data").textContent).parent.length);
    await page.screenshot({ path: file.replace(".html", `-${colorScheme}.png`) });
    said[`${file.split("/").pop()} ${colorScheme}`] = { nodes, frames: gaps.length, median: of(0.5), p95: of(0.95), max: of(1), problems };
    await page.close();
  }
}
console.log(JSON.stringify(said));
await browser.close();
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    (before, names), (after, _) = synthetic(STACKS, 1), synthetic(STACKS, 1)
    after.values[::3] *= 3
    old, new = merge(before, names), merge(after, names)
    pages = {
        "merge.html": html(old.answer("cpu", "nanoseconds")),
        "diff.html": html(diff(old, new).answer("cpu", "nanoseconds", Side(total=0), Side(total=0))),
    }
    for name, page in pages.items():
        (directory / name).write_bytes(page)
    script = directory / "profiling_page.mjs"
    script.write_text(SCRIPT)
    files = [str(directory / name) for name in pages]
    done = subprocess.run(
        ["node", str(script), arguments.chromium, *files], check=True, stdout=subprocess.PIPE, timeout=300
    )
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; no graphics card")
    for name, told in json.loads(done.stdout).items():
        times = f"median {told['median']:.1f}, p95 {told['p95']:.1f}, max {told['max']:.1f} ms"
        print(
            f"{name:<18} {told['nodes']:,} nodes, {told['frames']} frames: {times}; errors: {told['problems'] or 'none'}"
        )


if __name__ == "__main__":
    main()
