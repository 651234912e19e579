"""A cluster that begins as a copy: of a frozen cluster with all that is in it, or of an older release's data.

    freeze: stopped, no container left --> its directory stands still
    clone:  store, keys, volumes copied --> networks and paths in objects become the new ones --> pods start as after a reboot
            images, unpacked layers     --> hard links (images.py)

A copy has the authority, the tokens and the objects of what it is a copy of, and an id, networks, ports and a journal of its own.
Addresses are found by their network: both have networks of one size, so each address has one place in the other.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from trimtab.engine import addresses, datadir, lifecycle, planning, privileges
from trimtab.engine.backup.restore import NAMED_PATHS
from trimtab.engine.clusters import images, places
from trimtab.engine.clusters.places import Cluster
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

CONTAINERD_READY_S = 60.0
_OWN = ("log", "programs", "engine.lock", "admin.kubeconfig", "journal", "proxy")
"""What a copy makes for itself."""
_CLONED = ("store", "pki", "volumes", "node/volumes")


# Frozen


def freeze(cluster: Cluster) -> None:
    """Stops a cluster for good, so that others can begin as copies of it.

    Raises:
        EngineError: it has several nodes, or cannot be stopped.
    """
    settings = cluster.settings()
    if settings.nodes:
        raise EngineError(
            f"cluster {cluster.name} has {1 + len(settings.nodes)} nodes; only one with a single node can be frozen"
        )
    if lifecycle.is_anything_left(settings) or lifecycle.supervisor_of(settings) is not None:
        lifecycle.stop(settings, keep_pods=False, say=lambda line: None, timeout_s=planning.STOP_PODS_S)
    if settings.data_path("node", "containerd").is_dir():
        _remove_containers(settings)
    cluster.state = "frozen"
    cluster.save()


def _remove_containers(settings: Settings) -> None:
    """Ended containers still have directories that they wrote to, which must not be shared: they go, images stay."""
    from trimtab.components.node import cleanup, containerd_command
    from trimtab.components.node.cleanup import answers

    with open(settings.data_path("log", "containerd.log"), "ab") as log:
        process = subprocess.Popen(containerd_command(settings), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + CONTAINERD_READY_S
        while not answers(settings):
            if process.poll() is not None or time.monotonic() > deadline:
                raise EngineError(f"containerd does not answer: see {log.name}")
            time.sleep(0.02)
        cleanup(settings)
    finally:
        process.terminate()
        process.wait()


# Copies


def clone(source: Settings, target: Settings) -> Settings:
    """Makes a cluster that never ran a copy of a frozen one; returns its settings."""
    kept = {name: getattr(source, name) for name in ("cluster_domain", "node_lease_s", "node_config", "proxy_protocol")}
    changed = msgspec.structs.replace(target, **kept)
    datadir.save(changed)
    images.clone(source, changed)
    images.copy_content(source, changed)
    for name in _CLONED:
        if (old := source.data_path(name)).exists():
            images.copy(changed.data_path(), old, changed.data_path(name))
    _make_fit(source, changed)
    return changed


def take_over(home: Path, cluster: Cluster, source: Path) -> None:
    """Makes a cluster that never ran a copy of an engine's data. Its networks stay, as they were; id and ports are new.

    Raises:
        EngineError: that engine runs, or its networks are in use.
    """
    old, new = datadir.load(source), cluster.settings()
    if lifecycle.supervisor_of(old) is not None:
        raise EngineError(f"{source}: the engine there runs: stop it first, or give a copy of its data")
    wanted = [addresses.Network(old.cluster), addresses.Network(old.service_cidr)]
    with places.locked(home):
        for other in places.all_of(home):
            if other.name != cluster.name and _overlap(wanted, _networks(other.settings())):
                raise EngineError(
                    f"{source}: cluster {other.name} has the networks that its objects name: one at a time can be made of it"
                )
        if _overlap(wanted, [*addresses.routed_networks(), *datadir.networks_of_others()]):
            raise EngineError(
                f"{source}: the networks that its objects name are in use on this machine (see `ip route`)"
            )
        kept = {
            name: getattr(old, name)
            for name in ("cluster_cidr", "pod_cidr", "service_cidr", "cluster_domain", "nodes", "node_config")
        }
        changed = msgspec.structs.replace(new, **kept)
        datadir.save(changed)
    for entry in source.iterdir():
        if not entry.name.startswith(datadir.SETTINGS) and entry.name not in _OWN:
            images.copy(cluster.data, entry, cluster.data / entry.name)
    _make_fit(old, changed)


def _networks(settings: Settings) -> list[addresses.Network]:
    return [addresses.Network(settings.cluster), addresses.Network(settings.service_cidr)]


def _overlap(some: Iterable[addresses.Network], others: Sequence[addresses.Network]) -> bool:
    return any(a.overlaps(b) for a in some for b in others)


def _make_fit(old: Settings, new: Settings) -> None:
    """Paths and addresses in objects become those of the new place."""
    from trimtab.store import begin_anew

    store = new.data_path("store", "store.sqlite")
    if not store.exists():
        return
    begin_anew(store, change(old, new))
    uid, gid = privileges.ids_of(new.user)
    for path in store.parent.iterdir():
        os.chown(path, uid, gid)


def change(old: Settings, new: Settings) -> Callable[[str, bytes], bytes | None]:
    """What makes of an object's JSON that of the new place; None where nothing in it speaks of the old one."""
    path = re.compile(rb'(?<=")' + re.escape(f"{old.data}/".encode()))
    there = f"{new.data}/".encode()
    moves = [
        (addresses.Network(a), addresses.Network(b))
        for a, b in ((old.cluster, new.cluster), (old.service_cidr, new.service_cidr))
        if a != b
    ]
    address = re.compile(rb"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w.-])")

    def moved(match: re.Match[bytes]) -> bytes:
        try:
            found = addresses.Network(match[0].decode())
        except ValueError:
            return match[0]
        for before, after in moves:
            if found.subnet_of(before):
                offset = int(found.network_address) - int(before.network_address)
                return str(after.network_address + offset).encode()
        return match[0]

    def apply(key: str, value: bytes) -> bytes | None:
        out = path.sub(lambda _: there, value) if key.startswith(NAMED_PATHS) else value
        if moves:
            out = address.sub(moved, out)
        return out if out != value else None

    return apply
