"""The component, declared; `trimtab.components.profiling.COMPONENT`."""

from __future__ import annotations

from typing import Any

from trimtab.api.core import Pod
from trimtab.components.profiling.admission import check_profiler
from trimtab.components.profiling.compare import compare
from trimtab.components.profiling.comparer import Comparer
from trimtab.components.profiling.kinds import Profiler
from trimtab.components.profiling.measurer import Measurer
from trimtab.components.profiling.needs import NEEDS
from trimtab.components.profiling.reasons import REASONS
from trimtab.components.profiling.reconcile import profiler
from trimtab.runtime import Admission, Command, Component, Endpoint, Service, Store, View
from trimtab.runtime.settings import Settings

SOCKET = "profiling.sock"


async def _agent(process: Any) -> None:
    from trimtab.components.profiling.service import measure

    await measure(process)


async def _gateway(process: Any) -> None:
    await process.adapter(Measurer).serve(process)


async def _profiles(client: Any) -> dict[str, Any]:
    from trimtab.components.profiling.views import profiles

    return await profiles(client)


COMPONENT = Component(
    name="profiling",
    summary="measures what every process on the machine spends its time on",
    kinds=(Profiler,),
    reconcilers=(profiler, compare),
    services=(
        Service("agent", _agent, place="node", reads=(Profiler, Pod)),
        Service("gateway", _gateway, place="node"),
    ),
    admission=(Admission("profiler", Profiler, check_profiler),),
    stores=(Store("profiles", "by spec.retention and spec.maxDisk of the Profiler; goes with the engine"),),
    commands=(
        Command("profile", "trimtab.components.profiling.commands:profile", "What every process spends its time on."),
    ),
    views=(View("profiles", "Profiles", _profiles),),
    endpoints=(
        Endpoint(Profiler, "query", SOCKET, data=True),
        Endpoint(Profiler, "page", SOCKET, page=True),
        Endpoint(Profiler, "profiles", SOCKET, data=True),
        Endpoint(Profiler, "buildid", SOCKET),
    ),
    needs=NEEDS,
    conditions=dict(REASONS),
)


def adapters(settings: Settings) -> dict[type, Any]:
    """What the reconciler and the services do to the world, on a machine of our own."""
    from trimtab.components.profiling.process import ProcessMeasurer

    return {Measurer: ProcessMeasurer(settings)}


def comparing(settings: Settings) -> dict[type, Any]:
    """What the comparison of deploys asks of the world, in the controllers of an engine of ours."""
    from trimtab.components.profiling.comparer import SocketComparer

    return {Comparer: SocketComparer(settings)}


__all__ = ["COMPONENT", "Profiler", "adapters", "comparing"]
