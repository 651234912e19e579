"""Ingress: requests from outside reach apps through Envoy, over TLS, and no rollout drops one.

    Ingress, Service, EndpointSlice, Pod -> routes, backends, endpoints (pure) -> envoy_config -> publish -> Envoy's files
                                                                  pod condition `PROXIED` <- what Envoy acknowledges
    Ingress with tls -> certificates -> Secret -> Envoy's files

Read `reconcile.py` first, then `endpoints.py`, which is what keeps requests from being dropped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trimtab.api.networking import Ingress, IngressClass
from trimtab.components.ingress.admission import check_ingress
from trimtab.components.ingress.bootstrap import (
    check_envoy,
    check_platform,
    envoy_command,
    raise_watch_limit,
    write_bootstrap,
)
from trimtab.components.ingress.conditions import CONDITIONS
from trimtab.components.ingress.hook import SERVICE as HOOKS
from trimtab.components.ingress.hook import hook_service
from trimtab.components.ingress.proxy import EnvoyProxy, Proxy
from trimtab.components.ingress.reconcile import certify, configure
from trimtab.components.ingress.upkeep import upkeep
from trimtab.runtime import Admission, Component, Need, Owned, Service, Store
from trimtab.runtime.settings import Settings

COMPONENT = Component(
    name="ingress",
    summary="Routes requests from outside to apps through Envoy, over TLS, without dropping one in a rollout",
    kinds=(Ingress, IngressClass),
    reconcilers=(certify, configure),
    services=(Service("upkeep", upkeep, reads=(IngressClass,), owns=(Owned(IngressClass),)),),
    admission=(Admission("ingress", Ingress, check_ingress),),
    stores=(Store("proxy", "none: Envoy's configuration, derived from the API"),),
    needs=(Need("Envoy for this machine", check_platform), Need("Envoy", check_envoy)),
    conditions=CONDITIONS,
)


def beside_others() -> Component:
    """This component on a cluster whose nodes, and maybe other proxies, are not ours: an Ingress is ours when it names our
    class, and pods are held by their preStop hooks until the proxy has let go of them."""

    async def one_of_several(process: Any) -> None:
        await upkeep(process, default=False)

    services = (Service("upkeep", one_of_several, reads=(IngressClass,), owns=(Owned(IngressClass),)), HOOKS)
    return replace(COMPONENT, services=services)


def adapters(settings: Settings) -> dict[type, Any]:
    """The adapters that this component's reconcilers ask for, on a real machine."""
    return {Proxy: EnvoyProxy(settings)}


__all__ = [
    "COMPONENT",
    "EnvoyProxy",
    "Proxy",
    "adapters",
    "beside_others",
    "envoy_command",
    "hook_service",
    "raise_watch_limit",
    "write_bootstrap",
]
