"""Who we are to a registry: the file that `docker login` writes, and the credential helpers that it names.

`auths.HOST.auth` is base64 of `user:password`; `auths.HOST.identitytoken` is exchanged for access tokens; `credHelpers` and
`credsStore` name programs `docker-credential-NAME` that are asked over stdin.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from trimtab.content.errors import Unauthorized

_HELPER_TIMEOUT_S = 30
_DOCKER_HUB = ("docker.io", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")


class Login(msgspec.Struct, frozen=True):
    """A user's login at one registry. `token` is an identity token, used instead of a password."""

    user: str = ""
    password: str = ""
    token: str = ""


class Credentials:
    """Logins by registry host."""

    def __init__(self, config: dict[str, Any] | None = None, logins: dict[str, Login] | None = None) -> None:
        self._config = config or {}
        self._logins = logins or {}

    @classmethod
    def load(cls, path: Path | None = None) -> Credentials:
        """From docker's config.json ($DOCKER_CONFIG, else ~/.docker). A missing file is no login at all."""
        if path is None:
            path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
        try:
            config = msgspec.json.decode(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, msgspec.MsgspecError) as error:
            raise Unauthorized(f"cannot read the registry logins in {path}: {error}; repair or remove it") from None
        if not isinstance(config, dict):
            raise Unauthorized(f"{path} is not a docker config.json; repair or remove it")
        return cls(config)

    async def login(self, registry: str) -> Login | None:
        """The login for this registry, or None to go without."""
        if registry in self._logins:
            return self._logins[registry]
        names = _DOCKER_HUB if registry == "docker.io" else (registry, f"https://{registry}", f"https://{registry}/v2/")
        for name in names:
            helper = _dict(self._config.get("credHelpers")).get(name)
            if isinstance(helper, str):
                return await _ask_helper(helper, name)
        for name in names:
            entry = _dict(_dict(self._config.get("auths")).get(name))
            if entry:
                found = _from_entry(entry, registry)
                if found is not None:
                    return found
        store = self._config.get("credsStore")
        return (
            await _ask_helper(store, names[1] if registry == "docker.io" else registry)
            if isinstance(store, str)
            else None
        )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _from_entry(entry: dict[str, Any], registry: str) -> Login | None:
    if entry.get("identitytoken"):
        return Login(token=str(entry["identitytoken"]))
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Unauthorized(f"the login for {registry} in docker's config.json is damaged; log in again") from None
        return Login(user, password.rstrip("\0"))
    if entry.get("username"):
        return Login(str(entry["username"]), str(entry.get("password", "")))
    return None


async def _ask_helper(name: str, server: str) -> Login | None:
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            [f"docker-credential-{name}", "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise Unauthorized(f"docker's config.json wants docker-credential-{name}, which is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unauthorized(f"docker-credential-{name} did not answer within {_HELPER_TIMEOUT_S} s") from None
    if done.returncode != 0:
        if b"credentials not found" in done.stdout:
            return None
        raise Unauthorized(f"docker-credential-{name} failed: {done.stdout.decode('utf-8', 'replace').strip()[:200]}")
    answer = _dict(msgspec.json.decode(done.stdout))
    user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    return Login(token=secret) if user == "<token>" else Login(user, secret)
