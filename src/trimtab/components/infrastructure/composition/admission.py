"""Checks on writes of a CompositeDefinition: what can be no API is refused when it is written, with the field named."""

from __future__ import annotations

from trimtab.api import JSON, from_wire
from trimtab.api.resource import InvalidObject
from trimtab.components.infrastructure.composition.kinds import CompositeDefinition
from trimtab.runtime import Denied


def check_definition(new: JSON, old: JSON | None) -> list[str]:
    """Name, group, fields, status, and where the function comes from."""
    from trimtab.components.infrastructure.composition.definition import crd, refused
    from trimtab.components.infrastructure.composition.fields import BadField

    if old is not None and new["metadata"].get("deletionTimestamp"):
        return []
    try:
        made = from_wire(CompositeDefinition, new)
        if not (problem := refused(made)):
            crd(made)
    except InvalidObject as err:
        raise Denied("spec", err.problem) from None
    except BadField as err:
        problem = str(err)
    if problem:
        field, _, text = problem.partition(": ")
        raise Denied(field, text)
    return []
