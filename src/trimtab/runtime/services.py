"""The long-running tasks of components, restarted with a growing delay when they fail or return."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from trimtab.client.clock import jittered
from trimtab.client.errors import ApiError
from trimtab.runtime.component import Component, Service
from trimtab.runtime.guard import ServiceProcess
from trimtab.runtime.journal import Entry

if TYPE_CHECKING:
    from trimtab.runtime.process import Process

RESTART_FIRST_S = 0.2
RESTART_LAST_S = 30.0
STEADY_S = 60.0
"""A service that ran this long starts again without delay when it fails."""

log = logging.getLogger(__name__)


async def run_service(process: Process, component: Component, service: Service) -> None:
    """Runs `service` until cancelled."""
    loop = asyncio.get_running_loop()
    view = ServiceProcess(process, component, service)
    delay_s = RESTART_FIRST_S
    while True:
        began = loop.time()
        try:
            await service.run(view)
            problem = "it returned; a service runs until it is cancelled"
        except (ApiError, ConnectionError) as err:
            problem = str(err)
        except Exception as err:
            problem = f"{type(err).__name__}: {err}"
            log.warning("service %s.%s failed: %s", component.name, service.name, problem, exc_info=err)
        if loop.time() - began > STEADY_S:
            delay_s = RESTART_FIRST_S
        process.journal.append(
            Entry(
                at=process.clock.now(),
                component=component.name,
                actor=f"trimtab-{component.name}-{service.name}",
                verb="failed",
                message=f"service {service.name}: {problem}; restarted in {delay_s:.1f} s",
            )
        )
        await asyncio.sleep(jittered(delay_s, process.clock))
        delay_s = min(delay_s * 2, RESTART_LAST_S)
