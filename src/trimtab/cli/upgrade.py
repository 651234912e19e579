"""`trimtab upgrade`."""

from __future__ import annotations

import click

from trimtab.cli.target import Target


def _say(line: str) -> None:
    click.echo(line)


@click.command()
@click.argument("source", metavar="WHEEL|VERSION", required=False)
@click.option("--back", "go_back", is_flag=True, help="Return to the version before the last upgrade.")
@click.option("--yes", is_flag=True, help="With --back: also when the store of before the upgrade must come back.")
@click.option(
    "--deadline",
    "deadline_s",
    type=click.IntRange(10, 3600),
    default=120,
    show_default=True,
    help="Seconds in which the new version must be healthy; otherwise the old one returns.",
)
@click.pass_obj
def upgrade(target: Target, source: str | None, go_back: bool, yes: bool, deadline_s: int) -> None:
    """Upgrade the running engine to a newer Trimtab; pods and proxy go on serving meanwhile.

    The new version is installed beside the old one, below the data directory, and takes over what runs. When it does not
    become healthy in time, the old version returns by itself, with the old store if that was migrated. From then on `trimtab`
    means the engine's own version.
    """
    from trimtab.engine import upgrade as engine_upgrade

    if go_back == (source is not None):
        raise click.UsageError("give a wheel or a version, or --back")
    if source is None:
        engine_upgrade.back(target.data, _say, sure=yes)
    else:
        engine_upgrade.upgrade(target.data, source, _say, deadline_s=deadline_s)
