"""Who the engine's own processes are to its API, and what each may do there.

    uid of `trimtab`      -> system:trimtab:controllers   what the components' reconcilers declare (runtime/rbac.py)
    uid of `trimtab-web`  -> system:trimtab:web           get, list and watch what components work on; no Secrets
    root                  -> system:masters               the command line, the supervisor, the node agent

The roles are made from the declarations at every start, so a component that declares less may do less. Root could read the
administrator's token anyway; the node agent says who it is (`system:node:NAME`) for the record only.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.api import JSON
from trimtab.engine.privileges import ids_of
from trimtab.runtime.component import Component
from trimtab.runtime.settings import Settings
from trimtab.server.authentication import AUTHENTICATED, User

CONTROLLERS = "system:trimtab:controllers"
WEB = "system:trimtab:web"
_RBAC = "rbac.authorization.k8s.io"


def peers(settings: Settings) -> dict[int, User]:
    """The identities of the unprivileged processes by uid, for the API's unix socket."""
    found = {}
    for account, name in ((settings.user, CONTROLLERS), (settings.web_user, WEB)):
        found[ids_of(account)[0]] = User(name, (name, AUTHENTICATED))
    return found


def roles(components: Sequence[Component]) -> list[JSON]:
    """The ClusterRoles of these identities, and their bindings, as manifests."""
    from trimtab.api.core import Secret
    from trimtab.runtime.rbac import as_json, reader_rules, rules

    found: list[JSON] = []
    for name, granted in (
        (CONTROLLERS, rules(components, "controllers")),
        (WEB, reader_rules(components, hidden=[Secret])),
    ):
        found.append(
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": name},
                "rules": as_json(granted),
            }
        )
        found.append(
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
                "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": name}],
            }
        )
    return found
