"""One life of a component's processes in simulated time: from a start to a crash, or to the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.client.client import Client
from trimtab.client.clock import Clock
from trimtab.runtime.component import Component
from trimtab.runtime.faults import EffectFaults, FaultyTransport, Mortal, Outage, Rates
from trimtab.runtime.journal import Journal
from trimtab.runtime.process import Process
from trimtab.runtime.scenario import Api
from trimtab.runtime.settings import Settings


def simulated_settings() -> Settings:
    return Settings(id="51de00", data="/nonexistent/data", run="/nonexistent/run")


@dataclass
class Setting:
    """What outlives a crash: the API, the journal, the fakes of the outside world."""

    api: Api
    journal: Journal
    adapters: Mapping[type, Any]
    clock: Clock
    rng: random.Random
    components: Sequence[Component]
    outage: Outage = field(default_factory=Outage)


class Life:
    """One process for each place that the components have, all mortal together."""

    def __init__(self, setting: Setting, rates: Rates, mortal: Mortal) -> None:
        self.mortal = mortal
        self.transports: list[FaultyTransport] = []
        self.effects = EffectFaults(setting.rng, rates, mortal)
        self.processes: list[Process] = []
        places = dict.fromkeys(r.place for component in setting.components for r in component.reconcilers)
        for place in places:
            transport = FaultyTransport(setting.api.transport(), setting.rng, rates, mortal, setting.outage)
            self.transports.append(transport)
            self.processes.append(
                Process(
                    client=Client(transport),
                    journal=setting.journal,
                    settings=simulated_settings(),
                    adapters=setting.adapters,
                    clock=setting.clock,
                    place=place,
                    components=setting.components,
                    events=False,
                    observes=place == "controllers",
                    checkpoint=self.effects,
                )
            )
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(process.run(), name=f"process {process.place}") for process in self.processes]

    @property
    def idle(self) -> bool:
        return all(process.idle for process in self.processes)

    def writes(self) -> list[str]:
        """Every request of this life that was not a GET."""
        return [line for transport in self.transports for line in transport.writes]

    def use(self, rates: Rates) -> None:
        """From now on these faults."""
        for transport in self.transports:
            transport.rates = rates
        self.effects.rates = rates

    async def end(self) -> None:
        """Buries it: everything it still tries fails."""
        self.mortal.bury()
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)

    def failure(self) -> BaseException | None:
        """What ended a process that should be running."""
        for task in self.tasks:
            if task.done() and not task.cancelled():
                return task.exception()
        return None
