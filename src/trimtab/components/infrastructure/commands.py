"""`trimtab provider`: providers and which of their kinds are enabled. `trimtab plan` is in planning.py.

install: a registry, a mirror or a path -> DATA/providers, a Provider. enable, disable: its kinds. list, kinds, remove.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import click
import msgspec

from trimtab.api import JSON, ObjectMeta, Ref
from trimtab.client import ApiError, WireClient
from trimtab.components.infrastructure import enabling, naming, registry
from trimtab.components.infrastructure.kinds import Provider, ProviderSpec
from trimtab.components.infrastructure.pool import NotReady
from trimtab.components.infrastructure.protocol.launch import LaunchError
from trimtab.components.infrastructure.protocol.provider import Provider as Peer
from trimtab.components.infrastructure.protocol.provider import ProviderError
from trimtab.components.infrastructure.protocol.schema import ProviderSchema
from trimtab.components.infrastructure.shelf import Shelf, ShutIn
from trimtab.runtime.settings import Settings

MANAGER = "trimtab-provider"
SERVED_WITHIN_S = 60.0
READ = click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True)
T = TypeVar("T")


class Target(Protocol):
    """What the command line's global options named."""

    @property
    def is_embedded(self) -> bool: ...

    def settings(self) -> Settings: ...

    def client(self) -> AbstractAsyncContextManager[WireClient]: ...


class Refused(click.ClickException):
    """One line for the user."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"trimtab: {self.message}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def provider() -> None:
    """Terraform providers, whose resources become kinds of this API.

    \b
    trimtab provider install linode/linode                    from OpenTofu's registry, verified
    trimtab provider kinds linode lke                         what it has
    trimtab provider enable linode linode_lke_cluster         kubectl get lkeclusters works from now on
    """


@provider.command()
@click.argument("source")
@click.option("--path", type=click.Path(path_type=Path, exists=True), help="Its program, or a zip archive of it.")
@click.option("--mirror", type=click.Path(path_type=Path, exists=True, file_okay=False), help="A file system mirror.")
@click.option(
    "--read",
    "reads",
    type=READ,
    multiple=True,
    help="With --path: a directory that its program reads, as an interpreter does.",
)
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def install(
    target: Target, source: str, path: Path | None, mirror: Path | None, reads: tuple[Path, ...], output: str
) -> None:
    """Install SOURCE, a provider: [HOST/]NAMESPACE/NAME[@VERSION]."""
    if not target.is_embedded:
        raise Refused(
            "a provider's program is installed on the machine of an engine: leave out --context and --kubeconfig"
        )
    if reads and path is None:
        raise Refused("--read goes with --path: what a registry has is a program that needs nothing else")
    wanted, _, version = source.partition("@")
    try:
        found = registry.source_of(wanted)
        fetched = _fetched(found, version, path, mirror)
    except registry.InstallError as err:
        raise Refused(str(err)) from None
    shelf = _shelf(target)
    try:
        checksum = shelf.put(fetched.program, [str(one) for one in reads])
    except OSError as err:
        raise Refused(f"{target.settings().data_path('providers')}: {err.strerror or err}") from None
    made = Provider(
        metadata=ObjectMeta(name=found.name),
        spec=ProviderSpec(source=str(found), version=fetched.version, checksum=checksum),
    )
    schema = _run(_schema(target, shelf, made))

    async def work(wire: WireClient) -> list[str]:
        before = await _get(wire, made.name)
        kinds = before.spec.kinds if before is not None else []
        await _apply(wire, _wire(made, kinds))
        return kinds

    kinds = _run(_with(target, work))
    if output == "json":
        facts = {"name": made.name, "source": str(found), "version": fetched.version, "checksum": checksum}
        click.echo(json.dumps({**facts, "resources": len(schema.resources), "enabled": kinds}))
        return
    click.echo(f"{made.name} {fetched.version}: {len(schema.resources)} kinds of resources, {len(kinds)} enabled")
    if not kinds:
        click.echo(
            f"enable some: trimtab provider enable {made.name} RESOURCE...   (trimtab provider kinds {made.name} lists them)"
        )


def _fetched(source: registry.Source, version: str, path: Path | None, mirror: Path | None) -> registry.Fetched:
    if path is not None:
        return registry.from_path(path, version)
    if mirror is not None:
        return registry.from_mirror(mirror, source, version)
    return registry.from_registry(source, version, lambda line: click.echo(line, err=True))


@provider.command("list")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def list_(target: Target, output: str) -> None:
    """Installed providers."""

    async def work(wire: WireClient) -> list[JSON]:
        answer = await wire.send("GET", Provider.resource_type.path())
        items: list[JSON] = msgspec.json.decode(answer.body)["items"]
        return items

    found = _run(_with(target, work))
    if output == "json":
        click.echo(
            json.dumps([{"name": p["metadata"]["name"], **p["spec"], "status": p.get("status", {})} for p in found])
        )
        return
    if not found:
        click.echo("no provider is installed: trimtab provider install NAMESPACE/NAME")
    for one in found:
        spec, status = one["spec"], one.get("status", {})
        ready: JSON = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
        note = "" if ready.get("status") == "True" else f"  {ready.get('message', 'not looked at yet')}"
        kinds = f"{len(spec.get('kinds', []))} of {status.get('resources', '?')} enabled"
        click.echo(f"{one['metadata']['name']}  {spec['source']} {spec.get('version', '')}  {kinds}{note}")


@provider.command()
@click.argument("name")
@click.argument("pattern", required=False, default="")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def kinds(target: Target, name: str, pattern: str, output: str) -> None:
    """The resources of provider NAME, all or those with PATTERN in their name."""
    made, schema = _run(_with(target, lambda wire: _known(target, wire, name)))
    rows = [
        {
            "resource": one,
            "kind": naming.kind_name(name, one),
            "enabled": one in made.spec.kinds,
        }
        for one in schema.resources
        if pattern in one
    ]
    if output == "json":
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{'*' if row['enabled'] else ' '} {row['resource']}  {row['kind']}")


@provider.command()
@click.argument("name")
@click.argument("resources", nargs=-1, required=True)
@click.pass_obj
def enable(target: Target, name: str, resources: tuple[str, ...]) -> None:
    """Make RESOURCES of provider NAME kinds of the API."""
    _run(_with(target, lambda wire: _enable(target, wire, name, resources)))
    click.echo(f"{name}: enabled {', '.join(resources)}")


async def _enable(target: Target, wire: WireClient, name: str, resources: tuple[str, ...]) -> None:
    made, schema = await _known(target, wire, name)
    if missing := [one for one in resources if one not in schema.resources]:
        near = [one for one in schema.resources if missing[0].rpartition("_")[2] in one][:5]
        hint = f"; there are {', '.join(near)}" if near else f": trimtab provider kinds {name} lists what it has"
        raise Refused(f"{name} has no resource {missing[0]}{hint}")
    wanted = sorted({*made.spec.kinds, *resources})
    whole = Provider(metadata=made.metadata, spec=msgspec.structs.replace(made.spec, kinds=wanted))
    for manifest in (*enabling.roles(whole), *enabling.definitions(whole, schema)):
        await _apply(wire, manifest)
    await _served(wire, enabling.definitions(whole, schema))
    await _apply(wire, _wire(made, wanted))


@provider.command()
@click.argument("name")
@click.argument("resources", nargs=-1, required=True)
@click.pass_obj
def disable(target: Target, name: str, resources: tuple[str, ...]) -> None:
    """Take RESOURCES of provider NAME out of the API. Refused while there are objects of them."""
    _run(_with(target, lambda wire: _disable(target, wire, name, resources)))
    click.echo(f"{name}: disabled {', '.join(resources)}")


async def _disable(target: Target, wire: WireClient, name: str, resources: tuple[str, ...]) -> None:
    made, schema = await _known(target, wire, name)
    if strange := [one for one in resources if one not in made.spec.kinds]:
        raise Refused(f"{name}: {strange[0]} is not enabled")
    gone = Provider(metadata=made.metadata, spec=msgspec.structs.replace(made.spec, kinds=list(resources)))
    found = enabling.definitions(gone, schema)
    for manifest in found:
        await _nothing_left(wire, manifest)
    await _apply(wire, _wire(made, [one for one in made.spec.kinds if one not in resources]))
    for manifest in found:
        await wire.send(
            "DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{manifest['metadata']['name']}"
        )


@provider.command()
@click.argument("name")
@click.pass_obj
def remove(target: Target, name: str) -> None:
    """Remove provider NAME and its program. Refused while kinds of it are enabled."""

    async def work(wire: WireClient) -> Provider:
        made = await _get(wire, name)
        if made is None:
            raise Refused(f"there is no Provider {name}: trimtab provider list")
        if made.spec.kinds:
            raise Refused(
                f"{name}: {', '.join(made.spec.kinds)} are enabled: trimtab provider disable {name} {' '.join(made.spec.kinds)}"
            )
        for manifest in enabling.roles(made):
            plural = "clusterrolebindings" if manifest["kind"] == "ClusterRoleBinding" else "clusterroles"
            await _drop(wire, f"/apis/rbac.authorization.k8s.io/v1/{plural}/{manifest['metadata']['name']}")
        await _drop(wire, Provider.resource_type.path(None, name))
        return made

    made = _run(_with(target, work))
    _shelf(target).remove(made.spec.checksum)
    click.echo(f"{name}: removed")


# Between the command line and the API


def _shelf(target: Target) -> Shelf:
    return Shelf(target.settings().data_path("providers"))


async def _schema(target: Target, shelf: Shelf, made: Provider) -> ProviderSchema:
    """A provider's schema: kept, or asked of its program, which runs shut in."""
    if (kept := shelf.schema(made.spec.checksum)) is not None:
        return kept
    settings = target.settings()
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
        import shutil

        shutil.rmtree(sockets.parent, ignore_errors=True)
    shelf.keep_schema(made.spec.checksum, schema)
    return schema


async def _known(target: Target, wire: WireClient, name: str) -> tuple[Provider, ProviderSchema]:
    made = await _get(wire, name)
    if made is None:
        raise Refused(f"there is no Provider {name}: trimtab provider install NAMESPACE/{name}")
    schema = _shelf(target).schema(made.spec.checksum)
    if schema is None:
        raise Refused(f"{name}: its program is not on this machine: trimtab provider install {made.spec.source}")
    return made, schema


async def _get(wire: WireClient, name: str) -> Provider | None:
    from trimtab.api import from_wire

    try:
        answer = await wire.send("GET", Provider.resource_type.path(None, name))
    except ApiError as err:
        if err.status == 404:
            return None
        raise
    return from_wire(Provider, msgspec.json.decode(answer.body))


def _wire(made: Provider, kinds: list[str]) -> JSON:
    spec = made.spec
    place = Provider.resource_type
    return {
        "apiVersion": place.api_version,
        "kind": place.kind,
        "metadata": {"name": made.name},
        "spec": {"source": spec.source, "version": spec.version, "checksum": spec.checksum, "kinds": kinds},
    }


PLURALS = {
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "Provider": Provider.resource_type.path(),
}


async def _apply(wire: WireClient, manifest: JSON) -> None:
    path = f"{PLURALS[manifest['kind']]}/{manifest['metadata']['name']}"
    query = {"fieldManager": MANAGER, "force": "true"}
    await wire.send("PATCH", path, query, msgspec.json.encode(manifest), "application/apply-patch+yaml")


async def _drop(wire: WireClient, path: str) -> None:
    try:
        await wire.send("DELETE", path)
    except ApiError as err:
        if err.status != 404:
            raise


async def _served(wire: WireClient, found: list[JSON]) -> None:
    """Waits until objects of these kinds can be made."""
    for manifest in found:
        spec = manifest["spec"]
        path = f"/apis/{spec['group']}/{naming.VERSION}/{spec['names']['plural']}"
        for _ in range(int(SERVED_WITHIN_S / 0.1)):
            try:
                await wire.send("GET", path, {"limit": "1"})
                break
            except ApiError as err:
                if err.status != 404:
                    raise
            await asyncio.sleep(0.1)
        else:
            raise Refused(
                f"{spec['names']['kind']} is not served {SERVED_WITHIN_S:.0f} s after it was defined: kubectl describe crd {manifest['metadata']['name']}"
            )


async def _nothing_left(wire: WireClient, manifest: JSON) -> None:
    spec = manifest["spec"]
    path = f"/apis/{spec['group']}/{naming.VERSION}/{spec['names']['plural']}"
    answer = await wire.send("GET", path, {"limit": "3"})
    items = msgspec.json.decode(answer.body)["items"]
    if items:
        refs = [str(Ref.of_wire({**item, "kind": spec["names"]["kind"]})) for item in items]
        raise Refused(f"there are objects of it, which would be deleted with it: {', '.join(refs)}; delete them first")


async def _with(target: Target, work: Callable[[WireClient], Coroutine[Any, Any, T]]) -> T:
    async with target.client() as wire:
        return await work(wire)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except ApiError as err:
        raise Refused(str(err)) from None
