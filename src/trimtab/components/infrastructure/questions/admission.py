"""Whether a write of a provider's kind is let in, in the provider's own words; and of a dry run, what it would do.

    AdmissionReview --create, update: validate--> causes by field, warnings         --dry run: plan--> the plan, as warnings
                    --delete: spec.policy.delete--> refused when it is deny

When the provider cannot be asked, the write is let in with a warning: what exists already must stay changeable while a cloud is away.
"""

from __future__ import annotations

import asyncio
from typing import Any

from trimtab.api import JSON, InvalidObject
from trimtab.components.infrastructure.loop.gathering import Blocked
from trimtab.components.infrastructure.programs.terms import NotReady
from trimtab.components.infrastructure.protocol.provider import ProviderError
from trimtab.components.infrastructure.questions import planning
from trimtab.components.infrastructure.questions.asking import Asker, Said

VALIDATE_S = 4.5
"""A little less than the API waits, so that who writes is told why."""
DRY_RUN_S = 20.0
"""As much less than the API waits for a plan."""
ASKS_APART = "trimtab-plan"
"""The program that asks for plans by themselves."""
WARNINGS_MAX = 40
"""Lines of a plan that a dry run answers: `trimtab plan` has all of them."""


async def admit(asker: Asker, review: Any) -> JSON:
    """An AdmissionReview's answer, and of a dry run the plan with it."""
    request = review["request"]
    response = await taken(asker, request)
    if response["allowed"] and request.get("agent") != ASKS_APART:
        more = (await foreseen(asker, request)).get("warnings") or []
        response = {**response, "warnings": [*response.get("warnings", []), *more]}
    return answered(review, response)


def answered(review: Any, response: JSON) -> JSON:
    """A response as the API is sent it."""
    told = {"uid": review["request"].get("uid", ""), **response}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": told}


async def taken(asker: Asker, request: Any) -> JSON:
    """Whether a write is let in."""
    if request["operation"] == "DELETE":
        refused = _deletion(request.get("oldObject") or {})
        return {"allowed": False, "status": {"code": 403, "message": refused}} if refused else {"allowed": True}
    return await _write(asker, request["object"])


async def foreseen(asker: Asker, request: Any) -> JSON:
    """What a dry run would do, as warnings."""
    if not request.get("dryRun") or request["operation"] == "DELETE":
        return {"allowed": True}
    until = asyncio.get_running_loop().time() + DRY_RUN_S
    lines = planning.object_lines(planning.wire(await asker.plan(request["object"], until=until)))
    warnings = [f"plan: {line}" for line in lines[:WARNINGS_MAX]]
    if len(lines) > WARNINGS_MAX:
        warnings.append(f"plan: and {len(lines) - WARNINGS_MAX} lines more: trimtab plan shows all")
    return {"allowed": True, "warnings": warnings}


def _deletion(obj: JSON) -> str:
    """Why an object may not be deleted; empty: it may."""
    meta, policy = obj.get("metadata") or {}, (obj.get("spec") or {}).get("policy") or {}
    if policy.get("delete") != "deny" or meta.get("deletionTimestamp"):
        return ""
    return "spec.policy.delete is deny, which keeps the resource and this object: set it to delete or to orphan first"


async def _write(asker: Asker, obj: JSON) -> JSON:
    try:
        async with asyncio.timeout(VALIDATE_S):
            said = await asker.validate(obj)
    except TimeoutError:
        said = Said(warnings=(f"the provider did not say within {VALIDATE_S:.1f} s whether it takes this",))
    except (Blocked, NotReady, ProviderError, InvalidObject) as err:
        said = Said(warnings=(f"the provider was not asked whether it takes this: {err}",))
    if said.errors:
        causes = [{"reason": "FieldValueInvalid", "field": field, "message": text} for field, text in said.errors]
        text = "; ".join(f"{field}: {message}" for field, message in said.errors)
        return {"allowed": False, "status": {"code": 422, "message": text, "details": {"causes": causes}}}
    return {"allowed": True, "warnings": list(said.warnings)}


__all__ = ["admit", "answered", "foreseen", "taken"]
