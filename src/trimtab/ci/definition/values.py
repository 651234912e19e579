"""What a definition is made of: values that say what a step needs and does. Frozen; nothing is read or run here.

    image("python:3.11-slim").workdir("/w").add(src("app/**")).run("pytest").output("/w/report.xml")

Each call gives a new `Container`, so that several steps can go on from one. A step returns one: with `run`s it is something
to execute, without it is an image. Values know the line on which they were said (`site`), which never counts as a change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trimtab.ci.definition.site import DefinitionError, Site, caller

REPORT = ".trimtab-report.xml"
"""Where a test runner leaves its report if nothing else is said."""

VARIANT = "/run/trimtab/variant"
"""Where the directory of a cluster's variant lies in a step: so it counts as one of the step's inputs."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti)")
_UNITS_BYTES = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}

Network = Literal["none", "allow"]


def duration_s(value: str | float, what: str, site: Site | None = None) -> float:
    """Seconds of `90`, `"90s"` or `"5m"`. Raises `DefinitionError`."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else value
    if isinstance(seconds, str | bool) or seconds <= 0:
        raise DefinitionError(f'{what} is {value!r}; write a number of seconds, or "90s", "5m", "1h"', site)
    return float(seconds)


def size_bytes(value: str | int, what: str, site: Site | None = None) -> int:
    """Bytes of `1048576` or `"512Mi"`. Raises `DefinitionError`."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    size = int(float(match[1]) * _UNITS_BYTES[match[2]]) if match else value
    if isinstance(size, str | bool) or size <= 0:
        raise DefinitionError(f'{what} is {value!r}; write a number of bytes, or "512Mi", "2Gi"', site)
    return size


@dataclass(frozen=True)
class Source:
    """Files of the project by patterns relative to the directory of `ship.py`; `**` crosses directories."""

    patterns: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    site: Site = field(default_factory=caller, compare=False, repr=False)


@dataclass(frozen=True)
class Secret:
    """A value out of a SOPS file, `path#key`; its content never stands in a definition."""

    file: str
    key: str
    site: Site = field(default_factory=caller, compare=False, repr=False)


@dataclass(frozen=True)
class Service:
    """What runs beside a step, reached by its name: a container of its own for each step and shard."""

    container: Container
    ready: str
    site: Site = field(default_factory=caller, compare=False, repr=False)


@dataclass(frozen=True)
class Cluster:
    """A Kubernetes cluster for a step: a throw-away one of its own, which may be a copy of a frozen one (`like`), or one that a
    kubeconfig names by a context."""

    variant: str = ""
    like: str = ""
    context: str = ""
    site: Site = field(default_factory=caller, compare=False, repr=False)


@dataclass(frozen=True)
class Output:
    """What a step leaves behind. steps: the ids it may come from, one for each shard; name: which output."""

    steps: tuple[str, ...]
    name: str
    site: Site = field(default_factory=caller, compare=False, repr=False)


Input = Source | Output


@dataclass(frozen=True)
class Mount:
    """What is put where; a file of the value lands below `to` with its own path."""

    what: Input
    to: str
    site: Site = field(default_factory=caller, compare=False, repr=False)


@dataclass(frozen=True)
class CacheVolume:
    """A directory that lives on from run to run. It speeds a step up and never changes what comes out of it."""

    path: str
    key: str


@dataclass(frozen=True)
class TestCommand:
    """A test runner's command (`trimtab.ci.results.tests`). split: whether it takes only the tests of the step's shard."""

    __test__ = False

    runner: str
    argv: tuple[str, ...]
    split: bool


@dataclass(frozen=True)
class Run:
    """A command, with where, in what environment and as whom it runs.

    junit: the report that it leaves, for results by test. tests: the runner, if it is one that takes our plugin; split: whether
    it runs the shard's tests only.
    """

    argv: tuple[str, ...]
    directory: str
    environment: tuple[tuple[str, str], ...]
    run_as: str
    junit: str | None = None
    tests: str = ""
    split: bool = False
    site: Site = field(default_factory=caller, compare=False, repr=False)


PLATFORMS = ("linux/amd64", "linux/arm64")
"""What images are made for, as `trimtab.content` makes them."""


@dataclass(frozen=True)
class Base:
    """Where a container's files come from: an image's reference, or what to build it from.

    platforms: what an image that is made of it is for, `linux/arm64`; none: this machine's.
    """

    reference: str | None = None
    debian: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    site: Site = field(default_factory=caller, compare=False, repr=False)

    def __str__(self) -> str:
        parts = [f"debian:{','.join(self.debian)}", *self.python, *(f"for {one}" for one in self.platforms)]
        return self.reference or " ".join(parts)

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is started from: what is not run in a container."""
        return not self.reference and not self.debian


@dataclass(frozen=True)
class Push:
    """Where an image goes. reference: `HOST/NAME`; tags: besides its digest; signed: by the secret in the variable SIGN.

    record: files of the project into which the digest is written once the run is green.
    """

    reference: str
    tags: tuple[str, ...] = ()
    signed: bool = False
    record: tuple[str, ...] = ()


@dataclass(frozen=True)
class Container:
    """An image with what is added to it and done in it. Every method gives a new one."""

    base: Base
    directory: str = "/"
    environment: tuple[tuple[str, str], ...] = ()
    run_as: str = ""
    mounts: tuple[Mount, ...] = ()
    caches: tuple[CacheVolume, ...] = ()
    services: tuple[tuple[str, Service], ...] = ()
    secrets: tuple[tuple[str, Secret], ...] = ()
    net: Network = "none"
    cluster: Cluster | None = None
    runs: tuple[Run, ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    entry: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    push: Push | None = None
    site: Site = field(default_factory=caller, compare=False, repr=False)

    def _with(self, **changes: Any) -> Container:
        return replace(self, site=caller(), **changes)

    def _path(self, path: str) -> str:
        """`path` as an absolute one; relative to the working directory."""
        if not isinstance(path, str) or not path or "\0" in path or ".." in path.split("/"):
            raise DefinitionError(f"{path!r} is no path in a container; write an absolute one without '..'")
        joined = path if path.startswith("/") else f"{self.directory.rstrip('/')}/{path}"
        return "/" + "/".join(part for part in joined.split("/") if part not in ("", "."))

    def workdir(self, path: str) -> Container:
        """Where commands run, and what relative paths start from."""
        return self._with(directory=self._path(path))

    def env(self, **variables: str | int) -> Container:
        """Sets environment variables; only these and the image's own are seen."""
        return self._with(environment=tuple(sorted({**dict(self.environment), **_strings(variables)}.items())))

    def user(self, name: str) -> Container:
        """As whom commands run."""
        return self._with(run_as=str(name))

    def add(self, what: Input | Call, to: str = ".") -> Container:
        """Puts files of the project or another step's output there."""
        if isinstance(what, Call):
            what = what.only_output()
        if not isinstance(what, Source | Output):
            raise DefinitionError(f"add() takes src(...) or what a step gave, not {_kind(what)}")
        return self._with(mounts=(*self.mounts, Mount(what, self._path(to))))

    def cache(self, path: str, *, key: str) -> Container:
        """A directory that lives on from run to run under `key`; nothing may depend on what is in it."""
        if not _NAME.fullmatch(key):
            raise DefinitionError(f"cache key {key!r}: letters, digits, '.', '_' and '-' only, at most 63")
        return self._with(caches=(*self.caches, CacheVolume(self._path(path), key)))

    def with_service(self, name: str, service: Service) -> Container:
        """Runs `service` beside the commands; they reach it under `name`."""
        if not isinstance(service, Service):
            raise DefinitionError(f"with_service() takes a service(...), not {_kind(service)}")
        if not _HOST.fullmatch(name):
            raise DefinitionError(f"service name {name!r}: lower-case letters, digits and '-' only, it is a host name")
        if name in dict(self.services):
            raise DefinitionError(f"there are two services of the name {name!r}; name one otherwise")
        return self._with(services=(*self.services, (name, service)))

    def with_cluster(self, cluster: Cluster) -> Container:
        """Gives the commands a cluster, by `KUBECONFIG`, and the network of the machine, on which its API is."""
        if not isinstance(cluster, Cluster):
            raise DefinitionError(f"with_cluster() takes a cluster(...), not {_kind(cluster)}")
        if self.cluster is not None:
            raise DefinitionError("a step has one cluster; make a second step, or `trimtab cluster create` in it")
        mounts = self.mounts
        if cluster.variant:
            files = Source((f"{cluster.variant.rpartition('/')[0]}/**",), site=cluster.site)
            mounts = (*mounts, Mount(files, VARIANT))
        return self._with(cluster=cluster, net="allow", mounts=mounts)

    def secret_env(self, variable: str, value: Secret) -> Container:
        """Gives the commands a secret in an environment variable."""
        if not isinstance(value, Secret):
            raise DefinitionError(f"secret_env() takes a secret(...), not {_kind(value)}")
        _strings({variable: ""})
        return self._with(secrets=(*((n, s) for n, s in self.secrets if n != variable), (variable, value)))

    def network(self, mode: Network = "allow") -> Container:
        """Lets the commands reach the network; without it they reach their services alone."""
        if mode not in ("none", "allow"):
            raise DefinitionError(f"network({mode!r}): write 'allow' or 'none'")
        if mode == "none" and self.cluster is not None:
            raise DefinitionError("network('none'): a step reaches its cluster by the network of the machine")
        return self._with(net=mode)

    def run(self, *argv: str | TestCommand, junit: str | None = None) -> Container:
        """Adds a command: one string for the shell, or several that are its arguments as they are, or a test runner.

        junit: where it leaves a JUnit report; `tests.pytest(...)` leaves one anyway.
        """
        if len(argv) == 1 and isinstance(argv[0], TestCommand):
            return self._run_tests(argv[0], self._path(junit or REPORT))
        texts = tuple(part for part in argv if isinstance(part, str) and part)
        if not argv or len(texts) < len(argv):
            raise DefinitionError("run() takes a command: one string for the shell, or its arguments one by one")
        command = ("/bin/sh", "-ec", texts[0]) if len(texts) == 1 else texts
        report = self._path(junit) if junit else None
        run = Run(command, self.directory, self.environment, self.run_as, report)
        return self._with(runs=(*self.runs, run))

    def _run_tests(self, tests: TestCommand, report: str) -> Container:
        argv = (*tests.argv, f"--junitxml={report}")
        run = Run(argv, self.directory, self.environment, self.run_as, report, tests.runner, tests.split)
        return self._with(runs=(*self.runs, run))

    def output(self, path: str, name: str = "") -> Container:
        """Keeps what is at `path` when all commands are done: other steps can add it."""
        path = self._path(path)
        name = name or path.rsplit("/", 1)[-1].lstrip(".")
        if not _NAME.fullmatch(name):
            raise DefinitionError(f"output name {name!r}: letters, digits, '.', '_' and '-' only; say name=...")
        if name in dict(self.outputs):
            raise DefinitionError(f"there are two outputs of the name {name!r}; say name=... for one of them")
        return self._with(outputs=(*self.outputs, (name, path)))

    def entrypoint(self, *argv: str) -> Container:
        """What an image starts."""
        return self._with(entry=tuple(argv))

    def cmd(self, *argv: str) -> Container:
        """The arguments that an image starts with."""
        return self._with(command=tuple(argv))


@dataclass(frozen=True)
class Call:
    """That a step is called: what pipelines are made of. steps: the ids, one for each shard and matrix entry.

    broken: its step is wrong, which was told; whatever is asked of it is taken to be there.
    """

    steps: tuple[str, ...]
    outputs: tuple[str, ...]
    broken: bool = False
    site: Site = field(default_factory=caller, compare=False, repr=False)

    def __and__(self, other: Call) -> Call:
        """Both; `ok = unit() & lint()`."""
        if not isinstance(other, Call):
            raise DefinitionError(f"& joins calls of steps, not {_kind(other)}")
        return Call(tuple(dict.fromkeys((*self.steps, *other.steps))), (), self.broken or other.broken)

    def __getitem__(self, name: str) -> Output:
        """One of several outputs by its name."""
        if name not in self.outputs and not self.broken:
            has = f"it has {', '.join(self.outputs)}" if self.outputs else "it has none: say .output(PATH) in the step"
            raise DefinitionError(f"{self.steps[0]} has no output {name!r}; {has}")
        return Output(self.steps, name)

    def only_output(self) -> Output:
        """The output of a step that has one. Raises `DefinitionError`."""
        if self.broken:
            return Output((), "")
        if len(self.outputs) != 1:
            step = self.steps[0] if self.steps else "this"
            fix = (
                f"choose one: [{', '.join(map(repr, self.outputs))}]"
                if self.outputs
                else "say .output(PATH) in the step"
            )
            raise DefinitionError(
                f"{step} has {len(self.outputs) or 'no'} output{'s' * (len(self.outputs) != 1)}; {fix}"
            )
        return Output(self.steps, self.outputs[0])

    def __bool__(self) -> bool:
        raise DefinitionError("whether a step succeeds is not known while the pipeline is defined; say a.then(b)")

    def then(self, other: Call | Callable[[], Call]) -> Call:
        """What runs only when this has succeeded, though it takes nothing of it."""
        from trimtab.ci.definition.evaluate import current

        later = other if isinstance(other, Call) else other()
        if not isinstance(later, Call):
            raise DefinitionError(f"then() takes a call of a step, not {_kind(later)}")
        current().order(self, later)
        return self & later


def _strings(variables: dict[str, str | int]) -> dict[str, str]:
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name):
            raise DefinitionError(f"{name!r} is no name of an environment variable")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise DefinitionError(f"the value of {name} is {_kind(value)}; write a string")
    return {name: str(value) for name, value in variables.items()}


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if callable(value) and not isinstance(value, type):
        return f"the function {getattr(value, '__name__', value)!s} (call it)"
    return type(value).__name__
