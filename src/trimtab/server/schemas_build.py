"""Builds the index of built-in definitions that `schemas.py` reads: run once by `make setup`.

The published OpenAPI definitions of Kubernetes come in the wheel `kubernetes-validate` (a build dependency; one file of
it is read, nothing of it is imported). They become two files of records, one after the other: `shapes` holds what
validation, defaulting and apply need, as plain JSON; `texts` holds the whole definition with its descriptions, deflated,
for `/openapi/v3`. `index.json` says where each record lies and which definition each kind is. A server that touches ten
kinds reads a few hundred records and never parses the rest.

    python -m trimtab.server.schemas_build [VERSION]
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

JSON = dict[str, Any]

WHEEL = "kubernetes-validate"
HERE = Path(__file__).parent / "schemas"
_SOURCE = re.compile(r"kubernetes-json-schema/v(\d+\.\d+\.\d+)-local/_definitions\.json$")
_DROPPED = ("description", "x-kubernetes-unions")


def sources() -> dict[str, Path]:
    """The versions of Kubernetes that the installed wheel has definitions of.

    Raises:
        SystemExit: the wheel is not installed.
    """
    try:
        distribution = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        raise SystemExit(f"schemas_build: package {WHEEL} is not installed; run `make setup`") from None
    found = {}
    for file in distribution.files or []:
        match = _SOURCE.search(file.as_posix())
        if match:
            found[match[1]] = Path(str(distribution.locate_file(file)))
    return found


def shape(schema: JSON) -> JSON:
    """A definition without what only a reader needs."""
    out: JSON = {}
    for key, value in schema.items():
        if key in _DROPPED:
            continue
        if key == "properties":
            out[key] = {name: shape(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = shape(value)
        elif key == "$ref":
            out[key] = value.rpartition("/")[2]
        elif key == "x-kubernetes-group-version-kind" and len(value) > 1:
            continue  # options shared by all groups: no kind of their own
        else:
            out[key] = value
    return out


def zeros() -> dict[str, JSON]:
    """What a Go struct makes of fields that are not set, from `go_zeros.txt`: for each definition the names that vanish when they
    are zero (`drops`), the structs that are always there (`structs`), and what the rest is then written as (`zeros`)."""
    found = {}
    for line in (Path(__file__).parent / "go_zeros.txt").read_text().splitlines():
        name, *words = line.split()
        if name == "#":
            continue
        pairs = [word.partition("=") for word in words if not word.startswith("-")]
        found[name] = {
            "drops": [word[1:] for word in words if word.startswith("-")],
            "structs": [field for field, _, zero in pairs if zero == "{}"],
            "zeros": {field: json.loads(zero) for field, _, zero in pairs if zero != "{}"},
        }
    return found


def kinds(definitions: JSON) -> Iterator[tuple[str, str]]:
    """(`apps/v1/Deployment`, definition) of every kind that is one definition alone."""
    for name, definition in definitions.items():
        gvks = definition.get("x-kubernetes-group-version-kind", [])
        if len(gvks) == 1:
            gvk = gvks[0]
            api_version = f"{gvk['group']}/{gvk['version']}" if gvk["group"] else gvk["version"]
            yield f"{api_version}/{gvk['kind']}", name


def build(version: str | None = None, to: Path = HERE) -> str:
    """Writes the index of one version of Kubernetes (the newest when None) and returns the version."""
    found = sources()
    if version is None and found:
        version = max(found, key=lambda v: tuple(map(int, v.split("."))))
    if version is None or version not in found:
        known = ", ".join(sorted(found)) or "none"
        raise SystemExit(f"schemas_build: {WHEEL} has no definitions of Kubernetes {version}; it has {known}")
    definitions: JSON = json.loads(found[version].read_bytes())["$defs"]
    shapes, texts, where = bytearray(), bytearray(), {}
    unset = zeros()
    for name, definition in definitions.items():
        small = json.dumps(shape(definition) | unset.get(name, {}), separators=(",", ":")).encode()
        whole = zlib.compress(json.dumps(definition, separators=(",", ":")).encode(), 6)
        where[name] = [len(shapes), len(small), len(texts), len(whole)]
        shapes += small
        texts += whole
    index = {"version": version, "kinds": dict(kinds(definitions)), "definitions": where}
    to.mkdir(parents=True, exist_ok=True)
    for file, content in (
        ("shapes", bytes(shapes)),
        ("texts", bytes(texts)),
        ("index.json", json.dumps(index, separators=(",", ":")).encode()),
    ):
        partial = to / f"{file}.partial"
        partial.write_bytes(content)
        partial.replace(to / file)
    return version


def main(argv: list[str]) -> None:
    version = build(argv[0] if argv else None)
    size = sum(file.stat().st_size for file in HERE.iterdir())
    print(f"built-in schemas of Kubernetes {version}: {size // 1024} kB in {HERE}")


if __name__ == "__main__":
    main(sys.argv[1:])
