"""Infrastructure: any Terraform provider becomes kinds that keep themselves true, with the plan shown before anything is done.

    trimtab provider install --registry.py--> shelf.py (DATA/providers) --protocol/--> schema
                     enable  --enabling.py, definition.py--> kinds of the API, a role, a reconciler each
    object --mapping.py--> configuration --keeping.py (look, plan, gate, carry out)--> the cloud, through pool.py's providers
           --reconcile.py--> status, state Secret, connection Secret
    ClusterManifests, connection Secret of a cluster --remote/--> what is to be in that cluster

Providers are programs of others: they run shut in, one for each credential, started when first asked.
"""

from typing import Any

from trimtab.components.infrastructure.enabling import kinds
from trimtab.components.infrastructure.installed import configured, installed
from trimtab.components.infrastructure.kinds import Provider, ProviderConfig
from trimtab.components.infrastructure.pool import Pool, Providers
from trimtab.components.infrastructure.reconcile import REASONS as OF_MANAGED
from trimtab.components.infrastructure.remote import REASONS as OF_MANIFESTS
from trimtab.components.infrastructure.remote import ClusterManifests, Clusters, OverHttp, manifests
from trimtab.components.infrastructure.shelf import Shelf, ShutIn
from trimtab.runtime import Command, Component, Need, Service, Store
from trimtab.runtime.settings import Settings

REASONS = {
    **OF_MANAGED,
    **OF_MANIFESTS,
    "Installed": "The provider's program is on this machine.",
    "NotInstalled": "The provider's program is not on this machine: install it again.",
    "NoProvider": "The Provider that a ProviderConfig names does not exist.",
    "Accepted": "The provider takes this configuration.",
}


async def _kinds(process: Any) -> None:
    await kinds(process)


async def _pool(process: Any) -> None:
    await process.adapter(Providers).run()


def _bubblewrap() -> str | None:
    import shutil

    return None if shutil.which("bwrap") else "bwrap is missing, which shuts providers in: apt-get install bubblewrap"


COMPONENT = Component(
    name="infrastructure",
    summary="keeps clouds as objects say, through Terraform providers",
    kinds=(Provider, ProviderConfig, ClusterManifests),
    reconcilers=(installed, configured, manifests),
    services=(Service("kinds", _kinds, reads=(Provider,)), Service("providers", _pool)),
    stores=(Store("providers", "a provider's program until it is removed", owner="node"),),
    commands=(
        Command(
            "provider",
            "trimtab.components.infrastructure.commands:provider",
            "Terraform providers, whose resources become kinds.",
        ),
    ),
    needs=(Need("bubblewrap", _bubblewrap),),
    conditions=REASONS,
)


def adapters(settings: Settings) -> dict[type, Any]:
    """Running providers, on a machine of our own."""
    shelf = Shelf(settings.data_path("providers"))
    return {Shelf: shelf, Providers: Pool(ShutIn(shelf, settings.run_path("user", "providers"))), Clusters: OverHttp()}


__all__ = ["COMPONENT", "ClusterManifests", "Provider", "ProviderConfig", "adapters"]
