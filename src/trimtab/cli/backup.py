"""`trimtab backup TARGET | schedule | list | verify | delete` and `trimtab restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.output import dump, mebibytes, output_option, table
from trimtab.cli.target import Target

if TYPE_CHECKING:
    from trimtab.engine.backup.format import Commit

SCHEDULED_NICENESS = 10
"""Nobody waits for a backup that the engine makes by itself."""
TARGET_ENV, KEY_ENV = "TRIMTAB_BACKUP", "TRIMTAB_BACKUP_KEY"


def _say(line: str) -> None:
    click.echo(line, err=True)


class _WithDefault(click.Group):
    """`trimtab backup TARGET` is `trimtab backup create TARGET`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["create", *args])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        import os

        known = [*self.commands, "-h", "--help"]
        if not args and os.environ.get(TARGET_ENV):
            args = ["create"]
        elif args and args[0].startswith("-") and args[0] not in known:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_WithDefault)
def backup() -> None:
    """Back up everything, encrypted: objects, keys, images, volumes, history.

    `trimtab backup TARGET` makes a backup. TARGET is a directory, or s3://BUCKET/PREFIX with the usual AWS_ variables
    (AWS_ENDPOINT_URL for another S3-compatible store). Only what is new since the last backup is sent.
    """


_target = click.argument("where", metavar="TARGET", envvar=TARGET_ENV)
_key = click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    envvar=KEY_ENV,
    help=f"File with the age identity that opens the backups.  [env: {KEY_ENV}]",
)


def _row(commit: Commit) -> dict[str, Any]:
    import msgspec

    row: dict[str, Any] = msgspec.to_builtins(commit)
    return row


@backup.command()
@_target
@click.option(
    "--recipient", "recipients", multiple=True, metavar="AGE1...", help="Encrypt for this public key instead."
)
@click.option("--keep", type=click.IntRange(1), help="Afterwards delete all backups but the newest so many.")
@click.option("--run", "run_name", default="", hidden=True)
@output_option("table", "json", "yaml")
@click.pass_obj
def create(target: Target, where: str, recipients: tuple[str, ...], keep: int | None, run_name: str, fmt: str) -> None:
    """Make a backup of the engine, which may run or not."""
    import os

    from trimtab.engine.backup import keeping, objects
    from trimtab.engine.backup.create import alone
    from trimtab.engine.backup.create import create as make

    if run_name:
        os.nice(SCHEDULED_NICENESS)
    settings = target.settings()
    store = objects.open_objects(where)
    commit = make(settings, store, recipients, _say, run_name)
    deleted: list[str] = []
    if keep is not None:
        with alone(settings):
            deleted = keeping.expired(keeping.commits(store), keep)
            if deleted:
                keeping.delete(store, deleted)
    if fmt != "table":
        dump({**_row(commit), "deleted": deleted}, fmt)
        return
    click.echo(
        f"backup {commit.id}: {commit.files} files, {mebibytes(commit.bytes)}, {commit.volumes} volumes; "
        f"sent {mebibytes(commit.sent_bytes)} in {commit.seconds:.1f} s"
    )
    for old in deleted:
        click.echo(f"deleted {old}")


@backup.command("list")
@_target
@output_option("table", "json", "yaml")
def list_backups(where: str, fmt: str) -> None:
    """Show the backups in TARGET, oldest first."""
    from trimtab.engine.backup import keeping, objects

    store = objects.open_objects(where)
    keeping.require_place(store)
    found = keeping.commits(store)
    if fmt != "table":
        dump([_row(commit) for commit in found], fmt)
        return
    rows = [
        (
            c.id,
            f"{c.created:%Y-%m-%d %H:%M:%S}Z",
            mebibytes(c.bytes),
            mebibytes(c.sent_bytes),
            c.volumes,
            c.version,
            c.run,
        )
        for c in found
    ]
    table(("backup", "created", "size", "sent", "volumes", "version", "schedule"), rows)


@backup.command()
@_target
@click.argument("which", metavar="[BACKUP]", default="latest")
@_key
@output_option("table", "json", "yaml")
@click.pass_obj
def verify(target: Target, where: str, which: str, key_file: Path | None, fmt: str) -> None:
    """Read a backup as a restore would, and check every byte. Without a key: check that all of it is there."""
    from trimtab.engine.backup import keeping, keys, objects

    own = target.data / keys.DIRECTORY / keys.IDENTITY
    path = key_file or (own if own.exists() else None)
    store = objects.open_objects(where)
    commit = keeping.find(store, which)
    count = keeping.verify(store, commit, keys.identities(path) if path is not None else (), _say)
    if fmt != "table":
        dump({"id": commit.id, "pieces": count, "read": path is not None}, fmt)
    elif path is not None:
        click.echo(f"backup {commit.id} is whole: {count} pieces read and checked")
    else:
        click.echo(f"backup {commit.id}: all {count} pieces are there; give --key to read them")


@backup.command()
@_target
@click.argument("ids", metavar="BACKUP...", nargs=-1, required=True)
@click.pass_obj
def delete(target: Target, where: str, ids: tuple[str, ...]) -> None:
    """Delete backups, and the pieces that no other one needs."""
    import contextlib

    from trimtab.engine.backup import keeping, objects
    from trimtab.engine.backup.create import alone
    from trimtab.engine.errors import NotRunning

    store = objects.open_objects(where)
    there = [keeping.require(store, wanted) for wanted in ids]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotRunning):  # backups may be deleted where there is no engine
            stack.enter_context(alone(target.settings()))
        freed = keeping.delete(store, there)
    click.echo(f"deleted {', '.join(there)}: {mebibytes(freed)} freed")


@backup.command()
@click.argument("when", metavar="SCHEDULE")
@_target
@click.option("--name", default="backups", show_default=True, help="Name of the BackupSchedule.")
@click.option("--time-zone", metavar="ZONE", help="Such as Europe/Berlin (UTC).")
@click.option(
    "--recipient", "recipients", multiple=True, metavar="AGE1...", help="Encrypt for this public key instead."
)
@click.option("--keep", type=click.IntRange(1), help="Keep the newest so many backups.")
@click.pass_obj
def schedule(
    target: Target,
    when: str,
    where: str,
    name: str,
    time_zone: str | None,
    recipients: tuple[str, ...],
    keep: int | None,
) -> None:
    """Back up whenever SCHEDULE comes due: five fields as in a CronJob, or a macro such as @daily.

    \b
    trimtab backup schedule "15 3 * * *" /mnt/vault --keep 14
    trimtab get backupschedules

    For s3:// the AWS_ variables of this shell go into a Secret in trimtab-system.
    """
    import asyncio

    asyncio.run(_schedule(target, name, _plan(when, where, name, time_zone, recipients, keep)))


def _plan(
    when: str, where: str, name: str, time_zone: str | None, recipients: tuple[str, ...], keep: int | None
) -> dict[str, Any]:
    """The BackupSchedule that the options ask for."""
    spec: dict[str, Any] = {"schedule": when, "target": where if "://" in where else str(Path(where).absolute())}
    if where.startswith("s3://"):
        spec["credentials"] = {"name": f"backup-{name}"}
    optional = {"timeZone": time_zone, "recipients": list(recipients), "keep": keep}
    spec |= {field: value for field, value in optional.items() if value}
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "BackupSchedule",
        "metadata": {"name": name},
        "spec": spec,
    }


async def _schedule(target: Target, name: str, plan: dict[str, Any]) -> None:
    import os

    from trimtab.api.core import Secret
    from trimtab.cli.target import MANAGER
    from trimtab.components.backups import BackupSchedule
    from trimtab.engine.backup.objects import S3_ENVIRONMENT, open_objects

    open_objects(plan["spec"]["target"])  # a target that cannot be one is refused here, with what is missing
    async with target.client() as client:
        if "credentials" in plan["spec"]:
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": plan["spec"]["credentials"]["name"], "namespace": "trimtab-system"},
                "stringData": {
                    variable: os.environ[variable] for variable in S3_ENVIRONMENT if os.environ.get(variable)
                },
            }
            await client.apply(Secret.resource_type, secret, manager=MANAGER)
        await client.apply(BackupSchedule.resource_type, plan, manager=MANAGER)
    click.echo(f"BackupSchedule {name}: {plan['spec']['schedule']} to {plan['spec']['target']}")
    if not plan["spec"].get("recipients"):
        click.echo(f"keep a copy of {target.data}/backup/identity.txt elsewhere: without it no backup can be restored")


@click.command()
@_target
@click.argument("which", metavar="[BACKUP]", default="latest")
@_key
@output_option("table", "json", "yaml")
@click.pass_obj
def restore(target: Target, where: str, which: str, key_file: Path | None, fmt: str) -> None:
    """Make the engine of a backup at --data, which must be empty. `trimtab start` then starts it, pods and all.

    Nothing is touched when the key is wrong, or a part of the backup is missing or damaged.
    """
    from trimtab.engine.backup import keys, objects
    from trimtab.engine.backup.restore import restore as make

    if key_file is None:
        raise click.UsageError(f"give --key FILE, the age identity that opens the backup (or {KEY_ENV})")
    commit = make(target.data, objects.open_objects(where), which, keys.identities(key_file), _say)
    if fmt != "table":
        dump(_row(commit), fmt)
        return
    click.echo(f"restored {commit.id} at {target.data}: {commit.files} files, {commit.volumes} volumes")
    click.echo(f"start it with `trimtab --data {target.data} start`")
