"""What a reconciler declared, as quick answers: may it read this kind, own that one, write these fields of another's?

Field paths are dotted as in manifests. `[NAME]` picks one entry of a keyed list (by `type` or `name`) or one key of a map
whose keys have dots: `spec.nodeName`, `status.conditions[Ready]`, `metadata.annotations[example.org/x]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trimtab.api import Resource
from trimtab.runtime.component import FieldWrite, Owned, Reconciler
from trimtab.runtime.context import Undeclared

LIST_KEYS = ("type", "name", "containerPort", "port", "uid", "ip")
"""The fields that key a list's entries in a path, most usual first."""


class Declared:
    """The declarations of one reconciler. Each check raises `Undeclared` with the line to add."""

    def __init__(self, component: str, reconciler: Reconciler[Any]) -> None:
        self.who = f"{component}.{reconciler.name}"
        self.subject: type[Resource] = reconciler.subject
        self.effects = reconciler.effects
        self._family = reconciler.family
        self.owned: dict[type[Resource], Owned] = {owned.kind: owned for owned in reconciler.owns}
        self.writes = {writes.kind: writes.fields for writes in reconciler.writes}
        self.readable = {reconciler.subject, *reconciler.reads, *self.owned, *self.writes}

    @property
    def kinds(self) -> tuple[type[Resource], ...]:
        """Every kind that is watched for it, subject first."""
        ordered = dict.fromkeys([self.subject, *self.owned, *self.writes])
        rest = sorted(self.readable - set(ordered), key=lambda kind: kind.resource_type.kind)
        return (*ordered, *rest)

    def of_family(self, kind: type[Resource]) -> bool:
        """Whether it may be read because of what it derives from."""
        return kind not in self.readable and self._family is not None and issubclass(kind, self._family)

    @property
    def joined(self) -> tuple[type[Resource], ...]:
        """The kinds that nobody but such reconcilers watches: its subject, and views of a part of a kind's objects."""
        return (self.subject, *(kind for kind in self.owned if kind.watched))

    def check_read(self, kind: type[Resource]) -> None:
        if kind not in self.readable and not self.of_family(kind):
            raise Undeclared(f"{self.who} reads {kind.__name__}: add it to reads=[...] of the reconciler")

    def check_owned(self, kind: type[Resource]) -> Owned:
        owned = self.owned.get(kind)
        if owned is None:
            raise Undeclared(f"{self.who} creates {kind.__name__}: add it to owns=[...] of the reconciler")
        return owned

    def check_effects(self) -> None:
        if not self.effects:
            raise Undeclared(f"{self.who} calls ctx.effect: declare effects=True on the reconciler")

    def check_write(self, write: FieldWrite) -> type[Resource]:
        """The kind of the target, once every field of `write` is found declared."""
        meant = (write.target.api_version, write.target.kind)
        # By its place: a component may have a view of its own of another component's kind.
        kind = next((k for k in self.writes if (k.resource_type.api_version, k.resource_type.kind) == meant), None)
        if kind is None:
            raise Undeclared(f"{self.who} writes fields of {write.target.kind}: add it to writes=[Writes(...)]")
        allowed = self.writes[kind]
        for path in field_paths(write.fields):
            if not any(covers(field, path) for field in allowed):
                raise Undeclared(
                    f"{self.who} writes {path} of {write.target.kind}: writes=[...] allows only {', '.join(allowed)}"
                )
            if (path.partition(".")[0] == "status") != (write.subresource == "status"):
                raise Undeclared(f"{self.who} writes {path}: status fields, and only these, need subresource='status'")
        return kind


def covers(allowed: str, path: str) -> bool:
    """Whether a declared path allows writing `path`."""
    return path == allowed or path.startswith((f"{allowed}.", f"{allowed}["))


def field_paths(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of all leaves of a partial object; the entries of keyed lists and dotted map keys as `[NAME]`."""
    for name, value in fields.items():
        path = f"{prefix}[{name}]" if "." in name or "/" in name else (f"{prefix}.{name}" if prefix else name)
        if isinstance(value, Mapping) and value:
            yield from field_paths(value, path)
        elif isinstance(value, list) and value and (key := _list_key(value)):
            for entry in value:
                yield f"{path}[{entry[key]}]"
        else:
            yield path


def _list_key(entries: list[Any]) -> str | None:
    for key in LIST_KEYS:
        if all(isinstance(entry, Mapping) and key in entry for entry in entries):
            return key
    return None
