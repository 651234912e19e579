"""`trimtab provider upgrade`: another version of a provider, tried on every object before it is the one that runs.

    program, installed beside --schema--> what differs for enabled kinds
                              --POST providerconfigs/NAME/plan, with it--> what it would do with each object: states upgraded, nothing kept
    nothing would change, or --accept --> the Provider, then definitions of the kinds

In this order: what the new program does not know it refuses to act on, while an old one would take a field that the new definitions no
longer have for one that somebody took away. Killed between the two, the same command does the rest. Going back is the same with the old
version, which stays on this machine.
"""

from __future__ import annotations

import click
import msgspec
from msgspec import Struct

from trimtab.api import JSON, ObjectMeta
from trimtab.client import WireClient
from trimtab.components.infrastructure.commands import enabling
from trimtab.components.infrastructure.commands.commanding import (
    OUTPUT,
    Origin,
    Target,
    apply,
    dump,
    finished,
    known,
    manifest_of,
    origin_options,
    refuse_other,
    schema_of,
    shelf_of,
    with_api,
)
from trimtab.components.infrastructure.definitions import mark
from trimtab.components.infrastructure.kinds import DEFINED, Provider, ProviderSpec, versions_of
from trimtab.components.infrastructure.programs import registry
from trimtab.components.infrastructure.programs.fetching import InstallError
from trimtab.components.infrastructure.programs.shelf import ShelfError
from trimtab.components.infrastructure.protocol.schema import ProviderSchema
from trimtab.components.infrastructure.questions import planning
from trimtab.components.infrastructure.questions.outside import kept_objects, plans_of
from trimtab.components.infrastructure.schemas.schema_changes import GONE, SchemaChange, by_resource, schema_changes
from trimtab.runtime.commands import Refused


class Trial(Struct):
    """What another version would mean."""

    before: str
    after: str
    schema: list[SchemaChange]
    plans: list[JSON]

    @property
    def harmless(self) -> bool:
        """Whether no object would change, and all that was given can still be given."""
        return planning.exit_code(self.plans) == planning.EXIT_SAME and not any(one.breaks for one in self.schema)

    @property
    def possible(self) -> bool:
        """Whether it can keep every object."""
        return not self.gone and planning.exit_code(self.plans) != planning.EXIT_ERROR

    @property
    def gone(self) -> list[str]:
        """Enabled kinds that the other version does not have."""
        return [one.resource for one in self.schema if one.text == GONE]


@click.command(short_help="Another version, tried on every object first.")
@click.argument("source")
@origin_options
@click.option("--accept", is_flag=True, help="Switch although something would change: it is done once it has switched.")
@OUTPUT
@click.pass_obj
def upgrade(target: Target, source: str, origin: Origin, accept: bool, output: str) -> None:
    """Switch the provider SOURCE, NAME[@VERSION], to another version, once it has planned every object.

    Nothing is switched while an object would change, or something that was given can no longer be: the plan is shown, and --accept
    switches. Going back is an upgrade to the old version.

    \b
    trimtab provider upgrade hcloud@1.50.0
    trimtab provider upgrade hcloud@1.50.0 --accept

    Exit status: 0 it runs, or ran already; 2 something would change and nothing was switched; 1 somebody could not say.
    """
    name, _, version = source.partition("@")

    async def work(wire: WireClient) -> tuple[Trial, bool]:
        before, old = await known(target, wire, name)
        after = _program(target, before, version, origin)
        schema = await schema_of(target, shelf_of(target), after)
        if after.spec.checksum == before.spec.checksum:
            await _define(wire, after, schema)
            return Trial(before.spec.version, after.spec.version, [], []), True
        # From now on it is one of this provider's programs: only such are asked.
        versions = versions_of(before) | {after.spec.version: after.spec.checksum}
        await apply(
            wire, manifest_of(before, before.spec.kinds, versions, before.metadata.annotations.get(DEFINED, ""))
        )
        trial = await _tried(wire, before, old, after, schema)
        switches = trial.harmless or (accept and trial.possible)
        if switches:
            await _switch(wire, before, after, schema)
        return trial, switches

    trial, switched = finished(with_api(target, work))
    _say(name, trial, switched, output)
    if not switched:
        code = planning.exit_code(trial.plans)
        raise click.exceptions.Exit(planning.EXIT_CHANGES if code == planning.EXIT_SAME else code)


def _program(target: Target, before: Provider, version: str, origin: Origin) -> Provider:
    """The other version's program, on this machine. Raises `Refused`."""
    shelf = shelf_of(target)
    checksum = versions_of(before).get(version, "")
    if not (origin.is_registry and checksum and shelf.program(checksum).exists()):
        try:
            found = origin.fetched(target, registry.source_of(before.spec.source), version)
            refuse_other(before, found.version, found.checksum)
            checksum, version = shelf.put(found.program, origin.readable), found.version
        except (InstallError, ShelfError) as err:
            raise Refused(str(err)) from None
    spec = ProviderSpec(source=before.spec.source, version=version, checksum=checksum, kinds=before.spec.kinds)
    return Provider(metadata=ObjectMeta(name=before.name), spec=spec)


async def _tried(
    wire: WireClient, before: Provider, old: ProviderSchema, after: Provider, new: ProviderSchema
) -> Trial:
    objects = await kept_objects(wire, None, before.name)
    program = {"version": after.spec.version, "checksum": after.spec.checksum}
    plans = await plans_of(wire, objects, program=program, tell=_tell)
    return Trial(before.spec.version, after.spec.version, schema_changes(old, new, before.spec.kinds), plans)


def _tell(done: int, total: int) -> None:
    click.echo(f"{done:,} of {total:,} planned", err=True)


async def _switch(wire: WireClient, before: Provider, after: Provider, schema: ProviderSchema) -> None:
    versions = versions_of(before) | {before.spec.version: before.spec.checksum}
    before_mark = before.metadata.annotations.get(DEFINED, "")
    await apply(wire, manifest_of(after, after.spec.kinds, versions, before_mark))
    await _define(wire, after, schema)
    if before_mark != mark():
        await apply(wire, manifest_of(after, after.spec.kinds, versions, mark()))


async def _define(wire: WireClient, after: Provider, schema: ProviderSchema) -> None:
    for manifest in enabling.definitions(after, schema):
        await apply(wire, manifest)


def _say(name: str, trial: Trial, switched: bool, output: str) -> None:
    if output != "text":
        told: JSON = {"provider": name, "from": trial.before, "to": trial.after, "switched": switched}
        told |= {"schema": msgspec.to_builtins(trial.schema), "plan": planning.document(trial.plans)}
        dump(told, output)
        return
    for resource, lines in by_resource(trial.schema).items():
        click.echo(f"{resource}:")
        for one in lines:
            click.echo(f"  {'!' if one.breaks else ' '} {one.text}")
    if trial.plans:
        click.echo(planning.text(trial.plans))
    if switched:
        same = trial.before == trial.after and not trial.plans and not trial.schema
        click.echo(
            f"{name} {trial.after} runs already"
            if same
            else f"{name}: {trial.after} runs now, and {trial.before} stays here"
        )
    elif gone := trial.gone:
        click.echo(
            f"nothing was switched: trimtab provider disable {name} {' '.join(gone)} first, and delete what is of it"
        )
    elif not trial.possible:
        click.echo(
            f"nothing was switched: {trial.before} runs, for {trial.after} cannot keep what it says it cannot plan"
        )
    else:
        click.echo(
            f"nothing was switched: {trial.before} runs. With --accept {trial.after} does, and does what is shown"
        )


__all__ = ["upgrade"]
