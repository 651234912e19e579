"""What the reconcilers know of the proxy: a protocol, and Envoy behind it.

Documents go in by name (`cds.json`, `eds/shop.web.80.json`); what comes back is one `Seen`: which version of each
document Envoy has taken in, which one it refused and why, and every host that it knows with its requests in flight. A
refused document is replaced by the one before at once, so that Envoy, when it starts anew, runs on what it ran on, and the
same content is not tried again.

Envoy is asked through its admin interface on a unix socket, and only when a reconciler asks. Memory of a refused
version and of how long a drain has been seen lives in this process alone; after a restart both are found out again.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from trimtab.api import JSON
from trimtab.client import Request, SocketTransport
from trimtab.components.ingress import envoy_config
from trimtab.components.ingress.bootstrap import (
    proxy_directory,
    read_json,
    replace_json,
    watch_limit,
    write_bootstrap,
)
from trimtab.components.ingress.endpoints import Address, Observed
from trimtab.runtime.settings import Settings

ADMIN_TIMEOUT_S = 2.0
TAKE_IN_S = 30.0
"""Envoy takes in a document within milliseconds; one that it neither accepts nor refuses for so long counts as refused,
and is tried again after `RETRY_S`."""
RETRY_S = 300.0
LOGGED_S = 5.0
"""How long a refusal waits for its reason: Envoy counts a refusal at once and writes its log a moment later."""
STATS_PATH = "/stats?filter=(version_text|update_rejected|update_failure)$"
LOG_TAIL_BYTES = 1 << 18


@dataclass(frozen=True)
class Seen:
    """One look at Envoy.

    accepted: the version of each document that Envoy runs on. hosts: by cluster, every host in it; a cluster without
    hosts is there with an empty mapping.
    """

    accepted: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, Mapping[Address, Observed]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    version: str
    reason: str


class Proxy(Protocol):
    """The proxy as the reconcilers use it. Writing is immediate; taking in what was written is not: see `observe`."""

    @property
    def settings(self) -> Settings:
        """Addresses and paths of this engine."""

    @property
    def address(self) -> str:
        """The address at which clients reach the proxy."""

    @property
    def watches_max(self) -> int:
        """How many documents the proxy can watch at the same time."""

    @property
    def documents(self) -> Mapping[str, JSON]:
        """Every document that is in place now, by name."""

    @property
    def refused(self) -> Mapping[str, Refusal]:
        """By document name, the last version that the proxy refused, and why."""

    def write(self, name: str, doc: JSON) -> None:
        """Puts a document in place of the one of that name. A version known as refused is left out silently."""

    def remove(self, name: str) -> None:
        """Takes a document away that nothing refers to any more."""

    async def observe(self) -> Seen | None:
        """What the proxy says of itself; None while it does not answer. Takes back what it refused since."""

    async def reopen_logs(self) -> None:
        """Makes the proxy open its log files anew, after a rename. No effect while it does not answer."""


class EnvoyProxy:
    """Envoy through files in DATA/proxy and its admin socket."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._directory = proxy_directory(settings)
        self._clock = clock
        self._documents: dict[str, JSON] | None = None
        self._pending: dict[str, _Pending] = {}
        self._refused: dict[str, Refusal] = {}
        self._rejections: dict[str, int] = {}
        self._draining_since: dict[tuple[str, Address], float] = {}
        self._retry_at: dict[str, float] = {}
        self._silent = False

    @property
    def address(self) -> str:
        listen = self.settings.listen
        return machine_address() if listen in ("0.0.0.0", "::") else listen

    @property
    def watches_max(self) -> int:
        return watch_limit()

    @property
    def documents(self) -> Mapping[str, JSON]:
        if self._documents is None:
            self._documents = self._load()
        return self._documents

    @property
    def refused(self) -> Mapping[str, Refusal]:
        return self._refused

    def write(self, name: str, doc: JSON) -> None:
        documents = self._mutable()
        before = documents.get(name)
        refused = self._refused.get(name)
        if refused and refused.version == doc["version_info"]:
            return
        if before and before["version_info"] == doc["version_info"]:
            return
        waiting = self._pending.get(name)
        last_good = waiting.last_good if waiting else before
        self._pending[name] = _Pending(last_good, self._rejections.get(name, 0), self._clock(), self._log_size())
        self._refused.pop(name, None)
        replace_json(self._directory / name, doc)
        documents[name] = doc

    def remove(self, name: str) -> None:
        self._mutable().pop(name, None)
        self._pending.pop(name, None)
        self._refused.pop(name, None)
        with suppress(FileNotFoundError):
            (self._directory / name).unlink()

    async def observe(self) -> Seen | None:
        answers = await self._ask("GET", STATS_PATH, "/clusters?format=json")
        if answers is None:
            self._draining_since.clear()
            self._silent = True
            return None
        if self._silent:
            # What was written meanwhile has its time from now on.
            self._silent = False
            self._pending = {name: replace(p, written_at=self._clock()) for name, p in self._pending.items()}
        accepted, rejections = _parse_stats(answers[0].decode(), self.documents)
        self._settle(accepted, rejections)
        return Seen(accepted, self._hosts(answers[1]))

    async def reopen_logs(self) -> None:
        await self._ask("POST", "/reopen_logs")

    # Documents

    def _mutable(self) -> dict[str, JSON]:
        assert self.documents is not None
        assert self._documents is not None
        return self._documents

    def _load(self) -> dict[str, JSON]:
        if not (self._directory / envoy_config.LISTENERS).exists():
            write_bootstrap(self.settings)
        out: dict[str, JSON] = {}
        for path in sorted(self._directory.rglob("*.json")):
            name = str(path.relative_to(self._directory))
            doc = read_json(path)
            if doc and "version_info" in doc and not path.name.startswith("."):
                out[name] = doc
        return out

    def _settle(self, accepted: Mapping[str, str], rejections: Mapping[str, int]) -> None:
        """Compares what was written with what Envoy made of it; takes back what it refused."""
        documents = self._mutable()
        for name, at in list(self._retry_at.items()):
            if self._clock() >= at:
                del self._retry_at[name]
                self._refused.pop(name, None)
        for name, doc in documents.items():
            refused = self._refused.get(name)
            if accepted.get(name) == doc["version_info"]:
                # A refusal of another version stands: what is in place is the document before it.
                if refused and refused.version == doc["version_info"]:
                    del self._refused[name]
            elif name in accepted and name not in self._pending and refused is None:
                # Written in an earlier life of this process, and not taken in yet.
                self._pending[name] = _Pending(None, rejections.get(name, 0), self._clock(), self._log_size())
        for name, pending in list(self._pending.items()):
            version = documents[name]["version_info"]
            count = rejections.get(name, 0)
            if accepted.get(name) == version:
                del self._pending[name]
            elif count > pending.rejections or 0 < count < pending.rejections:
                reason = self._reason_since(pending.log_bytes)
                if reason is None and pending.refused_at is None:
                    self._pending[name] = replace(pending, refused_at=self._clock())
                elif reason or self._clock() - (pending.refused_at or 0.0) > LOGGED_S:
                    self._take_back(name, reason or "its log in DATA/log/envoy.log says why")
            elif name in accepted and self._clock() - pending.written_at > TAKE_IN_S:
                self._take_back(name, f"it did not take the change in within {TAKE_IN_S:.0f} s")
                self._retry_at[name] = self._clock() + RETRY_S
        self._rejections = dict(rejections)

    def _take_back(self, name: str, reason: str) -> None:
        documents = self._mutable()
        pending = self._pending.pop(name)
        self._refused[name] = Refusal(documents[name]["version_info"], reason)
        if pending.last_good is None:
            # It stays: a document that is missing would make Envoy refuse the one that refers to it at its next start.
            return
        replace_json(self._directory / name, pending.last_good)
        documents[name] = pending.last_good

    # Envoy's answers

    async def _ask(self, method: str, *paths: str) -> list[bytes] | None:
        try:
            async with (
                asyncio.timeout(ADMIN_TIMEOUT_S),
                SocketTransport(self.settings.envoy_admin_socket) as envoy,
            ):
                out = []
                for url in paths:
                    path, _, query = url.partition("?")
                    asked = dict(parse_qsl(query, keep_blank_values=True))
                    answer = await envoy.send(Request(method, path, asked))
                    if answer.status != 200:
                        return None
                    out.append(answer.body)
                return out
        except (OSError, TimeoutError):
            return None

    def _hosts(self, answer: bytes) -> dict[str, dict[Address, Observed]]:
        out: dict[str, dict[Address, Observed]] = {}
        now = self._clock()
        draining: dict[tuple[str, Address], float] = {}
        for cluster in msgspec.json.decode(answer).get("cluster_statuses", []):
            hosts = out.setdefault(cluster["name"], {})
            for host in cluster.get("host_statuses", []):
                address = envoy_config.join_address(host["address"]["socket_address"])
                active = sum(int(s.get("value", 0)) for s in host["stats"] if s["name"] == "rq_active")
                since = None
                if host["health_status"].get("eds_health_status", "HEALTHY") != "HEALTHY":
                    key = (cluster["name"], address)
                    draining[key] = self._draining_since.get(key, now)
                    since = now - draining[key]
                hosts[address] = Observed(since, active)
        self._draining_since = draining
        return out

    # Envoy's log

    def _log_size(self) -> int:
        try:
            return os.stat(self.settings.data_path("log", "envoy.log")).st_size
        except OSError:
            return 0

    def _reason_since(self, offset: int) -> str | None:
        """The last refusal in Envoy's log after `offset`. Only the log tells: the admin interface counts refusals."""
        try:
            with open(self.settings.data_path("log", "envoy.log"), "rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(offset if offset <= size else 0, size - LOG_TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return None
        reasons = re.findall(r"config update (?:rejected|failure): ([^\n]{1,300})", text)
        return reasons[-1].strip() if reasons else None


def machine_address() -> str:
    """The address from which this machine reaches others; loopback where it reaches none. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@dataclass(frozen=True, slots=True)
class _Pending:
    """A document that Envoy has not answered for yet."""

    last_good: JSON | None
    rejections: int
    written_at: float
    log_bytes: int
    refused_at: float | None = None


_FIXED = {
    "listener_manager.lds": envoy_config.LISTENERS,
    "cluster_manager.cds": envoy_config.CLUSTERS,
    "http.http.rds.http": envoy_config.ROUTES_HTTP,
    "http.https.rds.https": envoy_config.ROUTES_HTTPS,
}


def _parse_stats(text: str, documents: Mapping[str, JSON]) -> tuple[dict[str, str], dict[str, int]]:
    """Per document: the accepted version ("" for none yet), and how often Envoy refused one."""
    names = dict(_FIXED)
    for name, doc in documents.items():
        for resource in doc["resources"]:
            if name.startswith("eds/"):
                names["cluster." + resource["cluster_name"].replace(":", "_")] = name
            elif name.startswith("sds/"):
                names["sds." + resource["name"].replace(":", "_")] = name
    accepted: dict[str, str] = {}
    rejections: dict[str, int] = {}
    for line in text.splitlines():
        stat, _, value = line.partition(": ")
        scope, _, what = stat.rpartition(".")
        document = names.get(scope)
        if document is None:
            continue
        if what == "version_text":
            accepted[document] = value.strip('"')
        else:
            rejections[document] = rejections.get(document, 0) + int(value)
    return accepted, rejections
