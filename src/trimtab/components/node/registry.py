"""The agent's own registry: what the engine built, served read-only to containerd alone.

For every other registry it is asked first, too: an image that is in the store under a public name (`registry.k8s.io/pause:3.9`)
is used without the network, which is how a machine without internet gets its images; for all that is not there containerd
goes on to the registry itself.

It listens on a free port of loopback, below a random path that only containerd's configuration (root's) names, so that no
other user of the machine can read images. containerd reads `hosts.toml` at every pull, so the port may change.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from trimtab.components.node.containerd import hosts_directory
from trimtab.components.node.listen import LateServer
from trimtab.content import ContentStore, pause_image
from trimtab.runtime.settings import Settings

if TYPE_CHECKING:
    from aiohttp import web

ANY_REGISTRY = "_default"
"""containerd's name for registries without a directory of their own."""


class LocalRegistry:
    """`start` serves and tells containerd; `close` ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: LateServer | None = None

    async def start(self) -> None:
        """Serves the content store, with the sandbox image in it, and points containerd at it."""
        store = ContentStore(self._settings.data_path("content"))
        await asyncio.to_thread(pause_image, store)
        secret = secrets.token_urlsafe(24)

        def make() -> web.Application:
            from aiohttp import web

            from trimtab.components.node.asgi import handler
            from trimtab.content import registry_app

            app = web.Application()
            app.router.add_route("*", f"/{secret}/v2{{rest:.*}}", handler(registry_app(store), prefix=f"/{secret}"))
            return app

        self._server = LateServer(make)
        port = await self._server.listen_tcp("127.0.0.1")
        url = f"http://127.0.0.1:{port}/{secret}/v2"
        asked = f'[host."{url}"]\n  capabilities = ["pull", "resolve"]\n  override_path = true\n'
        self._tell(self._settings.image_registry, f'server = "{url}"\n\n{asked}')
        self._tell(ANY_REGISTRY, asked)

    def _tell(self, registry: str, hosts: str) -> None:
        """Writes containerd's `hosts.toml` of one registry at once as a whole."""
        directory = hosts_directory(self._settings) / registry
        directory.mkdir(parents=True, exist_ok=True)
        scratch = directory / ".hosts"
        scratch.write_text(hosts)
        scratch.chmod(0o600)
        scratch.replace(directory / "hosts.toml")

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
            self._server = None
