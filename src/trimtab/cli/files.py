"""Reading manifests: files, directories, standard input; YAML of many documents, JSON, Lists."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.api import JSON
from trimtab.engine.errors import EngineError

SUFFIXES = (".yaml", ".yml", ".json")


def manifests(paths: Sequence[str]) -> list[tuple[str, JSON]]:
    """Every object in the files, with where it stands (`web.yaml, document 2`).

    Raises:
        EngineError: a file is missing, is no YAML, or a document is no object; names file, place and fix.
    """
    found = []
    for path in paths:
        for where, text in _texts(path):
            found += list(_objects(where, text))
    if not found:
        raise EngineError(f"there is no object in {', '.join(paths)}")
    return found


def _texts(path: str) -> Iterator[tuple[str, str]]:
    if path == "-":
        yield "standard input", sys.stdin.read()
        return
    directory = Path(path)
    files = sorted(p for p in directory.iterdir() if p.suffix in SUFFIXES) if directory.is_dir() else [directory]
    if not files:
        app = f"; of the app in it: trimtab up {path} --print" if (directory / "ship.py").is_file() else ""
        raise EngineError(f"{path} holds no file that ends in {', '.join(SUFFIXES)}{app}")
    for file in files:
        try:
            yield str(file), file.read_text()
        except UnicodeDecodeError:
            raise EngineError(f"{file} is no text: give a YAML or JSON file") from None
        except OSError as err:
            raise EngineError(f"{file} cannot be read: {err.strerror}") from None


def _objects(where: str, text: str) -> Iterator[tuple[str, JSON]]:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        documents = list(yaml.load_all(text, loader))
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise EngineError(f"{where}{place}: {getattr(err, 'problem', None) or err}") from None
    for number, document in enumerate(documents, 1):
        if document is None:
            continue
        place = f"{where}, document {number}" if len(documents) > 1 else where
        if not isinstance(document, dict):
            raise EngineError(
                f"{place}: an object (apiVersion, kind, metadata) is expected, not {type(document).__name__}"
            )
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            for index, item in enumerate(document["items"]):
                yield _checked(f"{place}, items[{index}]", item)
        else:
            yield _checked(place, document)


def _checked(place: str, obj: Any) -> tuple[str, JSON]:
    for field in ("apiVersion", "kind"):
        if not isinstance(obj, dict) or not isinstance(obj.get(field), str):
            raise EngineError(f"{place}: {field} is missing")
    meta = obj.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        raise EngineError(f"{place}: metadata.name is missing")
    return place, obj
