"""`trimtab provider`: providers and which of their kinds are enabled. `trimtab plan` is in planning.py.

install: a registry, a mirror or a path -> DATA/providers, a Provider. enable, disable: its kinds. list, kinds, remove.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click
import msgspec

from trimtab.api import JSON, ObjectMeta, Ref
from trimtab.client import ApiError, WireClient
from trimtab.components.infrastructure import enabling, naming, registry
from trimtab.components.infrastructure.command_import import import_
from trimtab.components.infrastructure.command_upgrade import upgrade
from trimtab.components.infrastructure.commanding import (
    READ,
    Refused,
    Target,
    apply,
    drop,
    fetched,
    finished,
    known,
    manifest_of,
    provider_named,
    schema_of,
    shelf_of,
    versions_of,
    with_api,
)
from trimtab.components.infrastructure.kinds import Provider, ProviderSpec

SERVED_WITHIN_S = 60.0


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
        program = fetched(found, version, path, mirror)
    except registry.InstallError as err:
        raise Refused(str(err)) from None
    shelf = shelf_of(target)
    try:
        checksum = shelf.put(program.program, [str(one) for one in reads])
    except OSError as err:
        raise Refused(f"{target.settings().data_path('providers')}: {err.strerror or err}") from None
    made = Provider(
        metadata=ObjectMeta(name=found.name),
        spec=ProviderSpec(source=str(found), version=program.version, checksum=checksum),
    )
    schema = finished(schema_of(target, shelf, made))

    async def work(wire: WireClient) -> list[str]:
        before = await provider_named(wire, made.name)
        kinds = before.spec.kinds if before is not None else []
        if before is not None and kinds and before.spec.checksum != checksum:
            raise Refused(
                f"{made.name} {before.spec.version} is installed and keeps objects: trimtab provider upgrade {found}@{program.version} plans them "
                "with the new program first"
            )
        await apply(wire, manifest_of(made, kinds, versions_of(before)))
        return kinds

    kinds = finished(with_api(target, work))
    if output == "json":
        facts = {"name": made.name, "source": str(found), "version": program.version, "checksum": checksum}
        click.echo(json.dumps({**facts, "resources": len(schema.resources), "enabled": kinds}))
        return
    click.echo(f"{made.name} {program.version}: {len(schema.resources)} kinds of resources, {len(kinds)} enabled")
    if not kinds:
        click.echo(
            f"enable some: trimtab provider enable {made.name} RESOURCE...   (trimtab provider kinds {made.name} lists them)"
        )


@provider.command("list")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def list_(target: Target, output: str) -> None:
    """Installed providers."""

    async def work(wire: WireClient) -> list[JSON]:
        answer = await wire.send("GET", Provider.resource_type.path())
        items: list[JSON] = msgspec.json.decode(answer.body)["items"]
        return items

    found = finished(with_api(target, work))
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
    made, schema = finished(with_api(target, lambda wire: known(target, wire, name)))
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
    finished(with_api(target, lambda wire: _enable(target, wire, name, resources)))
    click.echo(f"{name}: enabled {', '.join(resources)}")


async def _enable(target: Target, wire: WireClient, name: str, resources: tuple[str, ...]) -> None:
    made, schema = await known(target, wire, name)
    if missing := [one for one in resources if one not in schema.resources]:
        near = [one for one in schema.resources if missing[0].rpartition("_")[2] in one][:5]
        hint = f"; there are {', '.join(near)}" if near else f": trimtab provider kinds {name} lists what it has"
        raise Refused(f"{name} has no resource {missing[0]}{hint}")
    wanted = sorted({*made.spec.kinds, *resources})
    whole = Provider(metadata=made.metadata, spec=msgspec.structs.replace(made.spec, kinds=wanted))
    for manifest in (*enabling.roles(whole), *enabling.definitions(whole, schema)):
        await apply(wire, manifest)
    await _served(wire, enabling.definitions(whole, schema))
    await apply(wire, manifest_of(made, wanted, versions_of(made)))


@provider.command()
@click.argument("name")
@click.argument("resources", nargs=-1, required=True)
@click.pass_obj
def disable(target: Target, name: str, resources: tuple[str, ...]) -> None:
    """Take RESOURCES of provider NAME out of the API. Refused while there are objects of them."""
    finished(with_api(target, lambda wire: _disable(target, wire, name, resources)))
    click.echo(f"{name}: disabled {', '.join(resources)}")


async def _disable(target: Target, wire: WireClient, name: str, resources: tuple[str, ...]) -> None:
    made, schema = await known(target, wire, name)
    if strange := [one for one in resources if one not in made.spec.kinds]:
        raise Refused(f"{name}: {strange[0]} is not enabled")
    gone = Provider(metadata=made.metadata, spec=msgspec.structs.replace(made.spec, kinds=list(resources)))
    found = enabling.definitions(gone, schema)
    for manifest in found:
        await _nothing_left(wire, manifest)
    await apply(wire, manifest_of(made, [one for one in made.spec.kinds if one not in resources], versions_of(made)))
    for manifest in found:
        await wire.send(
            "DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{manifest['metadata']['name']}"
        )


@provider.command()
@click.argument("name")
@click.argument("resources", nargs=-1)
@click.option("-o", "output", type=click.Path(path_type=Path, dir_okay=False), help="A file, instead of printing it.")
@click.pass_obj
def stubs(target: Target, name: str, resources: tuple[str, ...], output: Path | None) -> None:
    """Print Python classes of RESOURCES of provider NAME, or of all that are enabled: for compositions and a type checker."""
    from trimtab.components.infrastructure.composition.stubs import stubs as written

    made, schema = _run(_with(target, lambda wire: _known(target, wire, name)))
    if missing := [one for one in resources if one not in schema.resources]:
        raise Refused(f"{name} has no resource {missing[0]}: trimtab provider kinds {name} lists what it has")
    if not (chosen := resources or tuple(made.spec.kinds)):
        raise Refused(f"{name}: nothing is enabled: name resources, or trimtab provider enable {name} RESOURCE...")
    text = written(made.name, made.spec.version, schema, chosen)
    if output is None:
        click.echo(text, nl=False)
        return
    output.write_text(text)
    click.echo(f"{output}: {len(chosen)} {'kind' if len(chosen) == 1 else 'kinds'}")


@provider.command()
@click.argument("name")
@click.pass_obj
def remove(target: Target, name: str) -> None:
    """Remove provider NAME and its program. Refused while kinds of it are enabled."""

    async def work(wire: WireClient) -> Provider:
        made = await provider_named(wire, name)
        if made is None:
            raise Refused(f"there is no Provider {name}: trimtab provider list")
        if made.spec.kinds:
            raise Refused(
                f"{name}: {', '.join(made.spec.kinds)} are enabled: trimtab provider disable {name} {' '.join(made.spec.kinds)}"
            )
        for manifest in enabling.roles(made):
            plural = "clusterrolebindings" if manifest["kind"] == "ClusterRoleBinding" else "clusterroles"
            await drop(wire, f"/apis/rbac.authorization.k8s.io/v1/{plural}/{manifest['metadata']['name']}")
        await drop(wire, Provider.resource_type.path(None, name))
        return made

    made = finished(with_api(target, work))
    for checksum in {made.spec.checksum, *versions_of(made).values()}:
        shelf_of(target).remove(checksum)
    click.echo(f"{name}: removed")


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


provider.add_command(import_)
provider.add_command(upgrade)
