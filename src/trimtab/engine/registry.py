"""Every component of an engine, in the order in which their kinds are installed and their reconcilers start.

An explicit tuple: what is on stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trimtab.components.apps import COMPONENT as APPS
from trimtab.components.backups import COMPONENT as BACKUPS
from trimtab.components.infrastructure import COMPONENT as INFRASTRUCTURE
from trimtab.components.ingress import COMPONENT as INGRESS
from trimtab.components.node import COMPONENT as NODE
from trimtab.components.pipelines import COMPONENT as PIPELINES
from trimtab.components.profiling import COMPONENT as PROFILING
from trimtab.components.volumes import COMPONENT as VOLUMES
from trimtab.components.workloads import COMPONENT as WORKLOADS
from trimtab.runtime.component import Component, Place
from trimtab.runtime.settings import Settings

COMPONENTS: tuple[Component, ...] = (
    WORKLOADS, VOLUMES, NODE, INGRESS, APPS, BACKUPS, PIPELINES, PROFILING, INFRASTRUCTURE,
)  # fmt: skip


def beside_kubernetes(only: Sequence[str] = ()) -> tuple[Component, ...]:
    """The components for a cluster that has controllers, kubelets and storage of its own: those that it lacks. only: `apps`, with the
    ingress that it needs, or `infrastructure`; none: all of them."""
    from trimtab.components.infrastructure import beside_others as infrastructure
    from trimtab.components.ingress import beside_others as ingress

    found: list[Component] = []
    if not only or APPS.name in only:
        # What `apps` keeps besides API objects are built images; those are in the registry that the cluster pulls from.
        found += [ingress(), replace(APPS, services=(), stores=())]
    if not only or INFRASTRUCTURE.name in only:
        found.append(infrastructure())
    return tuple(found)


def adapters(settings: Settings, place: Place) -> dict[type, Any]:
    """What the components' reconcilers and services of a place do to the world outside, for real."""
    if place == "node":
        from trimtab.components.backups import adapters as of_backups
        from trimtab.components.node import adapters as of_node
        from trimtab.components.pipelines import adapters as of_pipelines
        from trimtab.components.profiling import adapters as of_profiling
        from trimtab.components.volumes import Staging
        from trimtab.components.volumes import adapters as of_volumes
        from trimtab.components.workloads import LocalDirectories, Machines, VolumeDirectories
        from trimtab.engine.fencing import NamespaceMachines

        volumes = of_volumes(settings)
        return {
            **volumes,
            Machines: NamespaceMachines(settings),
            **of_node(settings, volumes[Staging]),
            **of_backups(settings),
            **of_pipelines(settings),
            **of_profiling(settings),
            VolumeDirectories: LocalDirectories(settings.data_path("node", "volumes"), settings.node_name),
        }
    from trimtab.components.apps import adapters as of_apps
    from trimtab.components.infrastructure import adapters as of_infrastructure
    from trimtab.components.ingress import adapters as of_ingress
    from trimtab.components.profiling import comparing
    from trimtab.components.workloads import adapters as of_workloads

    return {
        **of_ingress(settings),
        **of_apps(settings),
        **of_workloads(settings),
        **comparing(settings),
        **of_infrastructure(settings),
    }
