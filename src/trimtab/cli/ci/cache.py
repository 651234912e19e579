"""`trimtab ci cache`: what the cache of this machine holds, and `trimtab ci cache prune`, which makes room."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.cache.evict import AGE_S_MAX, limit_bytes, prune
from trimtab.ci.cache.index import CacheError, Index, state_directory
from trimtab.ci.cache.local import LocalCache
from trimtab.ci.cache.why import ago
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.definition.values import duration_s, size_bytes
from trimtab.ci.runs.ports import EngineFault
from trimtab.cli.ci import FAILED, GREEN


def cache(arguments: list[str]) -> int:
    """Says what the cache holds, or makes room in it."""
    chosen = _parser().parse_args(arguments)
    try:
        index = Index(state_directory())
    except CacheError as err:
        raise EngineFault(str(err)) from None
    try:
        held = LocalCache(index, Blobs(index.directory))
        doc = _prune(held, chosen) if chosen.command == "prune" else _report(held)
    finally:
        index.close()
    if chosen.output == "json":
        print(json.dumps(doc, indent=2))
    elif chosen.command == "prune":
        print(_pruned(doc))
    else:
        print(_shown(doc))
    return FAILED if doc.get("busy") else GREEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trimtab ci cache", description="What the cache holds, and making room in it."
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    commands = parser.add_subparsers(dest="command")
    down = commands.add_parser("prune", help="Remove what is worth least, and what nothing refers to.")
    down.add_argument("-o", "--output", choices=["text", "json"], default="text")
    down.add_argument("--size", type=_size, help="How much may be left: 500Mi, 20Gi. Default: the cache's limit.")
    down.add_argument("--unused", type=_age, default=AGE_S_MAX, help="Also remove what was not used for so long: 24h.")
    return parser


def _size(text: str) -> int:
    try:
        return 0 if text == "0" else size_bytes(int(text) if text.isdecimal() else text, "--size")
    except DefinitionError as err:
        raise argparse.ArgumentTypeError(err.message) from None


def _age(text: str) -> float:
    try:
        return duration_s(float(text) if text.isdecimal() else text, "--unused")
    except DefinitionError as err:
        raise argparse.ArgumentTypeError(err.message) from None


def _report(cache: LocalCache) -> dict[str, object]:
    [(records, seconds)] = cache.index.rows("select count(*), coalesce(sum(seconds * (uses - 1)), 0) from results")
    volumes = cache.index.rows("select name, bytes, made from volumes order by name")
    gone = cache.index.rows("select step, reason, at from tombstones order by at desc limit 5")
    sizes = cache.blobs.sizes()
    return {
        "directory": cache.blobs.directory,
        "bytes": sum(sizes.values()),
        "limitBytes": limit_bytes(cache.blobs.directory),
        "blobs": len(sizes),
        "records": records,
        "savedSeconds": round(seconds, 3),
        "volumes": [{"name": name, "bytes": size, "made": made} for name, size, made in volumes],
        "gone": [{"step": step, "reason": reason, "at": at} for step, reason, at in gone],
    }


def _prune(cache: LocalCache, chosen: argparse.Namespace) -> dict[str, object]:
    limit = limit_bytes(cache.blobs.directory) if chosen.size is None else chosen.size
    pruned = prune(cache, limit, age_s=chosen.unused).as_json()
    from trimtab.ci.sandbox.roots import UNUSED_S_MAX, forget

    return {
        **pruned,
        "unpacked_bytes": forget(Path(cache.blobs.directory), cache.blobs, min(chosen.unused, UNUSED_S_MAX)),
    }


def _shown(doc: dict[str, object]) -> str:
    lines = [
        f"{doc['directory']}: {_bytes(doc['bytes'])} of {_bytes(doc['limitBytes'])}",
        f"{doc['records']} results, {doc['blobs']} blobs (images included)",
    ]
    for volume in doc["volumes"]:  # type: ignore[attr-defined]
        lines.append(f"volume {volume['name']}: {_bytes(volume['bytes'])}, of {ago(time.time() - volume['made'])} ago")
    for one in doc["gone"]:  # type: ignore[attr-defined]
        lines.append(f"gone {ago(time.time() - one['at'])} ago: {one['step']}, {one['reason']}")
    return "\n".join(lines)


def _pruned(doc: dict[str, object]) -> str:
    if doc["busy"]:
        return "nothing was removed: a run is under way; try again after it"
    said = (
        f"removed {doc['records']} results, {doc['volumes']} volumes and {doc['blobs']} blobs ({_bytes(doc['bytes'])})"
    )
    if doc["unpacked_bytes"]:
        said += f" and unpacked images ({_bytes(doc['unpacked_bytes'])})"
    return f"{said}; {_bytes(doc['left_bytes'])} are left"


def _bytes(value: object) -> str:
    size = float(str(value))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
