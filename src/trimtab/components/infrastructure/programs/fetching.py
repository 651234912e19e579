"""Reading from registries and mirrors: so much, in so long, over https from first to last where it began so, with the login for a host.

A login is where Terraform's and OpenTofu's commands look for it too: `TF_TOKEN_registry_example_org` for registry.example.org.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import IO, Any, Literal, overload
from urllib.parse import urlsplit

ANSWER_BYTES_MAX = 64 << 20
TIMEOUT_S = 60.0


class InstallError(Exception):
    """A provider that cannot be had: one line with where, what is wrong, and what to do."""


class _StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows to other places, but not from https to http: keys come this way."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https" and urlsplit(req.full_url).scheme == "https":
            raise urllib.error.URLError(f"it leads on to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_StaysEncrypted)


def token(host: str) -> str:
    """The login for a host that the environment has, or empty. In a variable's name `.` is `_`, and `-` is `__` or stays."""
    plain = f"TF_TOKEN_{host.replace('.', '_')}"
    return os.environ.get(plain) or os.environ.get(plain.replace("-", "__")) or ""


def read(url: str, what: str, most: int, *, secret: str = "") -> tuple[bytes, str]:
    """(what is there, where it was in the end). secret: a login, which is not carried along when it leads elsewhere. Raises `InstallError`."""
    if urlsplit(url).scheme not in ("https", "http"):
        raise InstallError(f"{what}: {url!r} is no address")
    try:
        request = urllib.request.Request(url)
        if secret:
            request.add_unredirected_header("Authorization", f"Bearer {secret}")
        with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(most + 1)
            promised = int(answer.headers.get("content-length") or len(data))
            at: str = answer.url
    except urllib.error.HTTPError as err:
        with err:
            if err.code == 404:
                raise Missing(f"{what}: not there ({url}: 404)") from None
            login = ""
            if err.code in (401, 403) and not secret:
                login = f"; a login is taken from TF_TOKEN_{urlsplit(url).netloc.replace('.', '_')}"
            raise InstallError(f"{what}: {url}: {err.code} {err.reason}{login}") from None
    except (OSError, ValueError, http.client.HTTPException) as err:
        reason = getattr(err, "reason", err)
        raise InstallError(f"{what}: {url}: {reason}") from None
    if len(data) > most:
        raise InstallError(f"{what}: {url}: more than {most} bytes")
    if len(data) < promised:
        raise InstallError(f"{what}: {url}: it broke off after {len(data)} of {promised} bytes: try again")
    return data, at


class Missing(InstallError):
    """It is not there."""


@overload
def read_json(
    url: str, what: str, *, secret: str = "", may_lack: Literal[False] = False
) -> tuple[dict[str, Any], str]: ...
@overload
def read_json(url: str, what: str, *, secret: str = "", may_lack: bool) -> tuple[dict[str, Any], str] | None: ...
def read_json(url: str, what: str, *, secret: str = "", may_lack: bool = False) -> tuple[dict[str, Any], str] | None:
    """(an object, where it was in the end); None when it is not there, if it may lack. Raises `InstallError`."""
    try:
        data, at = read(url, what, ANSWER_BYTES_MAX, secret=secret)
        answer = json.loads(data)
    except Missing:
        if may_lack:
            return None
        raise
    except ValueError:
        raise InstallError(f"{what}: {url} answers no JSON") from None
    if not isinstance(answer, dict):
        raise InstallError(f"{what}: {url} answers no JSON object")
    return answer, at
