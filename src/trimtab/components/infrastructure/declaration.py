"""What the component declares: its kinds, reconcilers, services, command, and what it needs of the machine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trimtab.api import JSON
from trimtab.api.core import Pod, Secret
from trimtab.api.jobs import Job
from trimtab.components.infrastructure.composition import declaration as composition
from trimtab.components.infrastructure.joining import kinds
from trimtab.components.infrastructure.kinds import TOLD_OF_CONFIG, Provider, ProviderConfig
from trimtab.components.infrastructure.loop.installed import configured, installed
from trimtab.components.infrastructure.loop.users import credentials
from trimtab.components.infrastructure.programs.paces import Paces
from trimtab.components.infrastructure.programs.shelf import Shelf
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import LazyPool, Providers
from trimtab.components.infrastructure.questions.gateway import READS, SOCKET, gateway
from trimtab.components.infrastructure.reasons import REASONS
from trimtab.components.infrastructure.remote import REASONS as OF_MANIFESTS
from trimtab.components.infrastructure.remote import ClusterManifests, Clusters, OverHttp, manifests
from trimtab.components.infrastructure.schemas.naming import GROUP_SUFFIX
from trimtab.runtime import Command, Component, Endpoint, Judge, Need, Owned, Service, Store, View, Writes
from trimtab.runtime.effects import Effect
from trimtab.runtime.settings import Settings

if TYPE_CHECKING:
    from trimtab.components.infrastructure.programs.pool import Pool


async def _asking(process: Any) -> None:
    await gateway(process)


async def _view(client: Any) -> JSON:
    from trimtab.components.infrastructure.views import infrastructure

    return await infrastructure(client)


async def _troubled(client: Any) -> int:
    from trimtab.components.infrastructure.views import troubled

    return await troubled(client)


async def _pool(process: Any) -> None:
    await process.adapter(Providers).run()


def _bubblewrap() -> str | None:
    return None if shutil.which("bwrap") else "bwrap is missing, which shuts providers in: apt-get install bubblewrap"


COMPONENT = Component(
    name="infrastructure",
    summary="keeps clouds as objects say, through Terraform providers",
    kinds=(Provider, ProviderConfig, ClusterManifests, composition.CompositeDefinition),
    reconcilers=(installed, configured, credentials, manifests, composition.defined),
    services=(
        # What the reconcilers of enabled kinds have in common: those are known only while it runs.
        Service(
            "kinds",
            kinds,
            reads=(Provider, ProviderConfig, Pod, ClusterManifests),
            owns=(Owned(Secret, retain=True), Owned(Job), Owned(Effect)),
            writes=(Writes(ProviderConfig, TOLD_OF_CONFIG),),
        ),
        Service("providers", _pool),
        composition.SERVICE,
        Service("asking", _asking, reads=READS),
    ),
    stores=(Store("providers", "a provider's program until it is removed", owner="node"), composition.STORE),
    guards=(composition.CompositeDefinition,),
    admission=(composition.ADMISSION,),
    judges=(Judge(f".{GROUP_SUFFIX}", SOCKET),),
    endpoints=(
        Endpoint(ProviderConfig, "plan", SOCKET),
        Endpoint(ProviderConfig, "import", SOCKET),
        Endpoint(composition.CompositeDefinition, "compose", SOCKET),
    ),
    commands=(
        Command(
            "provider",
            "trimtab.components.infrastructure.commands.provider:provider",
            "Terraform providers, whose resources become kinds.",
        ),
        composition.COMMAND,
    ),
    views=(View("infrastructure", "Infrastructure", _view, _troubled),),
    needs=(Need("bubblewrap", _bubblewrap, optional=True),),
    conditions={**REASONS, **OF_MANIFESTS, **composition.REASONS},
)


def beside_others() -> Component:
    """This component on a cluster whose API server is not ours: it is asked by reviews and webhooks instead of by that server."""
    from trimtab.components.infrastructure.questions import reviews, webhooks

    services = tuple(one for one in COMPONENT.services if one.name != "asking")
    return replace(
        COMPONENT,
        kinds=(*COMPONENT.kinds, reviews.InfrastructureReview),
        services=(*services, reviews.SERVICE, webhooks.SERVICE),
        judges=(),
        endpoints=(),
    )


def adapters(settings: Settings) -> dict[type, Any]:
    """Running providers, in the controllers of an engine of ours: the engine's user starts them, shut in."""
    shelf = Shelf(settings.data_path("providers"))

    def pool() -> Pool:
        from trimtab.components.infrastructure.programs.pool import Pool
        from trimtab.components.infrastructure.programs.shelf import ShutIn

        return Pool(ShutIn(shelf, settings.run_path("user", "providers"), settings.user))

    return {
        Shelf: shelf,
        Providers: LazyPool(pool),
        Suspects: Suspects(),
        Paces: Paces(),
        Clusters: OverHttp(),
        **composition.adapters(settings),
    }


__all__ = ["COMPONENT", "ClusterManifests", "Provider", "ProviderConfig", "adapters", "beside_others"]
