"""The stories of the contract kit on the real API server: what converges in simulation must converge there, too.

Each is told once, with faults on the wire and crashes of the component's process: only declared reads and writes, the goal,
stillness, and nothing left after everything was deleted. What needs a simulated server (its death, backups, the same run
twice) is in tests/contract alone. `workloads` is not here: it steps aside where Kubernetes' own controllers are, and its
scheduler writes `spec.nodeName` straight into the pod, which the real server lets nobody do; the stories of
`volumes` have it beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import test_contract_apps as apps
import test_contract_backups as backups
import test_contract_ingress as ingress
import test_contract_node as node
from accelerated_time import AcceleratedClock, accelerate
from trimtab.api import Ref, Resource
from trimtab.client import Client, HttpTransport, NotFound
from trimtab.client.transport import Transport
from trimtab.runtime.component import Component
from trimtab.runtime.faults import Rates
from trimtab.runtime.rehearsal import Rehearsal
from trimtab.runtime.scenario import Records, Scenario

pytestmark = pytest.mark.skipif(
    "TRIMTAB_KUBERNETES" not in os.environ,
    reason="needs the real API server: make test-kubernetes; tests/contract does the same on the embedded one",
)

SEED = 3
RATES = replace(Rates(), api_restarts_max=0)
JUDGED = {"apps": apps, "backups": backups, "ingress": ingress, "node": node}
SIMULATED_ONLY = {"clock-set": "somebody sets the clock: real time is not ours to set"}
STORIES = [
    pytest.param(story.JUDGED, scenario, id=f"{name}-{scenario.name}")
    for name, story in JUDGED.items()
    for scenario in story.SCENARIOS
    if scenario.name not in SIMULATED_ONLY
]


class RealApi:
    """Implements `trimtab.runtime.contract.Api` as far as a real server does what it is told."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._transports: list[Transport] = []

    def transport(self) -> Transport:
        made = HttpTransport.for_kubeconfig(self._kubeconfig)
        self._transports.append(made)
        return made

    async def restart(self, *, compact: bool) -> None:
        raise NotImplementedError("this server is shared by all stories")

    async def records(self) -> Records:
        raise NotImplementedError("this server's storage is its own")

    async def restore(self, records: Records) -> None:
        raise NotImplementedError("this server's storage is its own")

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("component", "scenario"), STORIES)
def test_a_story_ends_well_on_the_real_server(component: Component, scenario: Scenario, kubeconfig: Path) -> None:
    async def main(clock: AcceleratedClock) -> None:
        async def make_api(_: object) -> RealApi:
            return RealApi(kubeconfig)

        rehearsal = Rehearsal(component, (), scenario, clock, RATES)
        client = Client(HttpTransport.for_kubeconfig(kubeconfig))
        before = await present(client, rehearsal.kinds)
        try:
            await rehearsal.run(make_api)
        finally:
            await remove(client, (await present(client, rehearsal.kinds)) - before)
            await client.close()

    accelerate(main, seed=SEED)


async def present(client: Client, kinds: Iterable[type[Resource]]) -> set[Ref]:
    """All objects of these kinds, as far as the server knows the kinds yet."""
    found: set[Ref] = set()
    for kind in kinds:
        with suppress(NotFound):
            found |= {obj.ref for obj in (await client.list(kind)).items}
    return found


async def remove(client: Client, objects: Iterable[Ref]) -> None:
    """What a story leaves of the user's own, out of the next one's way; whatever holds it back is let go."""
    for ref in sorted(objects, key=str):
        with suppress(NotFound):
            await client.patch(ref, {"metadata": {"finalizers": None}}, manager="test")
            await client.delete(ref, grace_period_s=0)
