"""A small project of three steps, and runs of it in which what steps leave is said by the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from trimtab.ci.cache.lookups import LocalLookups
from trimtab.ci.definition.evaluate import evaluate, load
from trimtab.ci.definition.graph import Graph
from trimtab.ci.runs.ports import Found, Result

SHIP = """
from trimtab.ci import image, pipeline, secret, src, step

base = image("debian:12").workdir("/w").env(MODE="a")

@step
def deps():
    return base.add(src("deps.txt")).run("make deps").output("/w/deps")

@step
def build():
    return base.add(src("app/**")).add(deps(), to="/w/deps").run("make").output("/w/out")

@step
def unit():
    return base.add(build(), to="/w/out").add(src("tests/**")).run("make test")

@pipeline
def ci():
    return unit()
"""


def write_project(root: Path) -> Path:
    for path in ("deps.txt", "app/models.py", "app/views.py", "tests/test_a.py"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    (root / "ship.py").write_text(SHIP)
    return root


IMAGES = {"debian:12": "sha256:" + "1" * 64}


def graph_of(project: Path) -> Graph:
    definition = load(project / "ship.py")
    return evaluate(definition, definition.pipelines["ci"], {})


def run(
    lookups: LocalLookups, graph: Graph, make: Callable[[str], Mapping[str, bytes]], images: Mapping[str, str] = IMAGES
) -> dict[str, Found]:
    """A run in which a step's outputs are what `make` says; gives what was known of each before it ran."""
    found = lookups.define(graph, images, {})
    results: dict[str, Result] = {}
    for id in graph.order():
        step = graph.steps[id]
        if found[id].result is None and not found[id].content_key:
            found[id] = lookups.by_content(found[id], step, results)
        known = found[id].result
        if known is None:
            outputs = {}
            for name, path in step.container.outputs:
                place = Path(lookups.index.directory) / "upper" / path.strip("/")
                place.mkdir(parents=True, exist_ok=True)
                for file, data in make(id).items():
                    (place / file).write_bytes(data)
                outputs[name], _ = lookups.blobs.capture(str(place))
            known = Result(outputs, seconds=2.0)
            lookups.keep(found[id], step, known)
        results[id] = known
    return found


def missed(found: Mapping[str, Found]) -> dict[str, str]:
    return {id: one.reason for id, one in found.items() if one.result is None}


def same(id: str) -> Mapping[str, bytes]:
    return {"made": id.encode()}
