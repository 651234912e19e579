"""Pipelines in plain Python: what a `ship.py` imports.

    from trimtab.ci import image, pipeline, src, step

    py = image("python:3.11-slim").workdir("/w")

    @step(timeout="5m")
    def unit():
        return py.add(src("app/**", "tests/**")).run("pytest -q")

    @pipeline
    def ci():
        return unit()

In reading order: `definition` (the user's file becomes a graph), `cache` (what is known, and what changed), `runs`, `sandbox`, `images`,
`results` (tests). Only the standard library is imported: that nothing has changed should be known before a framework would have
been loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import overload

from trimtab.ci.definition.evaluate import TIMEOUT_S, PipelineFunction, Shard, StepFunction
from trimtab.ci.definition.graph import IMAGE
from trimtab.ci.definition.params import Param
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.definition.values import (
    PLATFORMS,
    Base,
    Call,
    Cluster,
    Container,
    Output,
    Push,
    Secret,
    Service,
    Source,
)
from trimtab.ci.results import tests

__all__ = [
    "Call",
    "Cluster",
    "Container",
    "DefinitionError",
    "Param",
    "Shard",
    "cluster",
    "image",
    "pipeline",
    "publish",
    "secret",
    "service",
    "src",
    "step",
    "tests",
]


def image(
    reference: str | None = None,
    *,
    debian: tuple[str, ...] | list[str] = (),
    python: tuple[str, ...] | list[str] = (),
    platforms: tuple[str, ...] | list[str] = (),
) -> Container:
    """Where a step begins: an image of a registry, or a minimal one of Debian packages and Python requirements.

    References are resolved to a digest once, in `trimtab.lock`. platforms: what an image that a step makes of it is for, such as
    `["linux/amd64", "linux/arm64"]`: it becomes one for each, under one digest. Commands run on this machine's.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise DefinitionError(f"image(platforms=[{platform!r}]): choose of {', '.join(PLATFORMS)}")
    if (reference is None) == (not debian):
        raise DefinitionError("image() takes a reference, or debian=[...] (with python=[...])")
    if reference is not None and python:
        raise DefinitionError(
            "image(): python=[...] goes with debian=[...]; add a step that installs into another image"
        )
    return Container(Base(reference, tuple(debian), tuple(python), tuple(sorted(set(platforms)))))


def src(*patterns: str, exclude: tuple[str, ...] | list[str] = ()) -> Source:
    """Files of the project. Patterns are relative to the directory of `ship.py`; `**` crosses directories."""
    if not patterns:
        raise DefinitionError('src() takes patterns, for example src("app/**", "pyproject.toml")')
    for pattern in (*patterns, *exclude):
        if not isinstance(pattern, str) or not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            raise DefinitionError(
                f"src({pattern!r}): patterns are relative to the directory of ship.py and stay below it"
            )
    return Source(tuple(patterns), tuple(exclude))


def secret(reference: str) -> Secret:
    """A value of a SOPS file: `secret("ci/secrets.enc.yaml#registry.password")`."""
    file, _, key = reference.partition("#")
    if not file or not key:
        raise DefinitionError(f"secret({reference!r}): write FILE#KEY, for example ci/secrets.enc.yaml#token")
    return Secret(file, key)


def service(container: Container | str, *, env: Mapping[str, str] | None = None, ready: str) -> Service:
    """What runs beside a step. ready: `:PORT` that answers, or a command that succeeds, when it can be used."""
    if isinstance(container, str):
        container = image(container)
    if not isinstance(container, Container):
        raise DefinitionError("service() takes an image")
    return Service(container.env(**dict(env or {})), ready)


def cluster(variant: str = "", *, like: str = "", context: str = "") -> Cluster:
    """A Kubernetes cluster for a step: `.with_cluster(cluster())`.

    A throw-away one of this machine, made for each execution of the step and gone with it, however that ends. variant: a file
    of the project that says what is different about it, in a directory of its own with all that it names. like: instead, the
    name of a frozen cluster of this machine, of which it is a copy. context: instead, a cluster that the kubeconfig of whoever
    runs the pipeline knows by this name. What a step with one of the two does is never taken as known.
    """
    if sum(map(bool, (variant, like, context))) > 1:
        raise DefinitionError(
            "cluster() takes one of: a variant of a throw-away cluster, a frozen cluster that it is like, the context of another one"
        )
    if variant and ("/" not in variant.strip("/") or variant.startswith("/") or ".." in variant.split("/")):
        raise DefinitionError(
            f"cluster({variant!r}): write a file in a directory of its own below that of ship.py, like 'ci/deep/variant.yaml'"
        )
    return Cluster(variant, like, context)


def publish(
    image: Call | Output,
    to: str,
    *,
    tags: str = "",
    auth: Secret | None = None,
    sign: Secret | None = None,
    record: str = "",
) -> Call:
    """Sends the image that a step made to a registry; called in a pipeline.

    to: `HOST/NAME`; the image goes there by its digest, and under the `tags` (one or several, with blanks between). auth:
    `user:password`; without it as `docker login` left it. sign: a private key in PEM (`trimtab ci key`); the image is signed by it
    and gets a statement of how it came to be. record: files of the project (one or several, with blanks between) in which every
    reference to `to` gets the digest, by one commit that is pushed once the run is green. Gives a file `reference` with
    `HOST/NAME@sha256:...` in it.
    """
    return _PUBLISH(image, to, tags=tags, auth=auth, sign=sign, record=record)


def _published(
    image: Call | Output,
    to: str,
    tags: str = "",
    auth: Secret | None = None,
    sign: Secret | None = None,
    record: str = "",
) -> Container:
    if not isinstance(to, str) or not to or "@" in to or ":" in to.rpartition("/")[2]:
        raise DefinitionError(f"publish(to={to!r}): write HOST/NAME; tags go into tags=")
    if isinstance(image, Call) and not image.broken and image.outputs != (IMAGE,):
        raise DefinitionError("publish() takes what a step gave that makes an image: one that ends without .run(...)")
    secrets = tuple((name, value) for name, value in (("AUTH", auth), ("SIGN", sign)) if value is not None)
    for file in record.split():
        if file.startswith("/") or ".." in file.split("/"):
            raise DefinitionError(
                f"publish(record={file!r}): paths are relative to the directory of ship.py and stay below it"
            )
    push = Push(to, tuple(tags.split()), sign is not None, tuple(record.split()))
    return Container(Base(), secrets=secrets, push=push, outputs=(("reference", "/reference"),)).add(image, to="/image")


_published.__name__ = "publish"
_PUBLISH = StepFunction(_published)
_PUBLISH.told = ("to",)


@overload
def step(function: Callable[..., Container], /) -> StepFunction: ...
@overload
def step(
    *,
    shard: int = 1,
    matrix: Mapping[str, list[str]] | None = None,
    timeout: str | float = TIMEOUT_S,
    retry_failed_tests: int = 0,
    burn_in: int = 0,
    cpus: float = 1.0,
    memory: str | int = 0,
) -> Callable[[Callable[..., Container]], StepFunction]: ...
def step(
    function: Callable[..., Container] | None = None,
    /,
    *,
    shard: int = 1,
    matrix: Mapping[str, list[str]] | None = None,
    timeout: str | float = TIMEOUT_S,
    retry_failed_tests: int = 0,
    burn_in: int = 0,
    cpus: float = 1.0,
    memory: str | int = 0,
) -> StepFunction | Callable[[Callable[..., Container]], StepFunction]:
    """Makes a step of a function that returns a container.

    shard: how many parts its tests are split into. matrix: by parameter the values that it is run with. timeout: seconds, or
    "5m". retry_failed_tests: how often tests that failed are tried again, alone. burn_in: how often a test that is new,
    or whose function has changed, has to pass besides, so that one that flakes is found before it is anybody's. cpus: how many it keeps busy, for what may run
    beside it. memory: the most that it may use, in bytes or as "2Gi"; 0 for no limit of its own.
    """

    def made(function: Callable[..., Container]) -> StepFunction:
        return StepFunction(
            function,
            shard=shard,
            matrix=matrix,
            timeout=timeout,
            retry_failed_tests=retry_failed_tests,
            burn_in=burn_in,
            cpus=cpus,
            memory=memory,
        )

    return made if function is None else made(function)


def pipeline(function: Callable[..., Call | None]) -> PipelineFunction:
    """Makes a pipeline of a function that calls steps and returns the calls, joined by `&`."""
    return PipelineFunction(function)
