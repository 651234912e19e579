"""The API process: the store, the server on it, the components' admission checks, the engine's own objects, listeners.

The listeners open last, so whoever reaches the API finds it complete: roles, CRDs and the CA are there.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

from trimtab.client import AsgiTransport
from trimtab.engine import access_roles, pki
from trimtab.engine.audit import recorder
from trimtab.engine.bootstrap import apply_objects
from trimtab.engine.errors import EngineError
from trimtab.engine.processes import JOURNAL
from trimtab.engine.registry import COMPONENTS
from trimtab.runtime.journal import Journal
from trimtab.runtime.settings import Settings
from trimtab.server import ApiServer, ServerSettings, create_app
from trimtab.server.admitting import Check
from trimtab.server.serve import Listen, ListenError, Listeners
from trimtab.store import Store, StoreError

RENEWAL_CHECK_S = 86_400.0
"""How often the engine's certificates are looked at; SIGHUP asks for it now."""

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
        endpoints={
            (
                endpoint.kind.resource_type.group,
                endpoint.kind.resource_type.plural,
                endpoint.subresource,
            ): settings.run_path(endpoint.socket)
            for component in COMPONENTS
            for endpoint in component.endpoints
        },
        judges={
            judge.group_suffix: settings.run_path(judge.socket)
            for component in COMPONENTS
            for judge in component.judges
        },
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
    """Serves until SIGTERM.

    Raises:
        EngineError: it cannot start; one line says why.
    """
    stop, look = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, look.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        store = await Store.open(settings.data_path("store", "store.sqlite"))
    except StoreError as err:
        raise EngineError(str(err)) from None
    renewal: asyncio.Task[None] | None = None
    journal = Journal(settings.data_path(*JOURNAL))
    try:
        server = ApiServer(
            store, settings=server_settings(settings), admission=admission_checks(), on_write=recorder(journal)
        )
        listeners = Listeners(server)
        try:
            await server.start()

            async def publish() -> None:
                inside = AsgiTransport(create_app(server))
                await apply_objects(settings, inside)
                await inside.close()

            await publish()
            await listeners.open(listen(settings))
            gc.collect()
            gc.freeze()
            renewal = asyncio.ensure_future(_renewal(settings, look, listeners, publish))
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
        journal.close()


async def _renewal(
    settings: Settings, look: asyncio.Event, listeners: Listeners, publish: Callable[[], Awaitable[None]]
) -> None:
    """Once a day: renews certificates that are due. New connections get them, those that are open go on."""
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(look.wait(), RENEWAL_CHECK_S)
        look.clear()
        try:
            if not pki.complete(settings):
                await asyncio.to_thread(pki.ensure, settings)
                listeners.renew(listen(settings))
                await publish()
                log.info("renewed the engine's certificates")
        except (EngineError, ListenError) as err:
            log.error("the engine's certificates are due and cannot be renewed: %s", err)
