"""The way of a custom object past its schema and its rules; called for every write, loads CEL only where there are rules.

Rules run at once as long as they are cheap. What takes longer than a moment is done again in a thread, under the budget of the whole
object, so that other requests go on meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.server.errors import Cause
from trimtab.server.ratcheting import faults_of_update
from trimtab.server.structural import NOT_SUPPORTED, REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID, FieldError

if TYPE_CHECKING:
    from trimtab.server.bodies import Options
    from trimtab.server.rules import Check, RuleSet
    from trimtab.server.structural import Schema

AT_ONCE_COST = 20_000
"""What the rules of an object may cost while everybody waits: some 10 ms."""

_BLOCKING = frozenset((NOT_SUPPORTED, REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID))
_UNCHECKED = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors "
    "to complete validation"
)


async def problems(schema: Schema, new: JSON, old: JSON | None, options: Options) -> list[Cause]:
    """What is wrong with a custom object, by its schema and its rules; what is not held against it becomes a warning."""
    found = schema.validate(new) if old is None else faults_of_update(schema, new, old)
    if schema.rules is not None:
        if any(error.reason in _BLOCKING for error in found):
            found.append(FieldError("<nil>", _UNCHECKED))
        else:
            check = await _checked(schema.rules, new, old)
            found += check.errors
            options.warnings += [str(error) for error in check.warnings]
    return [Cause(error.path, error.message, error.reason) for error in found]


async def _checked(rules: RuleSet, new: JSON, old: JSON | None) -> Check:
    from trimtab.server.rules import Check

    check = Check(AT_ONCE_COST)
    check.run(rules, new, old)
    if check.ended_early:
        check = Check()
        await asyncio.to_thread(check.run, rules, new, old)
    return check
