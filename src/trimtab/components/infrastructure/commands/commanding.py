"""Between `trimtab provider` and the API: what the commands have in common.

Target (which engine, or which cluster) --with_api--> work(client) --finished--> a result, or one line for the user
       --runner--> where programs lie: with the engine's data, or with what `trimtab run` of the cluster keeps on this machine
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import json
import os
import shutil
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
import msgspec
from msgspec import Struct

from trimtab.api import JSON
from trimtab.api.cluster import Lease
from trimtab.client import ApiError, WireClient
from trimtab.components.infrastructure.kinds import DEFINED, VERSIONS, Provider, versions_of
from trimtab.components.infrastructure.programs import registry
from trimtab.components.infrastructure.programs.mirror import from_mirror
from trimtab.components.infrastructure.programs.shelf import Shelf, ShelfError, ShutIn, closed
from trimtab.components.infrastructure.programs.terms import NotReady
from trimtab.components.infrastructure.protocol.launch import LaunchError
from trimtab.components.infrastructure.protocol.provider import Provider as Peer
from trimtab.components.infrastructure.protocol.provider import ProviderError
from trimtab.components.infrastructure.protocol.schema import ProviderSchema
from trimtab.runtime.commands import Refused
from trimtab.runtime.ownership import SYSTEM_NAMESPACE
from trimtab.runtime.settings import Settings

MANAGER = "trimtab-provider"
LEASE, LEASE_NAME, LEASE_LIFE_S = Lease.resource_type, "trimtab-controllers", 30.0
"""Who works for a cluster holds this; one that was not renewed for so long is nobody's."""
OUTPUT = click.option(
    "-o", "--output", "output", type=click.Choice(["text", "json", "yaml"]), default="text", help="Output format."
)
READ = click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True)
T = TypeVar("T")


class Target(Protocol):
    """What the command line's global options named."""

    @property
    def is_embedded(self) -> bool: ...

    @property
    def state(self) -> Path | None: ...

    def runner(self) -> Settings: ...

    def client(self) -> AbstractAsyncContextManager[WireClient]: ...


class Chosen(Target, Protocol):
    """A target of which a group of commands may say more."""

    state: Path | None


STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --context: the directory of its `trimtab run` on this machine (~/.local/state/trimtab/HOST).",
)


def choose_state(target: Chosen, state: Path | None) -> None:
    """Takes `STATE`. Raises `Refused`."""
    if state is not None and target.is_embedded:
        raise Refused("--state belongs to another cluster's `trimtab run`: name it with --context, or give --data")
    target.state = state


async def runs_here(target: Target, wire: WireClient) -> None:
    """Of another cluster: what this command does to files has an effect only where its `trimtab run` runs.

    Raises:
        Refused: it runs elsewhere, or was never there.
    """
    if target.is_embedded:
        return
    try:
        await wire.send("GET", Provider.resource_type.path(), {"limit": "1"})
        lease: JSON = await wire.get(LEASE, LEASE_NAME, SYSTEM_NAMESPACE) or {}
    except ApiError as err:
        if err.status == 404:
            raise Refused(
                "this cluster knows no providers yet: `trimtab run` with the same --context puts their kinds there: start it first"
            ) from None
        raise
    spec = lease.get("spec") or {}
    host, _, pid = str(spec.get("holderIdentity") or "").rpartition("-")
    if not host or _age_s(str(spec.get("renewTime") or "")) > LEASE_LIFE_S:
        return
    if host != socket.gethostname():
        raise Refused(f"`trimtab run` of this cluster runs on {host}, and programs lie where it runs: run this there")
    if not _locked(target.runner().data_path("lock")):
        raise Refused(
            f"`trimtab run` of this cluster (process {pid} here) keeps its programs elsewhere than in {target.runner().data}: give its --state"
        )


def _age_s(time: str) -> float:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    except ValueError:
        return float("inf")


def _locked(path: Path) -> bool:
    """Whether a process holds this file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Origin(Struct, frozen=True):
    """Where a program is to come from, as the options say; a registry when they say nothing."""

    path: Path | None = None
    mirror: str | None = None
    reads: tuple[Path, ...] = ()
    unsigned: bool = False

    @property
    def is_registry(self) -> bool:
        return self.path is None and self.mirror is None

    def fetched(self, target: Target, source: registry.Source, version: str) -> registry.Fetched:
        """A provider's program. Raises `InstallError`, `Refused`."""
        if self.reads and self.path is None:
            raise Refused("--read goes with --path: what a registry has is a program that needs nothing else")
        if target.is_embedded and os.geteuid() == 0:  # for another cluster, who installs and who runs it see the same
            _refuse_closed(self.reads, target.runner().user)
        if self.unsigned and not self.is_registry:
            raise Refused("--unsigned is of registries: what comes from a path or a mirror has no signature")
        if self.path is not None:
            return registry.from_path(self.path, version)
        if self.mirror is not None:
            if "://" not in self.mirror and not Path(self.mirror).is_dir():
                raise Refused(f"--mirror {self.mirror}: there is no such directory, and it is no address (https://...)")
            return from_mirror(self.mirror, source, version, _progress)
        return registry.from_registry(source, version, _progress, unsigned=self.unsigned)

    @property
    def readable(self) -> list[str]:
        return [str(one) for one in self.reads]


def _refuse_closed(reads: Iterable[Path], user: str) -> None:
    """What root may read at installation, and the engine's user may not when the program runs. Raises `Refused`."""
    for path in reads:
        if (folder := closed(path, user)) is not None:
            here, at = ("this directory", "") if folder == path else (f"what is below {folder}", f" of {folder}")
            raise Refused(
                f"--read {path}: the user {user}, as whom providers run, may not read {here} (mode {folder.stat().st_mode & 0o7777:04o}"
                f"{at}): put it where everybody may read, such as below /opt, or chmod o+{'rx' if folder == path else 'x'} {folder}"
            )


def origin_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that fetches a program; it is called with an `Origin` in their place."""

    @click.option("--path", type=click.Path(path_type=Path, exists=True), help="Its program, or a zip archive of it.")
    @click.option(
        "--mirror",
        metavar="DIR|URL",
        help="A file system mirror, or the address of a network mirror.",
    )
    @click.option(
        "--read",
        "reads",
        type=READ,
        multiple=True,
        help="With --path: a directory that its program reads, as an interpreter does.",
    )
    @click.option(
        "--unsigned", is_flag=True, help="Take it by its checksum alone when the registry names no key for it."
    )
    @functools.wraps(command)
    def with_origin(
        *, path: Path | None, mirror: str | None, reads: tuple[Path, ...], unsigned: bool, **others: Any
    ) -> None:
        command(origin=Origin(path, mirror, reads, unsigned), **others)

    return with_origin


def _progress(line: str) -> None:
    click.echo(line, err=True)


def dump(value: Any, output: str) -> None:
    """Prints a value for programs: as JSON or YAML."""
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(value))


def columns(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns with their headers, three blanks apart, as every command's."""
    lines = [[header.upper() for header in headers], *([str(cell) or "<none>" for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def shelf_of(target: Target) -> Shelf:
    """Where the programs lie of the engine, or of the `trimtab run`, that is meant. Raises as `Target.runner`."""
    return Shelf(target.runner().data_path("providers"))


async def schema_of(target: Target, shelf: Shelf, made: Provider) -> ProviderSchema:
    """A provider's schema: kept, or asked of its program, which runs shut in."""
    if (kept := shelf.schema(made.spec.checksum)) is not None:
        return kept
    settings = target.runner()
    command, sockets, environment = ShutIn(shelf, settings.run_path("installing"), settings.user)(made)
    try:
        peer = await Peer.start(command, sockets, environment=environment, name=made.name)
        try:
            schema = await peer.schema()
        finally:
            await peer.close()
    except (LaunchError, ProviderError, NotReady) as err:
        shelf.remove(made.spec.checksum)
        raise Refused(str(err)) from None
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    try:
        shelf.keep_schema(made.spec.checksum, schema)
    except ShelfError as err:
        raise Refused(str(err)) from None
    return schema


async def known(target: Target, wire: WireClient, name: str) -> tuple[Provider, ProviderSchema]:
    """A provider whose program is on this machine, with its schema. Raises `Refused`, `ApiError`."""
    await runs_here(target, wire)
    made = await provider_named(wire, name)
    if made is None:
        raise Refused(f"there is no Provider {name}: trimtab provider install NAMESPACE/{name}")
    schema = shelf_of(target).schema(made.spec.checksum)
    if schema is None:
        raise Refused(f"{name}: its program is not on this machine: trimtab provider install {made.spec.source}")
    return made, schema


async def provider_named(wire: WireClient, name: str) -> Provider | None:
    """None when there is none. Raises `ApiError`."""
    from trimtab.api import from_wire

    try:
        answer = await wire.send("GET", Provider.resource_type.path(None, name))
    except ApiError as err:
        if err.status == 404:
            return None
        raise
    return from_wire(Provider, msgspec.json.decode(answer.body))


def refuse_other(before: Provider, version: str, checksum: str) -> None:
    """A version is one program, for good. Raises `Refused`."""
    name = before.name
    locked = {**versions_of(before), before.spec.version: before.spec.checksum}.get(version, checksum)
    if locked != checksum and version != registry.UNSAID:
        raise Refused(
            f"{name} {version} was installed before with another program ({locked[:19]}…; this one is {checksum[:19]}…): "
            f"if you know why and trust it, trimtab provider remove {name} and install it again"
        )


def manifest_of(made: Provider, kinds: list[str], versions: dict[str, str], defined: str) -> JSON:
    """versions: those that are on this machine beside its own. defined: the mark of its kinds' definitions."""
    spec = made.spec
    there = {**versions, spec.version: spec.checksum}
    place = Provider.resource_type
    return {
        "apiVersion": place.api_version,
        "kind": place.kind,
        "metadata": {"name": made.name, "annotations": {VERSIONS: json.dumps(there, sort_keys=True), DEFINED: defined}},
        "spec": {"source": spec.source, "version": spec.version, "checksum": spec.checksum, "kinds": kinds},
    }


PLURALS = {
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "Provider": Provider.resource_type.path(),
}


async def apply(wire: WireClient, manifest: JSON) -> None:
    """Server-side apply of an object of a kind in `PLURALS`; what others hold is taken from them. Raises `ApiError`."""
    path = f"{PLURALS[manifest['kind']]}/{manifest['metadata']['name']}"
    query = {"fieldManager": MANAGER, "force": "true"}
    await wire.send("PATCH", path, query, msgspec.json.encode(manifest), "application/apply-patch+yaml")


async def drop(wire: WireClient, path: str) -> None:
    """Deletes the object at a path, if it is there. Raises `ApiError`."""
    try:
        await wire.send("DELETE", path)
    except ApiError as err:
        if err.status != 404:
            raise


async def with_api(target: Target, work: Callable[[WireClient], Coroutine[Any, Any, T]]) -> T:
    """Does something with a client that is closed afterwards."""
    async with target.client() as wire:
        return await work(wire)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work to its end. Raises `Refused`: what the API said, in one line."""
    try:
        return asyncio.run(work)
    except ApiError as err:
        raise Refused(str(err)) from None
