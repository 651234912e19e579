"""What a URL path of the API names: a collection, an object, a subresource.

/api/v1/namespaces/shop/pods/web-0/log        core group
/apis/apps/v1/deployments                     named groups
/apis/apps/v1/namespaces/shop/deployments/web/scale
"""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """`rest` is what follows a subresource (a proxied path); empty nearly always."""

    group: str
    version: str
    plural: str
    namespace: str
    name: str
    subresource: str
    rest: str = ""


def parse_target(path: str) -> Target | None:
    """The target of a resource path; None when the path is none (discovery, health, unknown)."""
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, tail = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, tail = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if tail[0] == "namespaces" and len(tail) >= 3 and not (len(tail) == 3 and tail[2] in ("status", "finalize")):
        namespace, tail = tail[1], tail[2:]
    plural, name, subresource = [*tail, "", "", ""][:3]
    return Target(group, version, plural, namespace, name, subresource, "/".join(tail[3:]))
