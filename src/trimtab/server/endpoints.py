"""Subresources of custom kinds that something of the engine beside this server answers, at a unix socket.

    /apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE/a/path?query  -->  socket: /UID/SUBRESOURCE/a/path?query

Who may has been decided by then. The object is looked up here, so that what answers sees only objects that exist, by their uid: another
of the same name is another. It is told who asks, and gets none of the caller's credentials.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from trimtab.server import errors
from trimtab.server.http import Request
from trimtab.server.kinds import Kind
from trimtab.server.objects import decode
from trimtab.server.paths import Target
from trimtab.server.proxying import Proxied

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer


def endpoint_answer(server: ApiServer, kind: Kind, target: Target, request: Request, socket: Path) -> Proxied:
    """Raises `StatusError`: 404 no such object, 400 an upgrade."""
    if request.headers.get("upgrade"):
        raise errors.bad_request(f"{kind.plural}/{target.subresource} takes no upgrades")
    record = server.store.get(kind.key(target.namespace, target.name))
    if record is None:
        raise errors.not_found(kind.plural, kind.group, target.name)
    uid = decode(record)["metadata"]["uid"]
    query = request.scope.get("query_string", b"").decode("latin-1")
    path = f"/{uid}/{target.subresource}/{quote(target.rest)}".rstrip("/") + (f"?{query}" if query else "")
    told = (
        ("x-trimtab-user", quote(request.user.name, safe="/:@!$&'()*+,;=~-._ ")),
        ("x-trimtab-object", f"{target.namespace}/{target.name}"),
    )
    return Proxied("", 0, False, path, "", socket=socket, told=told)
