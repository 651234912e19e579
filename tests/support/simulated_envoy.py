"""An Envoy for simulated time: takes documents in late, hands drains to its workers later still, goes away for a while, and
keeps count of requests that it would have sent to an endpoint that had been promised to be out of use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.client.clock import Clock
from trimtab.components.ingress import envoy_config
from trimtab.components.ingress.bootstrap import proxy_directory
from trimtab.components.ingress.endpoints import SETTLED_S, Observed, Written
from trimtab.components.ingress.proxy import Refusal, Seen
from trimtab.components.ingress.routes import Table
from trimtab.runtime.settings import Settings

LAG_S_MAX = 0.4


@dataclass
class SimulatedEnvoy:
    """Implements `Proxy`. `refuses` maps a document's name to a reason for which it is always refused."""

    clock: Clock
    settings: Settings
    refuses: dict[str, str] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    address: str = "127.0.0.1"
    watches_max: int = 8192
    down_until: float = -1.0
    observations: int = 0

    def __post_init__(self) -> None:
        self._due: dict[str, float] = {}
        self._last_good: dict[str, Any] = {}
        self._accepted: dict[str, Any] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._busy: dict[tuple[str, str], float] = {}
        base = {
            envoy_config.CLUSTERS: envoy_config.document([]),
            **envoy_config.route_files(Table(), self.settings.https_port),
            envoy_config.LISTENERS: envoy_config.listener_file(self.settings, proxy_directory(self.settings), {}, None),
        }
        self.documents.update(base)
        self._accepted.update(base)

    @property
    def _now(self) -> float:
        return self.clock.now().timestamp()

    def write(self, name: str, doc: Any) -> None:
        refused = self.refused.get(name)
        if refused and refused.version == doc["version_info"]:
            return
        if name in self.documents and self.documents[name]["version_info"] == doc["version_info"]:
            return
        if name not in self._due:
            self._last_good[name] = self.documents.get(name)
        self.refused.pop(name, None)
        self.documents[name] = doc
        self._due[name] = self._now + self.clock.random.random() * LAG_S_MAX

    def remove(self, name: str) -> None:
        used = self._referred(self._accepted)
        assert name not in used, f"{name} was removed while the proxy still reads it"
        self.documents.pop(name, None)
        self._due.pop(name, None)
        self._accepted.pop(name, None)

    async def reopen_logs(self) -> None:
        return None

    async def observe(self) -> Seen | None:
        self.observations += 1
        self.pass_time()
        if self._now < self.down_until:
            return None
        hosts = {cluster: self._hosts(cluster) for cluster in self._clusters()}
        return Seen({name: doc["version_info"] for name, doc in self._accepted.items()}, hosts)

    # What it does by itself

    def restart(self, away_s: float) -> None:
        """As after kill -9: everything is read anew from the files, requests in flight are gone."""
        missing = self._referred(self.documents) - self.documents.keys()
        assert not missing, f"Envoy would start anew without {missing}"
        self.down_until = self._now + away_s
        self._busy.clear()
        self._since.clear()
        for name in self.documents:
            self._due[name] = self.down_until

    def pass_time(self) -> None:
        """Takes in what is due by now."""
        for name, at in sorted(self._due.items(), key=lambda item: item[1]):
            if at > self._now:
                continue
            doc = self.documents[name]
            del self._due[name]
            reason = self.refuses.get(name)
            if reason is None:
                self._accepted[name] = doc
                self._note_drains(name, doc, at)
                continue
            self.refused[name] = Refusal(doc["version_info"], reason)
            self.documents[name] = self._last_good.get(name) or doc

    def sends_to(self) -> set[str]:
        """Every address to which some worker may send a request now."""
        self.pass_time()
        out: set[str] = set()
        if self._now < self.down_until:
            return out
        for cluster in self._clusters():
            for address, written in self._endpoints(cluster).items():
                late = self._since.get((cluster, address), 0.0) + SETTLED_S * 0.9 > self._now
                if not written.draining or late:
                    out.add(address)
        return out

    def serves(self, cluster: str) -> set[str]:
        """The addresses of a cluster that are up."""
        return (
            {a for a, w in self._endpoints(cluster).items() if not w.draining} if cluster in self._clusters() else set()
        )

    def _note_drains(self, name: str, doc: Any, at: float) -> None:
        if not name.startswith("eds/"):
            return
        cluster = doc["resources"][0]["cluster_name"]
        for address, written in envoy_config.endpoints_of(doc).items():
            if written.draining:
                first = (cluster, address) not in self._since
                self._since.setdefault((cluster, address), at)
                if first and self.clock.random.random() < 0.5:
                    self._busy[cluster, address] = at + self.clock.random.random() * 3.0
            else:
                self._since.pop((cluster, address), None)

    def _referred(self, documents: Mapping[str, Any]) -> set[str]:
        """The documents that others refer to."""
        names = {envoy_config.endpoint_file_name(c) for c in envoy_config.clusters_of(documents.get("cds.json"))}
        return names | {envoy_config.secret_file_name(s) for s in envoy_config.secrets_in(documents.get("lds.json"))}

    def _clusters(self) -> Mapping[str, bool]:
        return envoy_config.clusters_of(self._accepted.get(envoy_config.CLUSTERS))

    def _endpoints(self, cluster: str) -> dict[str, Written]:
        return envoy_config.endpoints_of(self._accepted.get(envoy_config.endpoint_file_name(cluster)))

    def _hosts(self, cluster: str) -> dict[str, Observed]:
        out: dict[str, Observed] = {}
        for address, written in self._endpoints(cluster).items():
            since = self._since.get((cluster, address))
            seen_for = self._now - since if written.draining and since is not None else None
            out[address] = Observed(seen_for, int(self._busy.get((cluster, address), 0.0) > self._now))
        return out
