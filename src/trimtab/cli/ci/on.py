"""`trimtab ci run --on`: elsewhere than here. `ssh://HOST`: the same engine there, of which `trimtab ci receive` is the far end. Anything
else names a cluster, of which the steps become pods: a context of the kubeconfig, or the data directory of an engine here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.ci.definition.graph import Graph
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.runs import far
from trimtab.ci.runs.ports import EngineFault

if TYPE_CHECKING:
    from trimtab.components.pipelines.pods.place import Place

SSH = "ssh://"
REGISTRY = "TRIMTAB_CI_REGISTRY"


def receive(arguments: list[str]) -> int:
    """Takes a project from standard input and runs it. For `--on`, not for people."""
    return far.receive(arguments, sys.stdin.buffer, sys.stdout.buffer)


def forwarded(arguments: list[str]) -> list[str]:
    """What is said of a run, without where it is said to be: `--on` and `-C` are for this end."""
    found: list[str] = []
    rest = iter(arguments)
    for one in rest:
        if one in ("--on", "-C"):
            next(rest, None)
        elif not one.startswith(("--on=", "-C")):
            found.append(one)
    return found


def place(said: str, graph: Graph, environ: Mapping[str, str] = os.environ) -> Place:
    """Where the steps of a graph become pods.

    Raises:
        DefinitionError: a step cannot. EngineFault: there is no such cluster, or no way for images to get there.
    """
    for step in graph.steps.values():
        if step.container.cluster is not None:
            raise DefinitionError(
                f"{step.id} has a cluster, which a pod cannot be given: run it without --on {said}", step.labels.site
            )
    if os.sep in said and (Path(said) / "engine.json").is_file():
        return _engine(Path(said).absolute())
    return _cluster(said, environ)


def _engine(data: Path) -> Place:
    from trimtab.components.pipelines.pods.place import Place, to_engine
    from trimtab.engine import datadir
    from trimtab.engine.errors import EngineError

    try:
        settings = datadir.load(data)
    except EngineError as err:
        raise EngineFault(str(err)) from None
    if os.geteuid() != 0:
        raise EngineFault(f"--on {data}: images go into the engine's content store; run it with sudo")
    if not settings.api_socket.exists():
        raise EngineFault(f"the engine at {data} does not run: start it with `trimtab --data {data} start`")
    return Place(str(data), "default", settings.api_socket, to_engine(data))


def _cluster(context: str, environ: Mapping[str, str]) -> Place:
    from trimtab.client.kubeconfig import KubeconfigError, default_kubeconfig, read_kubeconfig
    from trimtab.components.pipelines.pods.place import Place, to_registry

    try:
        access = read_kubeconfig(default_kubeconfig(), context)
    except KubeconfigError as err:
        raise EngineFault(f"--on {context}: {err}") from None
    if not (registry := environ.get(REGISTRY, "")):
        raise EngineFault(
            f"--on {context}: set {REGISTRY} to where the cluster may pull images from, and you may push them: registry.example/team"
        )
    return Place(context, access.namespace, access, to_registry(registry))
