"""Apps: what a person ships. From an App to its database, secrets, migration, processes and names."""

from trimtab.components.apps.kinds import App
from trimtab.components.apps.reconcile import REASONS, app
from trimtab.runtime import Command, Component

COMPONENT = Component(
    name="apps",
    summary="ships web applications with their database and keeps them up",
    kinds=(App,),
    reconcilers=(app,),
    commands=(Command("up", "trimtab.components.apps.up:up", "Ship the app in a directory and keep it up."),),
    conditions=dict(REASONS),
)
