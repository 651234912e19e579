"""What claims would be composed of, for `trimtab plan`: their functions are asked, and nothing of it is made.

claim as it would be, what there is of it --CompositeDefinition/compose--> manifests; what is there and no longer said goes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON, ResourceType
from trimtab.components.infrastructure.composition.kinds import CompositeDefinition
from trimtab.components.infrastructure.questions.outside import told

if TYPE_CHECKING:
    from trimtab.client import WireClient


class Expansion(msgspec.Struct):
    """objects: what there would be; going: plans of what would be deleted; waiting: what the function waits for; error: why nobody can say."""

    objects: list[JSON] = []
    going: list[JSON] = []
    waiting: str = ""
    error: str = ""


class Claims:
    """The claims of one API. `load` it first."""

    def __init__(self, client: WireClient, kinds: Mapping[tuple[str, str], ResourceType]) -> None:
        self._client = client
        self._kinds = kinds
        self._definitions: dict[tuple[str, str], str] = {}

    async def load(self) -> None:
        """Finds the definitions, where there are any and they may be read."""
        from trimtab.client import ApiError

        try:
            found = await self._client.list(CompositeDefinition.resource_type)
        except ApiError as err:
            if err.status in (403, 404):
                return
            raise
        for one in found["items"]:
            spec = one["spec"]
            place = f"{spec['group']}/{spec.get('version', 'v1alpha1')}"
            self._definitions[place, spec["names"]["kind"]] = one["metadata"]["name"]

    def definition(self, obj: JSON) -> str | None:
        """The name of the definition of whose kind an object is."""
        return self._definitions.get((obj["apiVersion"], obj["kind"]))

    async def expand(self, definition: str, claim: JSON) -> Expansion:
        """What a claim would be composed of. claim: as it would be, with the status that it has."""
        from trimtab.client import ApiError

        rows = (claim.get("status") or {}).get("resources") or []
        namespace = claim["metadata"].get("namespace", "")
        observed = {row["name"]: await self._observed(row, namespace) for row in rows}
        question = {"claim": claim, "observed": observed}
        try:
            found = await told(self._client, CompositeDefinition, namespace, definition, "compose", question)
        except ApiError as err:
            return Expansion(error=str(err))
        going = [
            {"apiVersion": row["apiVersion"], "kind": row["kind"], "name": row["object"], "namespace": namespace}
            | {"action": "delete"}
            for row in rows
            if row["name"] not in found["parts"]
        ]
        return Expansion(objects=found["objects"], going=going, waiting=found.get("waiting", ""))

    async def _observed(self, row: JSON, namespace: str) -> JSON:
        kind = self._kinds.get((row["apiVersion"], row["kind"]))
        live = await self._client.get(kind, row["object"], namespace) if kind is not None else None
        said = {"ready": bool(row.get("ready")), "message": row.get("message", ""), "kind": row["kind"]}
        return {**said, "status": (live or {}).get("status") or {}}


__all__ = ["Claims", "Expansion"]
