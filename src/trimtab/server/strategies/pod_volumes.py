"""What Kubernetes refuses in volumes that show objects of the API as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from trimtab.api import JSON
from trimtab.server.errors import Cause

FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
"""What of a pod a file can show: it follows them, and nothing else of a pod changes so."""
MODE_MAX = 0o777
TOKEN_S_MIN, TOKEN_S_MAX = 600, 2**32


def volume_problems(spec: JSON, path: str) -> Iterator[Cause]:
    """What is wrong; `path` is that of the spec."""
    for index, volume in enumerate(spec.get("volumes") or ()):
        at = f"{path}.volumes[{index}]"
        for kind in ("configMap", "secret", "downwardAPI", "projected"):
            source = volume.get(kind)
            if isinstance(source, dict):
                yield from _mode(source.get("defaultMode"), f"{at}.{kind}.defaultMode")
                if kind != "projected":
                    yield from _items(source, f"{at}.{kind}", downward=kind == "downwardAPI")
        yield from _projected(volume.get("projected") or {}, f"{at}.projected")


def _projected(volume: JSON, at: str) -> Iterator[Cause]:
    taken: dict[str, str] = {}
    for index, source in enumerate(volume.get("sources") or ()):
        here = f"{at}.sources[{index}]"
        if sum(value is not None for value in source.values()) > 1:
            yield Cause(here, "Forbidden: may not specify more than 1 volume type", "FieldValueForbidden")
        for kind in ("configMap", "secret", "downwardAPI"):
            if source.get(kind):
                yield from _items(source[kind], f"{here}.{kind}", downward=kind == "downwardAPI")
        token = source.get("serviceAccountToken")
        if token is not None:
            seconds = token.get("expirationSeconds")
            if seconds is not None and not TOKEN_S_MIN <= seconds <= TOKEN_S_MAX:
                text = "may not specify a duration less than 10 minutes or larger than 2^32 seconds"
                yield Cause(f"{here}.serviceAccountToken.expirationSeconds", f"Invalid value: {seconds}: {text}")
            yield from _path(token.get("path"), f"{here}.serviceAccountToken.path")
        for where in _paths(source):
            if where in taken:
                text = f'Invalid value: "{where}": conflicting duplicate paths with {taken[where]}'
                yield Cause(f"{here}.path", text)
            taken[where] = here


def _paths(source: JSON) -> Iterator[str]:
    token = source.get("serviceAccountToken") or {}
    if token.get("path"):
        yield token["path"]
    for kind in ("configMap", "secret", "downwardAPI"):
        for item in (source.get(kind) or {}).get("items") or ():
            if item.get("path"):
                yield item["path"]


def _items(source: JSON, at: str, *, downward: bool) -> Iterator[Cause]:
    for index, item in enumerate(source.get("items") or ()):
        here = f"{at}.items[{index}]"
        yield from _path(item.get("path"), f"{here}.path")
        yield from _mode(item.get("mode"), f"{here}.mode")
        if not downward:
            continue
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if (field is None) == (resource is None):
            yield Cause(
                here, "Required value: must specify one of: fieldRef and resourceFieldRef", "FieldValueRequired"
            )
        elif field is not None:
            name = field.get("fieldPath") or ""
            if name not in FIELDS and not _keyed(name):
                known = ", ".join(f'"{one}"' for one in FIELDS)
                text = f'Unsupported value: "{name}": supported values: {known}'
                yield Cause(f"{here}.fieldRef.fieldPath", text, "FieldValueNotSupported")
        elif not resource.get("containerName"):
            yield Cause(f"{here}.resourceFieldRef.containerName", "Required value", "FieldValueRequired")


def _keyed(name: str) -> bool:
    """`metadata.labels['a']`."""
    return name.endswith("']") and name.startswith(("metadata.labels['", "metadata.annotations['"))


def _path(path: Any, at: str) -> Iterator[Cause]:
    if not path:
        yield Cause(at, "Required value", "FieldValueRequired")
    elif PurePosixPath(path).is_absolute():
        yield Cause(at, f'Invalid value: "{path}": must be a relative path')
    elif ".." in PurePosixPath(path).parts:
        yield Cause(at, f"Invalid value: \"{path}\": must not contain '..'")
    elif path.startswith(".."):
        yield Cause(at, f"Invalid value: \"{path}\": must not start with '..'")


def _mode(mode: Any, at: str) -> Iterator[Cause]:
    if mode is not None and not 0 <= mode <= MODE_MAX:
        yield Cause(at, f"Invalid value: {mode}: must be a number between 0 and 0777 (octal), both inclusive")
