"""`/metrics`: what is counted of requests (`metrics.py`), what is stored, and what the process uses."""

from __future__ import annotations

import os
import resource
import time
from typing import TYPE_CHECKING

from trimtab.server.discovery import version_info
from trimtab.server.metrics import Labels, family, gauges

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def figures(server: ApiServer) -> bytes:
    """The whole page, in Prometheus' text format."""
    lines = [*server.metrics.requests(), *_stored(server), *_built(), *_process()]
    return ("\n".join(lines) + "\n").encode()


def _stored(server: ApiServer) -> list[str]:
    counts: dict[tuple[str, str], int] = {}
    for kind in server.registry:
        if "list" in kind.verbs and not kind.stored_group:
            counts[kind.group, kind.plural] = server.store.count(kind.collection)
    split: list[tuple[Labels, float]] = [
        ((("group", group), ("resource", plural)), count) for (group, plural), count in sorted(counts.items())
    ]
    joined: list[tuple[Labels, float]] = [
        ((("resource", f"{plural}.{group}" if group else plural),), count)
        for (group, plural), count in sorted(counts.items())
    ]
    store = server.store
    return [
        *family("apiserver_resource_objects", "gauge", "Stored objects by resource.", split),
        *family("apiserver_storage_objects", "gauge", "The same under its older name.", joined),
        *family(
            "apiserver_storage_size_bytes",
            "gauge",
            "Size of the database's files.",
            [((("storage_cluster_id", "sqlite"),), store.size_bytes())],
        ),
        *gauges(
            {
                "trimtab_store_revision": ("The last committed revision.", store.revision),
                "trimtab_store_compacted_revision": ("History begins after this revision.", store.compacted),
                "trimtab_store_objects": ("Live objects.", len(store)),
            }
        ),
    ]


def _built() -> list[str]:
    info = version_info()
    named = {
        "major": "major",
        "minor": "minor",
        "git_version": "gitVersion",
        "compiler": "compiler",
        "platform": "platform",
    }
    labels = tuple((label, info[key]) for label, key in named.items())
    return family("kubernetes_build_info", "gauge", "The Kubernetes that is served, and what serves it.", [(labels, 1)])


def _process() -> list[str]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/statm") as file:
        virtual, resident = (int(part) * pages for part in file.read().split()[:2])
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        booted = time.time() - float(file.read().split()[0])
    return gauges(
        {
            "process_cpu_seconds_total": ("User and system time.", used.ru_utime + used.ru_stime),
            "process_start_time_seconds": (
                "Start of the process, in Unix seconds.",
                round(booted + ticks / os.sysconf("SC_CLK_TCK"), 2),
            ),
            "process_resident_memory_bytes": ("Memory of the process.", resident),
            "process_virtual_memory_bytes": ("Address space of the process.", virtual),
            "process_open_fds": ("Open file descriptors.", len(os.listdir("/proc/self/fd"))),
            "process_max_fds": ("The most that may be open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        }
    )
