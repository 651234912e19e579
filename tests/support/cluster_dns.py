"""Cluster DNS for a test's Kubernetes: our own server, fed by its API, on the bridge of its node. `python cluster_dns.py KUBECONFIG`."""

from __future__ import annotations

import asyncio
import sys

from trimtab.api.core import Service as CoreService
from trimtab.api.networking import EndpointSlice
from trimtab.client import Client, HttpTransport
from trimtab.components.node.dns import ClusterDns
from trimtab.runtime.component import Component, Service
from trimtab.runtime.journal import Journal
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings


async def serve(kubeconfig: str) -> None:
    settings = Settings(id="cluster", data="/nonexistent", run="/nonexistent", pod_cidr="10.214.0.0/24")

    async def dns(process: Process) -> None:
        await ClusterDns(process).run()

    component = Component(
        name="dns", summary="cluster DNS", services=(Service("dns", dns, reads=(CoreService, EndpointSlice)),)
    )
    async with HttpTransport.for_kubeconfig(kubeconfig) as transport:
        process = Process(
            client=Client(transport), journal=Journal(None), settings=settings, components=(component,), observes=False
        )
        await process.run()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
