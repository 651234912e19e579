"""What composition adds to the component: its kind, reconciler, service, store, command, and the texts of its conditions."""

from __future__ import annotations

from typing import Any

from trimtab.api.core import Secret
from trimtab.components.infrastructure.composition.admission import check_definition
from trimtab.components.infrastructure.composition.kinds import CompositeDefinition
from trimtab.components.infrastructure.composition.packages import Packages, Shelf
from trimtab.components.infrastructure.composition.publishing import Claims, defined
from trimtab.components.infrastructure.composition.reasons import REASONS
from trimtab.components.infrastructure.composition.terms import Compositions, LazyFunctions
from trimtab.runtime import Admission, Command, Owned, Service, Store
from trimtab.runtime.effects import Effect
from trimtab.runtime.settings import Settings


async def _compositions(process: Any) -> None:
    try:
        await process.adapter(Claims).run(process)
    finally:
        await process.adapter(Compositions).close()


SERVICE = Service(
    "compositions",
    _compositions,
    reads=(CompositeDefinition,),
    # What the reconcilers of claims have in common: those are known only while it runs.
    owns=(Owned(Effect), Owned(Secret)),
)
COMMAND = Command(
    "composition",
    "trimtab.components.infrastructure.composition.commands:composition",
    "APIs of your own, each from one Python function.",
)
ADMISSION = Admission("compositedefinition", CompositeDefinition, check_definition)
STORE = Store("compositions", "a package of a composition until it is removed", owner="node")


def adapters(settings: Settings) -> dict[type, Any]:
    """Running the functions of compositions."""
    packages = Shelf(settings.data_path("compositions"))
    return {Packages: packages, Compositions: LazyFunctions(), Claims: Claims()}


__all__ = ["ADMISSION", "COMMAND", "REASONS", "SERVICE", "STORE", "CompositeDefinition", "adapters", "defined"]
