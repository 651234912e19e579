"""Infrastructure: any Terraform provider becomes kinds that keep themselves true, with the plan shown before anything is done.

    trimtab provider install --registry.py--> shelf.py (DATA/providers) --protocol/--> schema
                     enable  --enabling.py, definition.py--> kinds of the API, a role; joining.py: a reconciler each
    object --mapping.py--> configuration --keeping.py (look, plan, carry out), permission.py (gate)--> the cloud, through pool.py's providers
           --reconcile.py--> status, state Secret, connection Secret
    trimtab plan, dry runs, writes --gateway.py, asking.py--> what would be, and whether the provider takes it; nothing is done
    ClusterManifests, connection Secret of a cluster --remote/--> what is to be in that cluster

Providers are programs of others: they run shut in, one for each credential, started when first asked. Until there is a Provider nothing
of this is loaded but the declaration (declaration.py) and what it names.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.components.infrastructure.declaration import COMPONENT, adapters
    from trimtab.components.infrastructure.kinds import Provider, ProviderConfig
    from trimtab.components.infrastructure.remote import ClusterManifests


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trimtab.components.infrastructure import declaration

    return getattr(declaration, name)


__all__ = ["COMPONENT", "ClusterManifests", "Provider", "ProviderConfig", "adapters"]
