"""`trimtab run`: our components beside a Kubernetes that somebody else runs.

    kubeconfig -> namespace, CRDs, roles, CA, the Service of preStop hooks -> Envoy -> reconcilers and services, while they lead

The cluster has controllers, a scheduler, kubelets, storage and DNS; ours for these stay off (`registry.beside_kubernetes`). What
this machine keeps is a state directory: Envoy's files, its logs, the journal, the programs of providers and the packages of compositions.
All of it can be made anew from the cluster, but for the programs: those are installed again.

Envoy is a child of this process and ends with it. It sends requests straight to pods, so this runs where pods are reached: on
a node, or on a machine that the pod network is routed to.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.api import JSON, ObjectMeta, Resource, ResourceType, to_wire
from trimtab.api.cluster import ClusterRole, CustomResourceDefinition
from trimtab.api.core import Namespace, Pod, Secret
from trimtab.client import ApiError, Client, HttpTransport
from trimtab.components import infrastructure, ingress
from trimtab.confinement import calls
from trimtab.engine import access_roles, accounts, pki
from trimtab.engine.bootstrap import CA_SECRET, SYSTEM_NAMESPACE
from trimtab.engine.errors import EngineError
from trimtab.engine.processes import JOURNAL
from trimtab.engine.registry import adapters, beside_kubernetes
from trimtab.runtime.crd import crd, ensure_crds, installed
from trimtab.runtime.journal import Journal
from trimtab.runtime.leases import LeaseLost
from trimtab.runtime.process import RUNTIME_KINDS, run_process
from trimtab.runtime.settings import Settings

if TYPE_CHECKING:
    from trimtab.runtime.component import Component

MANAGER = "trimtab-run"
SOCKET_PATH_MAX = 107
"""What the kernel takes as the path of a unix socket."""
CERTIFICATE_LIFE, RENEW_S = timedelta(days=90), 30 * 86_400.0
"""Of what the API server is shown when it asks about writes."""
RESTART_FIRST_S, RESTART_MAX_S = 0.2, 10.0
STOP_S = 10.0
REACH_S = 2.0
REACHED_PODS = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What the command line named. state: the directory that this process keeps things in. only: as `beside_kubernetes` has it."""

    state: Path
    listen: str = "0.0.0.0"
    http_port: int = 80
    https_port: int = 443
    admission_port: int = 0
    only: tuple[str, ...] = ()


def default_state(server: str) -> Path:
    """The state directory for the cluster at `server`."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "trimtab" / server.partition("://")[2].replace("/", "-").replace(":", "-")


def settings_for(server: str, options: Options) -> Settings:
    """What the components are told. The same cluster has the same id from wherever this runs.

    Raises:
        EngineError: the state directory's path is too long for a socket in it.
    """
    made = Settings(
        id=hashlib.sha256(server.encode()).hexdigest()[:6],
        data=str(options.state),
        run=str(options.state / "run"),
        listen=options.listen,
        http_port=options.http_port,
        https_port=options.https_port,
        admission_port=options.admission_port,
        node_name=socket.gethostname(),
    )
    if len(str(made.envoy_admin_socket)) > SOCKET_PATH_MAX:
        raise EngineError(f"{options.state}: the path is too long for a socket in it: give a shorter one as --state")
    return made


async def run(transport: HttpTransport, server: str, options: Options, say: Say) -> None:
    """Runs until cancelled.

    Raises:
        EngineError: one line for the user.
    """
    settings = settings_for(server, options)
    components = beside_kubernetes(options.only)
    names = [component.name for component in components]
    lock = _lock(settings)
    try:
        proxies = _proxies(components)
        if proxies:
            _check_ports(settings)
        client = Client(transport, agent=MANAGER)
        await prepare(client, settings, components)
        address = ingress.EnvoyProxy(settings).address
        line = f"{', '.join(names)} for {server}"
        if proxies:
            if address.startswith("127."):
                raise EngineError(
                    "the cluster's nodes cannot reach this machine at 127.0.0.1: give its address as --listen"
                )
            if warning := await unreached(client):
                say(f"warning: {warning}")
            ingress.raise_watch_limit()
            ingress.write_bootstrap(settings)
            line += f"; http {address}:{settings.http_port}, https {address}:{settings.https_port}"
        say(line)
        journal = Journal(settings.data_path(*JOURNAL))
        try:
            async with asyncio.TaskGroup() as group:
                doorway: dict[type, Any] = {}
                if proxies:
                    group.create_task(_envoy(settings, say), name="envoy")
                if infrastructure.COMPONENT.name in names:
                    if os.geteuid() == 0:
                        accounts.ensure_user(settings.user)  # as whom providers run
                    doorway = await _doorway(group, client, settings, address)
                await _working(components, settings, client, journal, doorway, say)
        finally:
            journal.close()
    finally:
        os.close(lock)


async def _working(
    components: Sequence[Component],
    settings: Settings,
    client: Client,
    journal: Journal,
    more: Mapping[type, Any],
    say: Say,
) -> None:
    """The components, while they lead. When the lease is lost, as it is when the API is away for long, they end and begin anew; Envoy goes on
    meanwhile."""
    while True:
        try:
            bound = {**adapters(settings, "controllers"), **more}
            await run_process(components, "controllers", settings, client, journal, bound, elect=True)
            return
        except* LeaseLost as lost:
            say(str(_first(lost)))


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _doorway(group: asyncio.TaskGroup, client: Client, settings: Settings, address: str) -> dict[type, Any]:
    """Where the API server asks about writes: TLS by the CA that the cluster keeps, renewed while this runs.

    Raises:
        EngineError: the CA is damaged, or the directory cannot be written.
    """
    from trimtab.components.infrastructure.questions.webhooks import Doorway

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority = await _certified(client, settings, context, address)

    async def renewed() -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with suppress(ApiError, ConnectionError):
                await _certified(client, settings, context, address)

    group.create_task(renewed(), name="certificate")
    return {Doorway: Doorway(settings.listen, settings.admission_port, address, authority, context)}


async def _certified(client: Client, settings: Settings, context: ssl.SSLContext, address: str) -> str:
    """Has the context show a new certificate; returns the CA's, as PEM."""
    secret = await client.get(Secret, CA_SECRET, SYSTEM_NAMESPACE)
    if secret is None:
        raise EngineError(f"the Secret {CA_SECRET} in {SYSTEM_NAMESPACE} is gone: start again, which makes it")
    authority = base64.b64decode(secret.data.get("tls.crt", ""))
    key = base64.b64decode(secret.data.get("tls.key", ""))
    pem = await asyncio.to_thread(pki.serving_pem, authority, key, address, CERTIFICATE_LIFE)
    with tempfile.NamedTemporaryFile(suffix=".pem", dir=settings.run) as file:  # ssl reads certificates from files only
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    return authority.decode()


async def prepare(client: Client, settings: Settings, components: Sequence[Component] = ()) -> None:
    """Puts into the cluster what the components need there: all that can run there, or those that are given. What is there already stays
    as it is. A user who may put nothing there goes on when all of it is there.

    Raises:
        EngineError: the user may not; says what.
    """
    components = components or beside_kubernetes()
    try:
        await client.apply(Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE)), manager=MANAGER)
        await ensure_crds(client, _kinds(components), foreign=False)
        if await client.get(Secret, CA_SECRET, SYSTEM_NAMESPACE) is None:
            certificate, key = await asyncio.to_thread(pki.new_authority, settings)
            secret = Secret(
                metadata=ObjectMeta(name=CA_SECRET, namespace=SYSTEM_NAMESPACE),
                type="kubernetes.io/tls",
                data={"tls.crt": base64.b64encode(certificate).decode(), "tls.key": base64.b64encode(key).decode()},
            )
            await client.create(secret, manager=MANAGER)
        for role in access_roles.beside(components):
            await client.wire.apply(ClusterRole.resource_type, role, manager=MANAGER)
        if _proxies(components):
            await client.apply(ingress.hook_service(), manager=MANAGER)
    except ApiError as err:
        if err.status == 409:  # somebody else has just made it
            return await prepare(client, settings, components)
        if err.status != 403:
            raise EngineError(f"the cluster could not be prepared: {err}") from None
        if missing := await _missing(client, components):
            raise EngineError(
                f"the cluster does not let this user prepare it: {err}; not as it should be is {missing}: start this once as an "
                f"administrator, for every version; whoever runs it then needs the ClusterRole {access_roles.BESIDE}"
            ) from None


def _kinds(components: Sequence[Component]) -> list[type[Resource]]:
    return [*RUNTIME_KINDS, *(kind for component in components for kind in component.kinds)]


def _proxies(components: Sequence[Component]) -> bool:
    return any(component.name == ingress.COMPONENT.name for component in components)


async def _missing(client: Client, components: Sequence[Component]) -> str:
    """What of `prepare` is not in the cluster, or not as this version has it; "" when nothing is left to do. Of what this user may not read
    nobody can say."""
    system = Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE))
    wanted: list[tuple[ResourceType, JSON]] = [(Namespace.resource_type, to_wire(system))]
    for kind in installed(_kinds(components), foreign=False):
        wanted.append((CustomResourceDefinition.resource_type, crd(kind)))
    wanted += [(ClusterRole.resource_type, role) for role in access_roles.beside(components)]
    if _proxies(components):
        service = ingress.hook_service()
        wanted.append((type(service).resource_type, to_wire(service)))
    for place, one in wanted:
        meta = one["metadata"]
        try:
            there = await client.wire.get(place, meta["name"], meta.get("namespace"))
        except ApiError:
            there = None
        if there is None or not _holds(there, one):
            return f"{place.kind} {meta['name']}"
    return "" if await client.get(Secret, CA_SECRET, SYSTEM_NAMESPACE) is not None else f"Secret {CA_SECRET}"


def _holds(there: Any, wanted: Any) -> bool:
    """Whether an object of the API has all that is wanted of it; a server fills in more, and leaves out what is empty."""
    if there is None:
        return wanted in ({}, [])
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(_holds(there.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(_holds, there, wanted))
    return bool(there == wanted)


async def unreached(client: Client) -> str:
    """One line when pods of the cluster do not answer from here, so that the proxy could not send them requests; "" else.

    A closed port answers, too. Where there are no pods yet, nothing is known.
    """
    pods = (await client.list(Pod, fields="status.phase=Running")).items
    addresses = [p.status.pod_ip for p in pods if p.status.pod_ip and not p.spec.host_network][:REACHED_PODS]
    if not addresses or any(await asyncio.gather(*map(_answers, addresses))):
        return ""
    return (
        f"pods of this cluster ({', '.join(addresses)}) do not answer from here, so the proxy cannot send them requests: "
        "run this on a node, or where the pod network is routed to"
    )


async def _answers(address: str) -> bool:
    try:
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(address, 9)
            writer.close()
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    return True


def _lock(settings: Settings) -> int:
    """Makes the state directory and holds it against a second process.

    Raises:
        EngineError: it cannot be written, or is in use.
    """
    try:
        for parts in ((), ("journal",), ("log",), ("log", "proxy"), ("proxy",), ("run",), ("run", "proxy")):
            settings.data_path(*parts).mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(settings.data_path("lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise EngineError(f"{err.filename} cannot be written ({err.strerror}): give another --state") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise EngineError(f"another `trimtab run` uses {settings.data}: end it, or give another --state") from None
    return lock


def _check_ports(settings: Settings) -> None:
    for name, port in (("--http-port", settings.http_port), ("--https-port", settings.https_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.listen, port))
            except OSError as err:
                raise EngineError(
                    f"{settings.listen}:{port} cannot be listened on ({err.strerror}): give another port as {name}"
                ) from None


async def _envoy(settings: Settings, say: Say) -> None:
    """Keeps Envoy running until cancelled; it ends with us, however we end."""
    pause_s = RESTART_FIRST_S
    while True:
        began = time.monotonic()
        with settings.data_path("log", "envoy.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *ingress.envoy_command(settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=calls.die_with_parent,
            )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), STOP_S)
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        pause_s = RESTART_FIRST_S if time.monotonic() - began > RESTART_MAX_S else min(2 * pause_s, RESTART_MAX_S)
        say(f"Envoy ended with {code}, see {settings.data_path('log', 'envoy.log')}; starting it again")
        await asyncio.sleep(pause_s)
