"""`trimtab.lock`: what the names of images stand for, so that tomorrow's run is today's.

    {"version": 1, "images": {"python:3.11-slim": "sha256:...", "debian:git,make": "sha256:..."}}

It lies beside `ship.py` and belongs into version control. A reference stands for the digest that its registry gave; a list of
Debian packages for the digest of the image that was built of the versions of that day. Cache keys have the digest, never the
name. Resolving is `images`' work; here is only the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from trimtab.ci.definition.graph import Graph
from trimtab.ci.definition.site import DefinitionError, Site
from trimtab.ci.definition.values import Base

NAME = "trimtab.lock"
VERSION = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def bases(graph: Graph) -> dict[str, Base]:
    """The images that a graph starts from, its services' included, by name."""
    found: dict[str, Base] = {}
    for step in graph.steps.values():
        for container in (step.container, *(service.container for _, service in step.container.services)):
            if not container.base.is_nothing:
                found.setdefault(str(container.base), container.base)
    return found


def read(project: Path) -> dict[str, str]:
    """By name the digests of a project's lock; empty when there is none. Raises `DefinitionError`, at its line."""
    path = project / NAME
    try:
        doc = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as err:
        raise DefinitionError(f"cannot be read: {err}", Site(str(path), 1)) from None
    except json.JSONDecodeError as err:
        fix = "is no JSON; take it back from version control, or remove it and run `trimtab ci lock`"
        raise DefinitionError(f"{fix} ({err.msg})", Site(str(path), err.lineno)) from None
    if not isinstance(doc, dict) or doc.get("version") != VERSION or not isinstance(doc.get("images"), dict):
        raise DefinitionError(f"is not of version {VERSION}; a later trimtab may have written it", Site(str(path), 1))
    for name, digest in doc["images"].items():
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise DefinitionError(
                f"the digest of {name} is {digest!r}, not sha256:...; run `trimtab ci lock`", Site(str(path), 1)
            )
    return dict(doc["images"])


def missing(wanted: Iterable[str], locked: Mapping[str, str]) -> list[str]:
    """The names that have no digest yet; a reference by digest needs none."""
    return [name for name in wanted if name not in locked and pinned(name) is None]


def pinned(name: str) -> str | None:
    """The digest that a reference has in itself."""
    digest = name.partition("@")[2]
    return digest if _DIGEST.fullmatch(digest) else None


def digests(wanted: Iterable[str], locked: Mapping[str, str]) -> dict[str, str]:
    """By name what it stands for; names that are `missing` are left out."""
    found = {name: pinned(name) or locked.get(name) for name in wanted}
    return {name: digest for name, digest in found.items() if digest is not None}


def write(project: Path, images: Mapping[str, str]) -> bool:
    """Writes a project's lock, whole or not at all. Returns whether it has changed; an unchanged one is not touched."""
    path = project / NAME
    text = json.dumps({"version": VERSION, "images": dict(sorted(images.items()))}, indent=2) + "\n"
    if path.exists() and path.read_text() == text:
        return False
    temporary = path.with_name(f".{NAME}-{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
