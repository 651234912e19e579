"""From the user's file to what a run has to do: all that is known before anything runs.

    ship.py + parameters -> Graph -> + trimtab.lock -> looked up -> Prepared: what is there already, what has to run

This is the whole of a run in which nothing has changed, so it loads nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trimtab.ci.cache.index import pull_request
from trimtab.ci.definition import lock, params
from trimtab.ci.definition.evaluate import Definition, PipelineFunction, evaluate, load
from trimtab.ci.definition.graph import Graph, Step
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.results.tests import Table
from trimtab.ci.runs.ports import EngineFault, Found, Lookups

ASKED = "asked for"
OUTSIDE = "it works on a cluster that is not its own"
COPY = "its cluster is a copy of what one here was when it was frozen"
"""The reasons of a step that runs although its result is known."""
FILE = "ship.py"
MAIN = "ci"
"""The pipeline that is meant when none is named and there are several."""


@dataclass(frozen=True)
class Defined:
    """A pipeline as it is to be run. values: of its parameters."""

    project: Path
    definition: Definition
    pipeline: PipelineFunction
    values: Mapping[str, Any]
    graph: Graph


@dataclass
class Prepared:
    """What was found out. images: by name the digest; secrets: by `file#key` the value.

    run: the steps that have to run, each after what it needs; fresh: they run whatever is known. tables: by step what its test
    runner is told.
    """

    defined: Defined
    images: Mapping[str, str]
    found: dict[str, Found]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    run: list[str] = field(default_factory=list)
    fresh: bool = False
    tables: Mapping[str, Table] = field(default_factory=dict)

    @property
    def hits(self) -> list[str]:
        return [id for id, one in self.found.items() if one.result is not None]


def define(project: Path, pipeline: str | None, given: Mapping[str, str], only: tuple[str, ...] = ()) -> Defined:
    """Evaluates a project's pipeline. given: parameters as texts; only: steps by id or function, instead of all.

    Raises `DefinitionError`.
    """
    definition = load(project / FILE)
    chosen = choose(definition, pipeline)
    try:
        values = params.values(params.declared(chosen.function), given)
    except ValueError as err:
        raise DefinitionError(f"{chosen.name}(): {err}", chosen.site) from None
    graph = evaluate(definition, chosen, values)
    if only:
        graph = Graph(graph.name, graph.steps, graph.after, _chosen_steps(graph, only, chosen))
    return Defined(project, definition, chosen, values, graph)


def choose(definition: Definition, name: str | None) -> PipelineFunction:
    """The pipeline of this name; without one the only one, or `ci`. Raises `DefinitionError`."""
    names = list(definition.pipelines)
    if name is None:
        name = names[0] if len(names) == 1 else MAIN
    if name in definition.pipelines:
        return definition.pipelines[name]
    has = f"it has {', '.join(names)}" if names else "it has none: write @pipeline before def ci():"
    raise DefinitionError(f"there is no pipeline {name}; {has}", definition.start)


def _chosen_steps(graph: Graph, only: tuple[str, ...], pipeline: PipelineFunction) -> tuple[str, ...]:
    chosen: dict[str, None] = {}
    for name in only:
        ids = [id for id, step in graph.steps.items() if name in (id, step.name)]
        if not ids:
            near = ", ".join(dict.fromkeys(step.name for step in graph.steps.values()))
            raise DefinitionError(f"{pipeline.name}() has no step {name}; it has {near}", pipeline.site)
        chosen.update(dict.fromkeys(ids))
    return tuple(chosen)


def look_up(
    defined: Defined,
    images: Mapping[str, str],
    lookups: Lookups,
    *,
    fresh: bool = False,
    tables: Mapping[str, Table] | None = None,
) -> Prepared:
    """Looks up what is there already. fresh: nothing counts as being there. tables: see `Prepared`. Raises `EngineFault`."""
    secrets = secret_values(defined)
    found = lookups.define(defined.graph, images, secrets)
    for id, step in defined.graph.steps.items():
        if reason := always_runs(step):
            found[id] = replace(found[id], result=None, reason=reason)
    if fresh:
        found = {id: replace(one, result=None, reason=ASKED) for id, one in found.items()}
    return Prepared(
        defined, images, found, {**secrets, **logins(defined)}, to_run(defined.graph, found), fresh, tables or {}
    )


def always_runs(step: Step) -> str:
    """Why a step runs whatever is known of it: nothing here knows what its cluster has become; "" for all others."""
    cluster = step.container.cluster
    return "" if cluster is None else OUTSIDE if cluster.context else COPY if cluster.like else ""


def logins(defined: Defined) -> dict[str, str]:
    """By name what proves who one is in the logins of the clusters that steps work on, to be taken out of what is printed. A login
    that cannot be read is told of when its step runs."""
    contexts = {step.container.cluster.context for step in defined.graph.steps.values() if step.container.cluster}
    found: dict[str, str] = {}
    for context in sorted(contexts - {""}):
        from trimtab.ci.sandbox.clusters import login, proofs

        with suppress(EngineFault):
            found |= {f"{context} {name}": value for name, value in proofs(login(context)).items()}
    return found


def secret_values(defined: Defined) -> dict[str, str]:
    """By `file#key` the values of all secrets that steps and services take.

    Raises `DefinitionError` for each that there is not, a line each, and for any in the run of a pull request, logins for clusters included, `EngineFault` for files that cannot be decrypted here.
    """
    wanted = {
        f"{secret.file}#{secret.key}": secret
        for step in defined.graph.steps.values()
        for container in (step.container, *(service.container for _, service in step.container.services))
        for _, secret in container.secrets
    }
    pull = pull_request()
    for step in defined.graph.steps.values() if pull else ():
        cluster = step.container.cluster
        if cluster is not None and (cluster.context or cluster.like):
            what = (
                f"login for the cluster {cluster.context}" if cluster.context else f"copy of the cluster {cluster.like}"
            )
            raise DefinitionError(
                f"pull request {pull} gets no {what}; leave its step out by a parameter of the pipeline", cluster.site
            )
    if not wanted:
        return {}
    if pull:
        name, first = next(iter(wanted.items()))
        raise DefinitionError(
            f"pull request {pull} gets no secrets, and {name} is one; leave its step out by a parameter of the pipeline",
            first.site,
        )
    from trimtab.secrets import sops
    from trimtab.secrets.errors import SopsError

    opened: dict[str, sops.Opened] = {}
    found: dict[str, str] = {}
    problems: list[DefinitionError] = []
    for name, secret in wanted.items():
        path = defined.project / secret.file
        if not path.is_file():
            problems.append(DefinitionError(f"secret file {secret.file}: there is none", secret.site))
            continue
        try:
            if secret.file not in opened:
                opened[secret.file] = sops.load(path)
        except SopsError as err:
            raise EngineFault(str(err)) from None
        try:
            found[name] = opened[secret.file].value(secret.key)
        except SopsError as err:
            problems.append(DefinitionError(f"secret file {secret.file}: {err}", secret.site))
    if problems:
        rest = [str(err) for err in problems[1:]]
        raise DefinitionError("\n".join([problems[0].message, *rest]), problems[0].site)
    return found


def to_run(graph: Graph, found: Mapping[str, Found]) -> list[str]:
    """What has to run for the wanted steps, each after what it needs: nothing behind a hit is looked at."""
    needed: set[str] = set()
    asked = list(graph.wanted)
    while asked:
        step = asked.pop()
        if step not in needed and found[step].result is None:
            needed.add(step)
            asked.extend(graph.needs(step))
    return [step for step in graph.order() if step in needed]


def locked(defined: Defined) -> tuple[dict[str, str], list[str]]:
    """By name the digests of a definition's images, and the names that the lock does not have."""
    wanted = lock.bases(defined.graph)
    known = lock.read(defined.project)
    return lock.digests(wanted, known), lock.missing(wanted, known)
