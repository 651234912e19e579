"""The agent's own registry: what the engine built, served read-only to containerd alone.

It listens on a free port of loopback, below a random path that only containerd's configuration (root's) names, so that no
other user of the machine can read images. containerd reads `hosts.toml` at every pull, so the port may change.
"""

from __future__ import annotations

import asyncio
import secrets

from aiohttp import web

from trimtab.components.node.asgi import handler
from trimtab.components.node.containerd import hosts_directory
from trimtab.content import ContentStore, pause_image, registry_app
from trimtab.runtime.settings import Settings


class LocalRegistry:
    """`start` serves and tells containerd; `close` ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serves the content store, with the sandbox image in it, and points containerd at it."""
        store = ContentStore(self._settings.data_path("content"))
        await asyncio.to_thread(pause_image, store)
        secret = secrets.token_urlsafe(24)
        app = web.Application()
        app.router.add_route("*", f"/{secret}/v2{{rest:.*}}", handler(registry_app(store), prefix=f"/{secret}"))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        directory = hosts_directory(self._settings) / self._settings.image_registry
        directory.mkdir(parents=True, exist_ok=True)
        url = f"http://127.0.0.1:{port}/{secret}/v2"
        scratch = directory / ".hosts"
        scratch.write_text(
            f'server = "{url}"\n\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n  override_path = true\n'
        )
        scratch.chmod(0o600)
        scratch.replace(directory / "hosts.toml")

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
