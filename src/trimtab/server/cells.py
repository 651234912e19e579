"""What the cells of many kinds have in common, read from an object."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from trimtab.api import JSON
from trimtab.api.selector import selector_text
from trimtab.server.selectors import selector_of
from trimtab.server.tables import age

NONE = "<none>"


def name_of(obj: JSON) -> str:
    """Its name."""
    return str(obj["metadata"].get("name", ""))


def age_of(obj: JSON, now: datetime) -> str:
    """How old it is."""
    return age(obj["metadata"].get("creationTimestamp"), now)


def spec_of(obj: JSON) -> JSON:
    """Its spec, or an empty one."""
    return obj.get("spec") or {}


def status_of(obj: JSON) -> JSON:
    """Its status, or an empty one."""
    return obj.get("status") or {}


def containers_of(template: JSON | None) -> list[str]:
    """The names and the images of the containers of a pod template."""
    containers = ((template or {}).get("spec") or {}).get("containers") or []
    return [",".join(c.get("name", "") for c in containers), ",".join(c.get("image", "") for c in containers)]


def selector_cell(selector: JSON | None) -> str:
    """A label selector, in words."""
    if selector and not selector.keys() <= {"matchLabels", "matchExpressions"}:
        return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))  # a ReplicationController's
    return selector_text(selector_of(selector)) or NONE


def map_cell(labels: Mapping[str, str] | None) -> str:
    """A map of labels, in words."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE
