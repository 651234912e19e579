"""Apps: what a person ships. From an App to its database, secrets, migration, processes and names."""

from typing import Any

from trimtab.components.apps.kinds import App
from trimtab.components.apps.reconcile import REASONS, app
from trimtab.components.apps.upkeep import NAMING, Images, StoredImages
from trimtab.runtime import Command, Component, Service, Store
from trimtab.runtime.settings import Settings


async def _upkeep(process: Any) -> None:
    from trimtab.components.apps.upkeep import upkeep

    await upkeep(process)


COMPONENT = Component(
    name="apps",
    summary="ships web applications with their database and keeps them up",
    kinds=(App,),
    reconcilers=(app,),
    services=(Service("content-upkeep", _upkeep, reads=NAMING),),
    stores=(
        Store("content", "images in use or tagged, the last builds of each name, caches for 30 days; see upkeep.py"),
    ),
    commands=(Command("up", "trimtab.components.apps.up:up", "Ship the app in a directory and keep it up."),),
    conditions=dict(REASONS),
)


def adapters(settings: Settings) -> dict[type, Any]:
    """The adapters that this component's services ask for, on a machine of our own."""
    return {Images: StoredImages(settings.data_path("content"))}
