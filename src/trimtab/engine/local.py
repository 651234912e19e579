"""The smallest possible client of this machine's own API: one request over its unix socket, with the standard library.

`trimtab start`, `stop` and `status` ask the API two or three questions; they must not pay for an HTTP library first.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

TIMEOUT_S = 2.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(api_socket: Path, path: str) -> tuple[int, bytes]:
    """The status and body of a GET; status 0 when the API does not answer."""
    connection = _UnixConnection(api_socket)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def get_json(api_socket: Path, path: str) -> dict[str, Any] | None:
    """The decoded answer of a GET; None when the API does not answer, or refuses."""
    status, body = get(api_socket, path)
    if status != 200:
        return None
    decoded: dict[str, Any] = json.loads(body)
    return decoded


def merge_patch(api_socket: Path, path: str, change: dict[str, Any]) -> int:
    """Changes an object by a JSON merge patch; returns the status, 0 when the API does not answer."""
    connection = _UnixConnection(api_socket)
    try:
        connection.request(
            "PATCH", path, body=json.dumps(change), headers={"Content-Type": "application/merge-patch+json"}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def post(api_socket: Path, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Posts an object; returns the status, 0 when the API does not answer, and the decoded answer."""
    connection = _UnixConnection(api_socket)
    try:
        connection.request("POST", path, body=json.dumps(body), headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        decoded: dict[str, Any] = json.loads(answer.read() or b"{}")
        return answer.status, decoded
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()
