"""What a `ship.py` imports: `from trimtab.ship import App, Image, Postgres, Process, Secret`."""

from trimtab.components.apps.declaration import App, Image, Postgres, Process, Secret

__all__ = ["App", "Image", "Postgres", "Process", "Secret"]
