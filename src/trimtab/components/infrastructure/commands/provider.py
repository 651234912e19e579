"""`trimtab provider`: providers and which of their kinds are enabled. `trimtab plan` is in cli/plan.py.

install: a registry, a mirror or a path -> DATA/providers, a Provider. enable, disable: its kinds. list, kinds, remove.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import msgspec

from trimtab.api import JSON, ObjectMeta, from_wire
from trimtab.client import WireClient
from trimtab.components.infrastructure.commands import enabling, serving
from trimtab.components.infrastructure.commands.commanding import (
    OUTPUT,
    STATE,
    Chosen,
    Origin,
    Target,
    apply,
    choose_state,
    columns,
    drop,
    dump,
    finished,
    known,
    manifest_of,
    origin_options,
    provider_named,
    refuse_other,
    runs_here,
    schema_of,
    shelf_of,
    with_api,
)
from trimtab.components.infrastructure.commands.provider_import import import_
from trimtab.components.infrastructure.commands.provider_upgrade import upgrade
from trimtab.components.infrastructure.definitions import definition_of, mark, outdated
from trimtab.components.infrastructure.kinds import DEFINED, Provider, ProviderSpec, versions_of
from trimtab.components.infrastructure.programs import registry
from trimtab.components.infrastructure.programs.fetching import InstallError
from trimtab.components.infrastructure.programs.shelf import ShelfError
from trimtab.components.infrastructure.schemas import naming
from trimtab.runtime.commands import Refused

LISTED_MAX = 10


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@STATE
@click.pass_obj
def provider(target: Chosen, state: Path | None) -> None:
    """Terraform providers, whose resources become kinds of this API.

    \b
    trimtab provider install linode/linode                    from OpenTofu's registry, verified
    trimtab provider kinds linode lke                         what it has
    trimtab provider enable linode linode_lke_cluster         kubectl get lkeclusters works from now on

    With --context they are for that cluster; run them where its `trimtab run` runs.
    """
    choose_state(target, state)


@provider.command(short_help="From a registry, a mirror or a path.")
@click.argument("source")
@origin_options
@OUTPUT
@click.pass_obj
def install(target: Target, source: str, origin: Origin, output: str) -> None:
    """Install SOURCE, a provider: [HOST/]NAMESPACE/NAME[@VERSION].

    \b
    trimtab provider install hetznercloud/hcloud@1.49.0
    trimtab provider install acme/cloud --mirror /srv/providers
    trimtab provider install acme/cloud@1.2.0 --path ./terraform-provider-cloud
    """
    wanted, _, version = source.partition("@")
    finished(with_api(target, lambda wire: runs_here(target, wire)))
    try:
        found = registry.source_of(wanted)
        program = origin.fetched(target, found, version)
    except InstallError as err:
        raise Refused(str(err)) from None
    finished(with_api(target, lambda wire: _same_as_locked(wire, found, program)))
    shelf = shelf_of(target)
    try:
        checksum = shelf.put(program.program, origin.readable)
    except ShelfError as err:
        raise Refused(str(err)) from None
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
        await apply(wire, manifest_of(made, kinds, versions_of(before), _defined(before, kinds)))
        return kinds

    kinds = finished(with_api(target, work))
    if output != "text":
        facts = {"name": made.name, "source": str(found), "version": program.version, "checksum": checksum}
        dump({**facts, "resources": len(schema.resources), "enabled": kinds}, output)
        return
    click.echo(f"{made.name} {program.version}: {len(schema.resources)} kinds of resources, {len(kinds)} enabled")
    if not kinds:
        click.echo(
            f"enable some: trimtab provider enable {made.name} RESOURCE...   (trimtab provider kinds {made.name} lists them)"
        )


async def _same_as_locked(wire: WireClient, source: registry.Source, program: registry.Fetched) -> None:
    """A version is one program, for good. Raises `Refused`."""
    before = await provider_named(wire, source.name)
    if before is None:
        return
    if before.spec.source != str(source):
        raise Refused(
            f"{source.name} is installed from {before.spec.source}: trimtab provider remove {source.name}, or give this one another name"
        )
    refuse_other(before, program.version, program.checksum)


@provider.command("list", short_help="What is installed.")
@OUTPUT
@click.pass_obj
def list_(target: Target, output: str) -> None:
    """List installed providers."""

    async def work(wire: WireClient) -> list[JSON]:
        await runs_here(target, wire)
        answer = await wire.send("GET", Provider.resource_type.path())
        items: list[JSON] = msgspec.json.decode(answer.body)["items"]
        return items

    found = finished(with_api(target, work))
    if output != "text":
        dump([{"name": p["metadata"]["name"], **p["spec"], "status": p.get("status", {})} for p in found], output)
    elif not found:
        click.echo("no provider is installed: trimtab provider install NAMESPACE/NAME", err=True)
    else:
        click.echo(columns(("name", "source", "version", "enabled", "state"), map(_row, found)))


def _row(one: JSON) -> tuple[str, ...]:
    spec, status = one["spec"], one.get("status", {})
    ready: JSON = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
    said = ready.get("message")
    state = said or ("ready" if ready.get("status") == "True" else "not looked at yet")
    enabled = f"{len(spec.get('kinds', [])):,} of {status.get('resources', '?')}"
    return one["metadata"]["name"], spec["source"], spec.get("version", ""), enabled, state


@provider.command(short_help="What a provider has.")
@click.argument("name")
@click.argument("pattern", required=False, default="")
@OUTPUT
@click.pass_obj
def kinds(target: Target, name: str, pattern: str, output: str) -> None:
    """List the resources of provider NAME, all or those with PATTERN in their name; ephemeral ones with their fields.

    \b
    trimtab provider kinds hcloud
    trimtab provider kinds hcloud server -o json
    """
    made, schema = finished(with_api(target, lambda wire: known(target, wire, name)))
    rows: list[JSON] = [
        {
            "resource": one,
            "kind": naming.kind_name(name, one),
            "name": f"{naming.plural(naming.kind_name(name, one))}.{naming.group(name)}",
            "enabled": one in made.spec.kinds,
        }
        for one in schema.resources
        if pattern.lower() in one or fnmatch.fnmatch(one, pattern)
    ]
    rows += [
        {"resource": one, "kind": "", "enabled": False, "ephemeral": sorted(of.block.attributes)}
        for one, of in schema.ephemeral.items()
        if pattern.lower() in one or fnmatch.fnmatch(one, pattern)
    ]
    if output != "text":
        dump(rows, output)
    elif not rows:
        click.echo(f"{name} has no resource with {pattern} in its name; it has {len(schema.resources):,}", err=True)
    else:
        click.echo(columns(("resource", "kind", "for kubectl", "enabled"), map(_kind_row, rows)))


def _kind_row(row: JSON) -> tuple[str, ...]:
    if "ephemeral" in row:
        return row["resource"], "ephemeral", ", ".join(row["ephemeral"]), "no"
    return row["resource"], row["kind"], row["name"], "yes" if row["enabled"] else "no"


@provider.command(short_help="Make resources kinds of the API.")
@click.argument("name")
@click.argument("resources", nargs=-1)
@click.pass_obj
def enable(target: Target, name: str, resources: tuple[str, ...]) -> None:
    """Make RESOURCES of provider NAME kinds of the API. Without any: those that are, anew, with all that this version gives them.

    \b
    trimtab provider enable hcloud hcloud_server hcloud_network
    trimtab provider enable hcloud 'hcloud_*'                    all that begin so
    trimtab provider enable hcloud                               after an upgrade of Trimtab
    """
    if resources:
        done = finished(with_api(target, lambda wire: _enable(target, wire, name, resources)))
        click.echo(f"{name}: enabled {_listed(done)}")
    else:
        done = finished(with_api(target, lambda wire: _define_anew(target, wire, name)))
        click.echo(f"{name}: defined {_listed(done)} anew")


async def _enable(target: Target, wire: WireClient, name: str, resources: tuple[str, ...]) -> list[str]:
    made, schema = await known(target, wire, name)
    chosen = [one for given in resources for one in _matching(name, given, schema.resources)]
    try:
        fresh = enabling.added(made, chosen, schema)
    except enabling.NameClash as err:
        raise Refused(str(err)) from None
    if outdated(made):
        await _define_anew(target, wire, name)
    for manifest in enabling.roles(made):
        await apply(wire, manifest)
    await serving.apply_all(wire, fresh, _tell)
    await serving.served(wire, fresh, _tell)
    await apply(wire, manifest_of(made, sorted({*made.spec.kinds, *chosen}), versions_of(made), mark()))
    return chosen


async def _define_anew(target: Target, wire: WireClient, name: str) -> list[str]:
    """Writes the definitions of the enabled kinds as this version has them; of one that the provider no longer has it stays as it is."""
    made, schema = await known(target, wire, name)
    if not made.spec.kinds:
        raise Refused(f"{name}: nothing is enabled: trimtab provider enable {name} RESOURCE...")
    there = [one for one in made.spec.kinds if one in schema.resources]
    for manifest in enabling.roles(made):
        await apply(wire, manifest)
    await serving.apply_all(wire, [definition_of(made, one, schema) for one in there], _tell)
    await apply(wire, manifest_of(made, made.spec.kinds, versions_of(made), mark()))
    return there


def _defined(before: Provider | None, kinds: Sequence[str]) -> str:
    """The mark of a Provider whose definitions stay as they are."""
    return before.metadata.annotations.get(DEFINED, "") if before is not None and kinds else mark()


def _matching(name: str, given: str, there: Iterable[str]) -> list[str]:
    """The resources that a name or a pattern means, in order. Raises `Refused`."""
    if found := fnmatch.filter(there, given):
        return found
    near = [one for one in there if given.rpartition("_")[2].strip("*") in one][:5]
    hint = f"; there are {', '.join(near)}" if near else f": trimtab provider kinds {name} lists what it has"
    raise Refused(f"{name} has no resource {given}{hint}")


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= LISTED_MAX else f"{len(names):,} kinds"


@provider.command(short_help="Take resources out of the API again.")
@click.argument("name")
@click.argument("resources", nargs=-1, required=True)
@click.pass_obj
def disable(target: Target, name: str, resources: tuple[str, ...]) -> None:
    """Take RESOURCES of provider NAME out of the API. Refused while there are objects of them.

    \b
    trimtab provider disable hcloud hcloud_network
    trimtab provider disable hcloud '*'
    """
    done = finished(with_api(target, lambda wire: _disable(target, wire, name, resources)))
    click.echo(f"{name}: disabled {_listed(done)}")


async def _disable(target: Target, wire: WireClient, name: str, resources: tuple[str, ...]) -> list[str]:
    made, schema = await known(target, wire, name)
    halves = {one["spec"]["names"]["kind"]: one for one in await serving.half_enabled(wire, made)}
    half = [one for one in schema.resources if naming.kind_name(name, one) in halves]
    there = [*made.spec.kinds, *half]
    if strange := [one for one in resources if not fnmatch.filter(there, one)]:
        raise Refused(f"{name}: {strange[0]} is not enabled")
    chosen = [one for given in resources for one in fnmatch.filter(there, given)]
    found = [definition_of(made, one, schema) for one in sorted(set(chosen))]
    await serving.nothing_left(wire, found, _tell)
    left = [one for one in made.spec.kinds if one not in chosen]
    await apply(wire, manifest_of(made, left, versions_of(made), _defined(made, left)))
    await serving.drop_all(wire, found, _tell)
    return chosen


@provider.command(short_help="Python classes of its kinds, for compositions.")
@click.argument("name")
@click.argument("resources", nargs=-1)
@click.option("-o", "output", type=click.Path(path_type=Path, dir_okay=False), help="A file, instead of printing it.")
@click.pass_obj
def stubs(target: Target, name: str, resources: tuple[str, ...], output: Path | None) -> None:
    """Print Python classes of RESOURCES of provider NAME, or of all that are enabled: for compositions and a type checker."""
    from trimtab.components.infrastructure.composition.stubs import stubs as written

    made, schema = finished(with_api(target, lambda wire: known(target, wire, name)))
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


@provider.command(short_help="Remove a provider and its programs.")
@click.argument("name")
@click.pass_obj
def remove(target: Target, name: str) -> None:
    """Remove provider NAME and its program. Refused while kinds of it are enabled."""

    async def work(wire: WireClient) -> None:
        await runs_here(target, wire)
        made = await provider_named(wire, name)
        if made is None:
            raise Refused(f"there is no Provider {name}: trimtab provider list")
        if made.spec.kinds:
            raise Refused(
                f"{name}: {', '.join(made.spec.kinds)} are enabled: trimtab provider disable {name} {' '.join(made.spec.kinds)}"
            )
        halves = await serving.half_enabled(wire, made)
        await serving.nothing_left(wire, halves, _tell)
        await serving.drop_all(wire, halves, _tell)
        for manifest in enabling.roles(made):
            plural = "clusterrolebindings" if manifest["kind"] == "ClusterRoleBinding" else "clusterroles"
            await drop(wire, f"/apis/rbac.authorization.k8s.io/v1/{plural}/{manifest['metadata']['name']}")
        # Before the Provider: without it nobody knows which programs there were. One may be another's, too.
        answer = await wire.send("GET", Provider.resource_type.path())
        others = [from_wire(Provider, one) for one in msgspec.json.decode(answer.body)["items"]]
        used = {sum_ for other in others if other.name != name for sum_ in _programs(other)}
        for checksum in _programs(made) - used:
            shelf_of(target).remove(checksum)
        await drop(wire, Provider.resource_type.path(None, name))

    finished(with_api(target, work))
    click.echo(f"{name}: removed")


def _programs(made: Provider) -> set[str]:
    """Checksums of all its versions that are on this machine."""
    return {made.spec.checksum, *versions_of(made).values()}


provider.add_command(import_)
provider.add_command(upgrade)
