"""Who is at the other end of the engine's unix socket: the kernel says so, not the request.

    connect(2) --> SO_PEERCRED: uid --> root, or the server's own user: trusted, may act as anybody
                                    --> listed by the engine: that user, by its roles
                                    --> anybody else: refused

A uid is taken when a connection is made, so a process that gave up root afterwards keeps the connections that it has.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Mapping

from trimtab.server.authentication import User
from trimtab.server.errors import StatusError

PEER = "trimtab.peer"
"""Key in the ASGI scope's `extensions`: the `User` that a connection is bound to, or the `StatusError` that refuses it."""

_UCRED = struct.Struct("3i")


def peer_of(connection: socket.socket, known: Mapping[int, User]) -> User | StatusError | None:
    """The identity that this connection of a unix socket is bound to; None: it is trusted.

    known: users by uid. Who stands there has that identity and no other, also when it is the server's own user.
    """
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid == 0:
        return None
    if uid in known:
        return known[uid]
    if uid == os.geteuid():
        return None
    return StatusError(
        403,
        "Forbidden",
        f"user {_name(uid)} may not use the engine's socket: give a kubeconfig (`sudo trimtab kubeconfig` prints one)",
    )


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"with uid {uid}"
