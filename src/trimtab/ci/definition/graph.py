"""What a definition comes to: steps with all that can change their result, and the order between them. Frozen.

A `Step` is one thing to do: commands one after the other in one container (or, without commands, an image to make).
`Step.action` is what its cache keys are made of, `Step.labels` what may change without changing the result: limits, lines,
names. Other steps appear in an action by what they leave behind, never by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import trimtab
from trimtab.ci.definition.site import DefinitionError, Site
from trimtab.ci.definition.values import Cluster, Container, Output, Push, Run, Service, Source

JSON = dict[str, Any]

IMAGE = "image"
"""The output of a step that makes an image: an OCI image layout."""
VERSION = 1
"""Of the form of an action. Another number is another result for every step."""


@dataclass(frozen=True)
class Labels:
    """What does not change the result of a step: `site` (for messages), limits and tries. memory_bytes: 0 for no limit of its own.

    burn_in: how often a test that is new has to pass besides.
    """

    site: Site
    timeout_s: float
    retry_failed_tests: int = 0
    cpus: float = 1.0
    memory_bytes: int = 0
    burn_in: int = 0


@dataclass(frozen=True)
class Step:
    """id: `unit[2/4]`; name: the function's; shard: (which, of how many).

    table: the digest of what its test runner is told (`suites.py`): how the tests are split, and which may fail.
    """

    id: str
    name: str
    container: Container
    labels: Labels
    shard: tuple[int, int] | None = None
    table: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it makes an image: files and a configuration, nothing that runs."""
        return not self.container.runs and self.container.push is None

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it leaves behind, by name."""
        return (IMAGE,) if self.is_image else tuple(name for name, _ in self.container.outputs)

    def inputs(self) -> Iterator[tuple[str, Source | Output]]:
        for mount in self.container.mounts:
            yield mount.to, mount.what

    def needs(self) -> list[str]:
        """The ids of the steps whose outputs it takes, its services' included."""
        containers = [self.container, *(service.container for _, service in self.container.services)]
        found = [m.what.steps for c in containers for m in c.mounts if isinstance(m.what, Output)]
        return list(dict.fromkeys(step for steps in found for step in steps))

    def action(self) -> JSON:
        """All that counts, as plain values. Other steps stand in it as `{"step": id, "output": name}`."""
        out = _container(self.container)
        out["v"] = VERSION
        if self.shard:
            out["shard"] = list(self.shard)
        if self.table:
            out["test table"] = self.table
        if self.is_image and self.container.base.platforms:
            out["platforms"] = list(self.container.base.platforms)
        return out


def _container(container: Container) -> JSON:
    base = container.base
    image: JSON = {"reference": base.reference}
    if not base.reference:
        image = {"debian": list(base.debian), "python": list(base.python)}
        if base.platforms:
            image["platforms"] = list(base.platforms)
    out: JSON = {
        "image": {} if base.is_nothing else image,
        "cwd": container.directory,
        "env": dict(container.environment),
        "user": container.run_as,
        "net": container.net,
        "cluster": _cluster(container.cluster),
        "inputs": [{"to": m.to, "from": refs} for m in container.mounts for refs in _refs(m.what)],
        "runs": [_run(run, container) for run in container.runs],
        "outputs": [{"name": name, "path": path} for name, path in sorted(container.outputs)],
        "caches": [{"path": volume.path, "key": volume.key} for volume in container.caches],
        "secrets": {variable: f"{secret.file}#{secret.key}" for variable, secret in container.secrets},
        "services": {name: _service(service) for name, service in container.services},
        "entrypoint": list(container.entry),
        "cmd": list(container.command),
        "push": _push(container.push),
    }
    return {name: value for name, value in out.items() if value not in ({}, [], "")}


def _run(run: Run, container: Container) -> JSON:
    """A command; where, with what and as whom only where that differs from what the container ends with."""
    out: JSON = {"argv": list(run.argv)}
    if run.directory != container.directory:
        out["cwd"] = run.directory
    if run.environment != container.environment:
        out["env"] = dict(run.environment)
    if run.run_as != container.run_as:
        out["user"] = run.run_as
    if run.junit:
        out["junit"] = run.junit
    if run.tests:
        out["tests"] = run.tests
    if run.split:
        out["split"] = True
    return out


def _push(push: Push | None) -> JSON:
    if push is None:
        return {}
    return {"reference": push.reference, "tags": list(push.tags), "signed": push.signed}


def _cluster(cluster: Cluster | None) -> JSON:
    """A throw-away one is of our own version, whose change counts; what another cluster is, and what was in one when it was
    frozen, nobody knows beforehand."""
    if cluster is None:
        return {}
    if cluster.context:
        return {"context": cluster.context}
    if cluster.like:
        return {"like": cluster.like}
    return {"release": trimtab.__version__, **({"variant": cluster.variant} if cluster.variant else {})}


def _service(service: Service) -> JSON:
    return {**_container(service.container), "ready": service.ready}


def _refs(what: Source | Output) -> Iterator[JSON]:
    if isinstance(what, Source):
        yield {"source": list(what.patterns), **({"exclude": list(what.exclude)} if what.exclude else {})}
        return
    for step in what.steps:
        yield {"step": step, "output": what.name, **({"below": _part(step)} if len(what.steps) > 1 else {})}


def _part(step: str) -> str:
    """Where the output of one of several goes: `unit[2/4]` -> `2`, `e2e[variant=deep]` -> `variant=deep`."""
    inside = step[step.index("[") + 1 : -1] if "[" in step else step
    return inside.split("/")[0]


@dataclass(frozen=True)
class Graph:
    """steps: by id, as they were called; after: what waits for what though it takes nothing of it; wanted: what was asked for."""

    name: str
    steps: Mapping[str, Step]
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()

    def needs(self, step: str) -> list[str]:
        return list(dict.fromkeys((*self.steps[step].needs(), *self.after.get(step, ()))))

    def order(self) -> list[str]:
        """Each step after all that it needs. Raises `DefinitionError` for a circle."""
        try:
            return list(TopologicalSorter({id: self.needs(id) for id in self.steps}).static_order())
        except CycleError as err:
            circle = err.args[1]
            raise DefinitionError(
                f"steps wait for each other: {' -> '.join(circle)}", self.steps[circle[0]].labels.site
            ) from None

    def downstream(self, changed: Iterable[str]) -> set[str]:
        """Those steps and all that need them, directly or not."""
        found = set(changed)
        for step in self.order():
            if found.intersection(self.needs(step)):
                found.add(step)
        return found

    def canonical(self) -> str:
        """The graph as one text; equal graphs have equal texts. Lines, limits and names of files are not in it."""
        doc = {
            "steps": {id: step.action() for id, step in self.steps.items()},
            "after": {id: sorted(waits) for id, waits in self.after.items() if waits},
            "wanted": sorted(self.wanted),
        }
        return json.dumps(doc, sort_keys=True, separators=(",", ":"))
