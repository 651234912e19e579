"""Where throw-away clusters are, and what is written down about each.

    HOME/NAME/cluster.json    the record: lease, variant, who watches over it; there before anything is started
    HOME/NAME/data/           the engine's data directory, with networks and ports that nobody else has
    HOME/NAME/kubeconfig      for kubectl; its context is called NAME
    HOME/.images/             the images that all of them share, by hard links

Whoever was killed at whatever moment: a cluster has a record or it has nothing at all. Networks and ports are given out under
one lock, and those of every recorded cluster count as taken, whether it runs yet or not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.engine import addresses, datadir, procfs
from trimtab.engine.clusters import leases
from trimtab.engine.errors import EngineError, NotFound
from trimtab.engine.plan import read_json, write_json
from trimtab.runtime.settings import Settings

RECORD, DATA, KUBECONFIG = "cluster.json", "data", "kubeconfig"
IMAGES = ".images"
CLUSTERS_MAX = 64
"""More have no room on one machine: each takes some 200 MB of memory."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")
_PORTS = (20_000, 30_000)
"""Below what Linux gives out by itself (32768 and up), above the usual ports, beside NodePorts' 30000-32767."""


class Cluster:
    """One throw-away cluster. state: making, ready, frozen (stopped, for others to start from) or deleting."""

    __slots__ = ("home", "lease", "made_s", "name", "state", "variant", "warden")

    def __init__(self, home: Path, name: str, doc: dict[str, Any]) -> None:
        self.home = home
        self.name = name
        self.state: str = doc["state"]
        self.made_s: float = doc["made_s"]
        self.variant: str | None = doc.get("variant")
        self.lease = leases.from_json(doc["lease"])
        self.warden: list[int] | None = doc.get("warden")

    @property
    def directory(self) -> Path:
        return self.home / self.name

    @property
    def data(self) -> Path:
        return self.directory / DATA

    @property
    def kubeconfig(self) -> Path:
        return self.directory / KUBECONFIG

    def is_over(self) -> bool:
        """Whether nobody wants it any more: its lease has ended, or its removal had begun."""
        return self.state == "deleting" or self.lease.is_over()

    def settings(self) -> Settings:
        return datadir.load(self.data)

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "made_s": self.made_s,
            "variant": self.variant,
            "lease": self.lease.as_json(),
            "warden": self.warden,
        }

    def save(self) -> None:
        write_json(str(self.directory / RECORD), self.as_json(), 0o644)


def all_of(home: Path) -> list[Cluster]:
    """Every cluster that is recorded, by name."""
    found = []
    for path in sorted(home.glob(f"*/{RECORD}")):
        if not path.parent.name.startswith(".") and (one := _read(home, path.parent.name)) is not None:
            found.append(one)
    return found


def get(home: Path, name: str) -> Cluster:
    """Raises NotFound."""
    if (found := _read(home, name)) is None:
        known = ", ".join(one.name for one in all_of(home)) or "none"
        raise NotFound(f"there is no cluster {name!r} in {home}; there are: {known}")
    return found


def _read(home: Path, name: str) -> Cluster | None:
    doc = read_json(str(home / name / RECORD))
    return Cluster(home, name, doc) if isinstance(doc, dict) else None


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """One command at a time gives out names, networks and ports here; the kernel frees the lock of one that was killed."""
    handle = _lock(home)
    while not _is(handle, home):  # who had it before us has deleted the directory
        os.close(handle)
        handle = _lock(home)
    try:
        yield
    finally:
        os.close(handle)


def _lock(home: Path) -> int:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o755)
        handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileExistsError, NotADirectoryError):
        raise EngineError(f"{home} is a file: give a directory as --clusters") from None
    except OSError as err:
        raise datadir.disk_error(home, err) from None
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def _is(handle: int, path: Path) -> bool:
    """Whether the path still leads to what is open."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def forget_home(home: Path) -> None:
    """Removes what is shared by clusters that are all gone."""
    with locked(home):
        if not all_of(home):
            shutil.rmtree(home)


def reserve(
    home: Path, prefixes: Sequence[tuple[str, str | None, dict[str, Any]]], lease: leases.Lease, *, numbered: bool
) -> list[Cluster]:
    """Makes a place for each of these clusters: (prefix of its name, its variant's name, settings). Nothing runs yet.

    numbered: names are `PREFIX-1`, `PREFIX-2` ...; else the prefix is the name.

    Raises:
        EngineError: a name is taken or is none, there are too many, no network is free, the disk is full.
    """
    with locked(home):
        for leftover in home.glob(
            ".new-*"
        ):  # of one that was killed while it wrote a record: nothing else exists of it
            shutil.rmtree(leftover)
        there = all_of(home)
        if len(there) + len(prefixes) > CLUSTERS_MAX:
            raise EngineError(
                f"{len(there)} clusters are in {home} already, and {CLUSTERS_MAX} is the most: delete some with `trimtab cluster delete`"
            )
        taken = {one.name for one in there}
        used = [one.settings() for one in there if (one.data / datadir.SETTINGS).exists()]
        made: list[Cluster] = []
        try:
            for prefix, variant, chosen in prefixes:
                name = _free_name(prefix, taken, numbered=numbered)
                taken.add(name)
                doc = {"state": "making", "made_s": time.time(), "variant": variant, "lease": lease.as_json()}
                one = _make_place(home, name, doc, chosen, used)
                made.append(one)
                used.append(one.settings())
        except BaseException:
            for one in made:
                shutil.rmtree(one.directory)
            raise
        return made


def _free_name(prefix: str, taken: set[str], *, numbered: bool) -> str:
    if _NAME.fullmatch(prefix) is None:
        raise EngineError(f"{prefix!r} is no name for a cluster: lower-case letters, digits and '-', up to 52")
    if not numbered:
        if prefix in taken:
            raise EngineError(f"there is a cluster {prefix!r} already: delete it, or choose another --name")
        return prefix
    return next(name for n in range(1, len(taken) + 2) if (name := f"{prefix}-{n}") not in taken)


def _make_place(
    home: Path, name: str, doc: dict[str, Any], chosen: dict[str, Any], used: Sequence[Settings]
) -> Cluster:
    new = home / f".new-{name}"
    new.mkdir(mode=0o755)
    seed = secrets.token_hex(8)
    others = [addresses.Network(cidr) for one in used for cidr in (one.cluster, one.service_cidr)]
    taken = [*addresses.routed_networks(), *datadir.networks_of_others(), *others]
    pods, services = addresses.choose_networks(seed, taken)
    networks = {
        "cluster_cidr": pods,
        "pod_cidr": str(next(addresses.Network(pods).subnets(new_prefix=24))),
        "service_cidr": services,
    }
    write_json(str(new / RECORD), doc, 0o644)
    new.rename(home / name)
    one = Cluster(home, name, doc)
    datadir.create(one.data, {**networks, **_free_ports(used), **chosen})
    return one


def _free_ports(used: Sequence[Settings]) -> dict[str, int]:
    avoid = {getattr(one, name) for one in used for name in datadir.PORTS}
    ports: dict[str, int] = {}
    first, last = _PORTS
    port = first + secrets.randbelow(last - first)
    for name in datadir.PORTS:
        for _ in range(last - first):
            port = first + (port + 1 - first) % (last - first)
            if port not in avoid and addresses.port_is_free("127.0.0.1", port):
                break
        else:
            raise EngineError(f"no port from {first} to {last} is free")
        ports[name] = port
    return ports


def is_running(cluster: Cluster) -> bool:
    """Whether its engine's supervisor lives."""
    from trimtab.engine.lifecycle import supervisor_of

    with contextlib.suppress(EngineError):
        return supervisor_of(cluster.settings()) is not None
    return False


def describe(cluster: Cluster) -> dict[str, Any]:
    """What `list` and `create` say of a cluster, for programs."""
    state = "over" if cluster.is_over() else cluster.state
    if state == "ready" and not is_running(cluster):
        state = "stopped"
    try:
        settings = cluster.settings()
    except EngineError:
        return {"name": cluster.name, "state": state, "data": str(cluster.data)}
    owner = cluster.lease.owner
    return {
        "name": cluster.name,
        "state": state,
        "id": settings.id,
        "variant": cluster.variant,
        "server": f"https://{settings.listen}:{settings.api_port}",
        "http": f"http://{settings.listen}:{settings.http_port}",
        "https": f"https://{settings.listen}:{settings.https_port}",
        "dashboard": f"http://{settings.listen}:{settings.web_port}",
        "kubeconfig": str(cluster.kubeconfig),
        "context": cluster.name,
        "data": str(cluster.data),
        "nodes": 1 + len(settings.nodes),
        "made": _utc(cluster.made_s),
        "owner_pid": owner.pid if owner else None,
        "owner": procfs.command_name(owner.pid) if owner and not cluster.lease.is_over() else None,
        "until": None if cluster.lease.until_s is None else _utc(cluster.lease.until_s),
    }


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def write_kubeconfig(cluster: Cluster) -> None:
    """Writes the administrator's kubeconfig (0600) with the cluster's own name for its context."""
    from trimtab.client.kubeconfig import kubeconfig_text
    from trimtab.engine.access import cluster_access

    settings = cluster.settings()
    access = cluster_access(settings)
    access.token = settings.data_path("pki", "admin.token").read_text().strip()
    text = kubeconfig_text(cluster.name, "", access)
    temporary = cluster.kubeconfig.with_name(f"{KUBECONFIG}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(cluster.kubeconfig)
