"""The API process: the store, the server on it, the components' admission checks, the engine's own objects, listeners.

The listeners open last, so whoever reaches the API finds it complete: roles, CRDs and the CA are there.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal

from trimtab.client import AsgiTransport
from trimtab.engine import access_roles, pki
from trimtab.engine.bootstrap import apply_objects
from trimtab.engine.errors import EngineError
from trimtab.engine.registry import COMPONENTS
from trimtab.runtime.settings import Settings
from trimtab.server import ApiServer, ServerSettings, create_app
from trimtab.server.serve import Listen, ListenError, Listeners
from trimtab.server.writing import Check
from trimtab.store import Store, StoreError

RENEWAL_CHECK_S = 86_400.0

log = logging.getLogger(__name__)


def admission_checks() -> list[tuple[str, str, Check]]:
    """The components' checks as the server takes them: (apiVersion, kind, check)."""
    return [
        (check.kind.resource_type.api_version, check.kind.resource_type.kind, check.check)
        for component in COMPONENTS
        for check in component.admission
    ]


def server_settings(settings: Settings) -> ServerSettings:
    return ServerSettings(
        service_cidr=settings.service_cidr,
        node_socket=settings.node_socket,
        node_sockets=settings.run_path("nodes"),
        admin_token_file=settings.data_path("pki", "admin.token"),
        service_account_key=settings.data_path("pki", "sa.key"),
        ca_file=settings.data_path("pki", "ca.crt"),
        issuer=f"https://kubernetes.default.svc.{settings.cluster_domain}",
    )


def listen(settings: Settings) -> Listen:
    folder = settings.data_path("pki")
    return Listen(
        unix=settings.api_socket,
        peers=access_roles.peers(settings),
        host=settings.listen,
        port=settings.api_port,
        certificate=folder / "apiserver.crt",
        key=folder / "apiserver.key",
        client_ca=folder / "ca.crt",
        # Every address includes the pods' gateway; listening on it apart would be refused.
        inside=None if settings.listen == "0.0.0.0" else settings.gateway,
    )


async def run_api(settings: Settings) -> None:
    """Serves until SIGTERM, or until a renewed certificate must be loaded (the supervisor starts it anew at once).

    Raises:
        EngineError: it cannot start; one line says why.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        store = await Store.open(settings.data_path("store", "store.sqlite"))
    except StoreError as err:
        raise EngineError(str(err)) from None
    renewal: asyncio.Task[None] | None = None
    try:
        server = ApiServer(store, settings=server_settings(settings), admission=admission_checks())
        listeners = Listeners(server)
        try:
            await server.start()
            inside = AsgiTransport(create_app(server))
            await apply_objects(settings, inside)
            await inside.close()
            await listeners.open(listen(settings))
            gc.collect()
            gc.freeze()
            renewal = asyncio.ensure_future(_renewal(settings, stop))
            await stop.wait()
        except ListenError as err:
            raise EngineError(str(err)) from None
        finally:
            if renewal is not None:
                renewal.cancel()
            await server.stop()
            await listeners.close()
    finally:
        await store.close()


async def _renewal(settings: Settings, stop: asyncio.Event) -> None:
    """Once a day: renews the serving certificate in time. Connections survive a restart of less than a second, and a
    restart leaves no code path that only runs once a year."""
    while True:
        await asyncio.sleep(RENEWAL_CHECK_S)
        if not pki.complete(settings):
            log.warning("the serving certificate is due: renewing it, and restarting to serve it")
            await asyncio.to_thread(pki.ensure, settings)
            stop.set()
