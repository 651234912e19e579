"""All that is wrong with a project's pipelines, at once, before anything runs.

    ship.py -> every pipeline evaluated, twice -> files, images, secrets, outputs looked at -> problems, by line

A step that is wrong is told, and the evaluation goes on as if it were right; so one look finds the mistakes of all steps.
A problem ends with exit status 2; a warning says what will be ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.ci.cache.selection import Selection
from trimtab.ci.cache.tree import Scanner, TreeError
from trimtab.ci.definition import lock, params
from trimtab.ci.definition.evaluate import Definition, PipelineFunction, evaluate, load
from trimtab.ci.definition.graph import Graph
from trimtab.ci.definition.site import DefinitionError, Site, collecting
from trimtab.ci.definition.values import Container, Secret, Source
from trimtab.ci.results.suites import has_runner
from trimtab.ci.runs.prepare import FILE


@dataclass(frozen=True)
class Problem:
    """One line of what is wrong. A warning does not keep anything from running."""

    site: Site
    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.site}: {'warning: ' if self.warning else ''}{self.message}"


def check(project: Path, given: Mapping[str, Mapping[str, str]] | None = None) -> list[Problem]:
    """The problems of a project, by file and line. given: by pipeline the texts of its parameters, for those without default."""
    found: list[Problem] = []
    try:
        with collecting() as mistakes:
            definition = load(project / FILE)
    except DefinitionError as err:
        return [Problem(err.site, err.message)]
    found += [Problem(err.site, err.message) for err in mistakes]
    if not definition.pipelines:
        found.append(Problem(definition.start, "there is no pipeline; write @pipeline before def ci():"))
    graphs = []
    for pipeline in definition.pipelines.values():
        graph, mistakes = _evaluated(definition, pipeline, (given or {}).get(pipeline.name, {}))
        found += [Problem(err.site, err.message) for err in mistakes]
        if graph is not None:
            graphs.append(graph)
    look = _Look(project)
    for graph in graphs:
        found += look.graph(graph)
    unique = {(str(one.site), one.message): one for one in found}
    return sorted(unique.values(), key=lambda one: (one.site.file, one.site.line, one.warning, one.message))


def schema(definition: Definition, pipeline: PipelineFunction) -> dict[str, Any]:
    """The parameters of a pipeline as JSON Schema. Raises `DefinitionError`."""
    return params.schema(params.declared(pipeline.function), f"parameters of {pipeline.name} in {definition.path.name}")


def _evaluated(
    definition: Definition, pipeline: PipelineFunction, given: Mapping[str, str]
) -> tuple[Graph | None, list[DefinitionError]]:
    """The graph, as far as it comes, and what is wrong."""
    with collecting() as mistakes:
        try:
            declared = params.declared(pipeline.function)
            try:
                values = params.values(declared, {**params.examples(declared), **given})
            except ValueError as err:
                lines = str(err).splitlines()
                return None, [DefinitionError(f"{pipeline.name}(): {line}", pipeline.site) for line in lines]
            return evaluate(definition, pipeline, values, twice=not mistakes), mistakes
        except DefinitionError as err:
            return None, [*mistakes, err]


class _Look:
    """Looks at what graphs speak of, each thing once."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._scanner = Scanner(str(project))
        self._names: dict[str, set[str] | str] = {}
        self._locked = lock.read(project)

    def graph(self, graph: Graph) -> Iterator[Problem]:
        """What is wrong with the things of one graph."""
        for step in graph.steps.values():
            for name, count in (
                ("retry_failed_tests", step.labels.retry_failed_tests),
                ("burn_in", step.labels.burn_in),
            ):
                if count and not has_runner(step):
                    said = f"{name}: only test runners try again, like .run(tests.pytest())"
                    yield Problem(step.labels.site, said, warning=True)
            for container in (step.container, *(service.container for _, service in step.container.services)):
                yield from self._container(container)
        for name in lock.missing(lock.bases(graph), self._locked):
            site = lock.bases(graph)[name].site
            yield Problem(site, f"image {name} is not pinned in {lock.NAME}; run `trimtab ci lock`")

    def _container(self, container: Container) -> Iterator[Problem]:
        for mount in container.mounts:
            if isinstance(mount.what, Source):
                yield from self._source(mount.what)
        for _, secret in container.secrets:
            yield from self._secret(secret)

    def _source(self, source: Source) -> Iterator[Problem]:
        for pattern in source.patterns:
            try:
                node = self._scanner.trees([Selection((pattern,), source.exclude)])
            except TreeError as err:
                yield Problem(source.site, str(err))
                continue
            if not any(one.entries for one in node.values()):
                yield Problem(source.site, f"src({pattern!r}): there is no such file below {self._project}")

    def _secret(self, secret: Secret) -> Iterator[Problem]:
        if secret.file not in self._names:
            self._names[secret.file] = _names(self._project / secret.file)
        names = self._names[secret.file]
        if isinstance(names, str):
            yield Problem(secret.site, f"secret file {secret.file}: {names}")
        elif secret.key not in names:
            has = f"it has {', '.join(sorted(names))}" if names else "it has none"
            yield Problem(secret.site, f"secret file {secret.file} has no {secret.key!r}; {has}")


def _names(path: Path) -> set[str] | str:
    """The names of the values in a SOPS file, which are not encrypted: `registry.password`; or why there are none."""
    from trimtab.secrets import documents
    from trimtab.secrets.errors import SopsError

    try:
        document = documents.read(path.read_text(), documents.format_of(path))
    except (OSError, UnicodeDecodeError) as err:
        return getattr(err, "strerror", None) or "cannot be read"
    except SopsError as err:
        return str(err)
    if document.metadata is None:
        return "it is not encrypted; `trimtab secret encrypt` does that"
    return {".".join(map(str, leaf.position)) for leaf in document.leaves if leaf.position}
