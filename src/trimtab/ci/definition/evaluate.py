"""From `ship.py` to a `Graph`: the user's functions run once, purely, in milliseconds; nothing of the work is done.

    load(path) -> the module's pipelines, and its steps
    evaluate(pipeline, values) -> Graph

While they run, whatever reaches out of the definition is refused at the user's own line (`purity`). Both give the same for the
same text: `evaluate(..., twice=True)` compares two evaluations, too.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from trimtab.ci.definition import params
from trimtab.ci.definition.graph import Graph, Labels, Step
from trimtab.ci.definition.purity import of_the_user, pure, watch_again
from trimtab.ci.definition.site import OWN, DefinitionError, Site, caller, complain
from trimtab.ci.definition.values import Call, Container, Output, Secret, Source, duration_s, size_bytes

TIMEOUT_S = 3600.0
"""Of a step that says none: a hung step ends some time."""
SHARDS_MAX = 256
CPUS_MAX = 1024
STEPS_MAX = 10_000


@dataclass(frozen=True)
class Shard:
    """Which part of the tests a sharded step takes: `index` of 1 to `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class StepFunction:
    """A function with `@step`: called while a pipeline is defined it gives a `Call`.

    told: the parameters whose values stand in the ids of its steps; None for all, with their names.
    """

    def __init__(
        self,
        function: Callable[..., Container],
        *,
        shard: int = 1,
        matrix: Mapping[str, list[str]] | None = None,
        timeout: str | float = TIMEOUT_S,
        retry_failed_tests: int = 0,
        burn_in: int = 0,
        cpus: float = 1.0,
        memory: str | int = 0,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.told: tuple[str, ...] | None = None
        code = function.__code__
        self.site = Site(code.co_filename, code.co_firstlineno)
        self.shards = 1
        self.matrix: dict[str, list[str]] = {}
        self.timeout_s = TIMEOUT_S
        self.memory_bytes = 0
        self.retry_failed_tests = retry_failed_tests
        self.burn_in = burn_in
        self.cpus = cpus
        try:
            self.timeout_s = duration_s(timeout, f"the timeout of {function.__name__}()", self.site)
            self.memory_bytes = size_bytes(memory, f"the memory of {function.__name__}()", self.site) if memory else 0
            if isinstance(cpus, bool) or not isinstance(cpus, int | float) or not 0 < cpus <= CPUS_MAX:
                raise DefinitionError(f"@step(cpus={cpus!r}): a number above 0, at most {CPUS_MAX}", self.site)
            self._split(shard, matrix or {})
        except DefinitionError as err:
            complain(err)

    def _split(self, shard: int, matrix: Mapping[str, list[str]]) -> None:
        takes = self.signature.parameters
        if isinstance(shard, bool) or not isinstance(shard, int) or not 1 <= shard <= SHARDS_MAX:
            raise DefinitionError(f"@step(shard={shard!r}): a number from 1 to {SHARDS_MAX}", self.site)
        if shard > 1 and "shard" not in takes:
            raise DefinitionError(f"@step(shard={shard}): {self.name}() has to take shard", self.site)
        for name, entries in matrix.items():
            if name not in takes:
                raise DefinitionError(f"@step(matrix=...): {self.name}() has to take {name}", self.site)
            if not entries:
                raise DefinitionError(f"@step(matrix=...): {name} has no values", self.site)
        self.shards = shard
        self.matrix = {name: list(entries) for name, entries in matrix.items()}

    @property
    def name(self) -> str:
        return self.function.__name__

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @functools.cached_property
    def declared(self) -> dict[str, params.Declared]:
        """Its parameters that have a plain type, by name; what takes a file or a step's output has none."""
        return params.plain(self.function)

    @property
    def is_own(self) -> bool:
        """Whether it is one of ours, like publish(): its line says nothing to anybody, that of the call does."""
        return self.site.file.startswith(OWN)

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        return current().call(self, args, kwargs)


class PipelineFunction:
    """A function with `@pipeline`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        self.function = function
        code: CodeType = function.__code__
        self.site = Site(code.co_filename, code.co_firstlineno)
        self.name = function.__name__


@dataclass
class Evaluation:
    """What has been called so far, of the file in `directory`."""

    directory: Path
    steps: dict[str, Step] = field(default_factory=dict)
    after: dict[str, dict[str, None]] = field(default_factory=dict)
    calls: dict[tuple[Any, ...], Call] = field(default_factory=dict)
    entered: list[StepFunction] = field(default_factory=list)

    def call(self, function: StepFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The steps that a call comes to; the same call again is the same steps."""
        site = caller()
        if len(self.steps) >= STEPS_MAX:
            raise DefinitionError(f"more than {STEPS_MAX} steps; is {function.name}() called in a loop?", site)
        try:
            return self._called(function, args, kwargs, site)
        except DefinitionError as err:
            complain(err)
            watch_again()
            return Call((), (), broken=True, site=site)

    def _called(self, function: StepFunction, args: tuple[Any, ...], kwargs: dict[str, Any], site: Site) -> Call:
        try:
            bound = function.signature.bind_partial(*args, **kwargs)
        except TypeError as err:
            raise DefinitionError(f"{function.name}(): {err}", site) from None
        known = (function.name, _frozen(bound.arguments, function, site))
        if known in self.calls:
            return self.calls[known]
        if function in self.entered:
            circle = [f.name for f in self.entered[self.entered.index(function) :]]
            raise DefinitionError(f"steps need each other: {' -> '.join([*circle, function.name])}", site)
        self._check(function, bound.arguments, site)
        self.entered.append(function)
        try:
            with _at_its_line(self.directory):
                made = [self._one(function, bound.arguments, extra, site) for extra in _variants(function)]
        finally:
            self.entered.pop()
        self.calls[known] = Call(tuple(step.id for step in made), made[0].outputs, site=site)
        return self.calls[known]

    def _check(self, function: StepFunction, given: Mapping[str, Any], site: Site) -> None:
        """Holds what a step is called with to the types and constraints that it declares."""
        for name, value in given.items():
            declared = function.declared.get(name)
            if declared is not None and (said := declared.problem(value)):
                complain(DefinitionError(f"{function.name}(): {said}", site))

    def _one(self, function: StepFunction, given: Mapping[str, Any], extra: dict[str, Any], site: Site) -> Step:
        try:
            container: object = function.function(**{**given, **extra})
        except TypeError as err:
            if err.__traceback__ is not None and err.__traceback__.tb_next is None:
                raise DefinitionError(f"{function.name}(): {err}", site) from None
            raise
        if not isinstance(container, Container):  # the user's function may be without types
            what = "nothing" if container is None else type(container).__name__
            raise DefinitionError(
                f"{function.name}() returned {what}; return image(...) with what is to be run", function.site
            )
        if not container.runs and container.outputs and container.push is None:
            raise DefinitionError(
                f"{function.name}() runs nothing, so it makes an image, which has no output {container.outputs[0][0]!r}",
                function.site,
            )
        labels = Labels(
            site if function.is_own else function.site,
            function.timeout_s,
            function.retry_failed_tests,
            float(function.cpus),
            function.memory_bytes,
            function.burn_in,
        )
        shard = extra.get("shard")
        step = Step(
            self._id(function, given, extra),
            function.name,
            container,
            labels,
            (shard.index, shard.count) if shard else None,
        )
        self.steps[step.id] = step
        return step

    def _id(self, function: StepFunction, given: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
        said = {
            name: value
            for name, value in {**given, **extra}.items()
            if isinstance(value, str | int | float) or value is None
        }
        parts = [f"{name}={value}" for name, value in sorted(said.items())]
        if function.told is not None:
            parts = [str(said[name]) for name in function.told]
        if "shard" in extra:
            parts.insert(0, str(extra["shard"]))
        plain = f"{function.name}[{','.join(parts)}]" if parts else function.name
        numbered = (f"{plain}#{n}" for n in itertools.count(2))
        return next(i for i in itertools.chain((plain,), numbered) if i not in self.steps)

    def order(self, first: Call, later: Call) -> None:
        for step in later.steps:
            self.after.setdefault(step, {}).update(dict.fromkeys(first.steps))


def _variants(function: StepFunction) -> Iterator[dict[str, Any]]:
    shards = [{"shard": Shard(i + 1, function.shards)} for i in range(function.shards)] if function.shards > 1 else [{}]
    for entries in itertools.product(*function.matrix.values()):
        for shard in shards:
            yield {**dict(zip(function.matrix, entries, strict=True)), **shard}


def _frozen(arguments: Mapping[str, Any], function: StepFunction, site: Site) -> tuple[Any, ...]:
    for name, value in arguments.items():
        if not isinstance(value, str | int | float | tuple | Call | Output | Source | Container | Secret | None):
            raise DefinitionError(
                f"{function.name}({name}=...) is a {type(value).__name__}; a step takes texts, numbers, files and what steps gave",
                site,
            )
    return tuple(sorted((name, repr(value)) for name, value in arguments.items()))


_running: list[Evaluation] = []


def current() -> Evaluation:
    """The evaluation in which a step is called."""
    if not _running:
        raise DefinitionError("steps are called in a pipeline: def ci() with @pipeline")
    return _running[-1]


# The user's file


@dataclass(frozen=True)
class Definition:
    """What a file declares, by name."""

    path: Path
    pipelines: Mapping[str, PipelineFunction]
    steps: Mapping[str, StepFunction]

    @property
    def start(self) -> Site:
        """Its first line, for what is said of it as a whole."""
        return Site(str(self.path), 1)


def load(path: Path) -> Definition:
    """Runs the user's file. Raises `DefinitionError` for what does not go on in it, at its line."""
    path = path.absolute()
    try:
        code = compile(path.read_text(), str(path), "exec")
    except OSError as err:
        raise DefinitionError(
            f"{err.strerror}; `trimtab ci run` wants a ship.py in the directory of the project", Site(str(path), 1)
        ) from None
    except SyntaxError as err:
        raise DefinitionError(f"{err.msg}", Site(str(path), err.lineno or 1)) from None
    module = ModuleType("ship")
    module.__file__ = str(path)
    with _importing(path.parent), pure(path.parent), _at_its_line(path.parent):
        exec(code, module.__dict__)
    found = vars(module).values()
    return Definition(
        path,
        {f.name: f for f in found if isinstance(f, PipelineFunction)},
        {f.name: f for f in found if isinstance(f, StepFunction)},
    )


def evaluate(
    definition: Definition, pipeline: PipelineFunction, values: Mapping[str, Any], *, twice: bool = False
) -> Graph:
    """The graph of a pipeline. twice: also looks whether it comes out the same again. Raises `DefinitionError`."""
    graph = _once(definition, pipeline, values)
    graph.order()
    if twice and (other := _once(definition, pipeline, values)).canonical() != graph.canonical():
        raise DefinitionError(
            f"{pipeline.name}() comes out differently each time: {_difference(graph, other)}", pipeline.site
        )
    return graph


def _once(definition: Definition, pipeline: PipelineFunction, values: Mapping[str, Any]) -> Graph:
    evaluation = Evaluation(definition.path.parent)
    _running.append(evaluation)
    try:
        directory = definition.path.parent
        with _importing(directory), pure(directory), _at_its_line(directory):
            result = pipeline.function(**values)
    finally:
        _running.pop()
    wanted = result.steps if isinstance(result, Call) else ()
    if isinstance(result, Call) and result.broken and not evaluation.steps:
        return Graph(pipeline.name, {})  # what is wrong was told
    if result is not None and not isinstance(result, Call):
        raise DefinitionError(
            f"{pipeline.name}() returned {type(result).__name__}; return the calls of steps, joined by &", pipeline.site
        )
    if not evaluation.steps:
        raise DefinitionError(f"{pipeline.name}() calls no step", pipeline.site)
    after = {step: tuple(waits) for step, waits in evaluation.after.items()}
    return Graph(pipeline.name, evaluation.steps, after, wanted or tuple(evaluation.steps))


def _difference(one: Graph, other: Graph) -> str:
    for id in (*one.steps, *other.steps):
        if id not in one.steps or id not in other.steps:
            return f"{id} is only there at times"
        before, after = one.steps[id].action(), other.steps[id].action()
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                return f"{name} of {id}; a clock or a random number may be the reason"
    return "the order of steps"


@contextmanager
def _importing(directory: Path) -> Iterator[None]:
    """Modules beside the user's file can be imported."""
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))


@contextmanager
def _at_its_line(directory: Path) -> Iterator[None]:
    """Makes whatever else goes wrong in the user's code an error at the user's line."""
    try:
        yield
    except DefinitionError:
        raise
    except (Exception, SystemExit) as err:
        raise DefinitionError(f"{type(err).__name__}: {err}", _innermost(err, directory)) from err


def _innermost(err: BaseException, directory: Path) -> Site:
    found = Site(os.path.join(directory, "ship.py"), 1)
    trace = err.__traceback__
    while trace is not None:
        if of_the_user(trace.tb_frame.f_code.co_filename, os.path.join(directory, "")):
            found = Site(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found
