"""Infrastructure: any Terraform provider becomes kinds that keep themselves true, with the plan shown before anything is done.

    trimtab provider install --programs/registry.py--> programs/shelf.py (DATA/providers) --protocol/--> schema
                     enable  --commands/enabling.py, schemas/definition.py--> kinds of the API, a role; joining.py: a reconciler each
    object --schemas/mapping.py--> configuration --loop/keeping.py (look, plan, carry out), loop/permission.py (gate)--> the cloud,
           through the providers of programs/pool.py
           --reconcile.py--> status, state Secret, connection Secret
    trimtab plan, dry runs, writes --questions/gateway.py, questions/asking.py--> what would be, and whether the provider takes it;
           nothing is done. On a cluster that is not ours by way of questions/reviews.py and questions/webhooks.py
    CompositeDefinition, claim --composition/--> what it is composed of
    ClusterManifests, connection Secret of a cluster --remote/--> what is to be in that cluster

Providers are programs of others: they run shut in, one for each credential, started when first asked. Until there is a Provider nothing
of this is loaded but the declaration (declaration.py) and what it names.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.components.infrastructure.declaration import COMPONENT, adapters, beside_others
    from trimtab.components.infrastructure.kinds import Provider, ProviderConfig
    from trimtab.components.infrastructure.remote import ClusterManifests


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trimtab.components.infrastructure import declaration

    return getattr(declaration, name)


__all__ = ["COMPONENT", "ClusterManifests", "Provider", "ProviderConfig", "adapters", "beside_others"]
