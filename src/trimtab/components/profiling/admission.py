"""Checks on writes of a Profiler: what could never be followed is refused when it is written."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from trimtab.api import JSON
from trimtab.components.profiling.kinds import DEFAULT
from trimtab.components.profiling.terms import seconds, size_bytes
from trimtab.runtime import Denied

RETENTION_MIN_S = 3600
"""The store forgets by the hour."""
DISK_BYTES_MIN = 64 << 20
MEMORY_BYTES_MIN = 64 << 20
"""The agent with the tables of a small machine."""
INTERVAL_MIN_S = 10


def check_profiler(new: JSON, old: JSON | None) -> list[str]:
    """Retention, amounts, addresses. Warns of a name that nothing acts on."""
    spec, name = new.get("spec") or {}, new["metadata"].get("name", "")
    if _seconds(spec.get("retention", "14d"), "spec.retention") < RETENTION_MIN_S:
        raise Denied(
            "spec.retention", f"{spec['retention']!r} is less than the hour that profiles are kept by: write 1h or more"
        )
    _size(spec.get("maxDisk", "10Gi"), "spec.maxDisk", DISK_BYTES_MIN)
    _size((spec.get("budget") or {}).get("memory", "150Mi"), "spec.budget.memory", MEMORY_BYTES_MIN)
    debuginfod = spec.get("debuginfod") or {}
    for index, url in enumerate(debuginfod.get("urls") or ()):
        _url(url, f"spec.debuginfod.urls[{index}]", "https://debuginfod.debian.net")
    if listen := debuginfod.get("listen", ""):
        _loopback(listen)
    for index, scrape in enumerate(spec.get("scrape") or ()):
        field = f"spec.scrape[{index}]"
        _url(scrape.get("url", ""), f"{field}.url", "http://10.0.0.7:6060/debug/pprof/heap")
        if _seconds(scrape.get("interval", "60s"), f"{field}.interval") < INTERVAL_MIN_S:
            raise Denied(f"{field}.interval", f"{scrape['interval']!r} is too often: write {INTERVAL_MIN_S}s or more")
    if name and name != DEFAULT:
        return [f"the Profiler {name} does nothing: the one named {DEFAULT} acts"]
    return []


def _seconds(text: str, field: str) -> int:
    try:
        return seconds(text)
    except ValueError as err:
        raise Denied(field, str(err)) from None


def _size(text: str, field: str, least: int) -> None:
    try:
        found = size_bytes(text)
    except ValueError as err:
        raise Denied(field, str(err)) from None
    if found < least:
        raise Denied(field, f"{text!r} is too little: write {least >> 20}Mi or more")


def _url(text: str, field: str, example: str) -> None:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise Denied(field, f"{text!r} is no http:// or https:// URL: write one like {example}")


def _loopback(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    try:
        valid = ipaddress.ip_address(host.strip("[]")).is_loopback and 0 < int(port) < 65536
    except ValueError:
        valid = False
    if not valid:
        raise Denied("spec.debuginfod.listen", f"{listen!r} is no address on loopback: write one like 127.0.0.1:8002")
