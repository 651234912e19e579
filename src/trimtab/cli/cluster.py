"""`trimtab cluster create | list | delete | reap | kubeconfig | load | freeze`."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.durations import seconds
from trimtab.cli.output import colour, dump, output_option, table
from trimtab.cli.target import Target
from trimtab.engine.errors import EngineError

if TYPE_CHECKING:
    from trimtab.engine.clusters.places import Cluster


def _tell(line: str) -> None:
    """Progress goes to stderr, so that stdout is for what was asked for."""
    click.echo(line, err=True)


@click.group()
@click.option(
    "--clusters",
    "home",
    envvar="TRIMTAB_CLUSTERS",
    type=click.Path(path_type=Path),
    default="/var/lib/trimtab-clusters",
    show_default=True,
    help="Where throw-away clusters are kept.  [env: TRIMTAB_CLUSTERS]",
)
@click.pass_context
def cluster(ctx: click.Context, home: Path) -> None:
    """Throw-away clusters on this machine: each an engine of its own, with networks, ports and data of its own."""
    ctx.meta["trimtab.clusters"] = home.absolute()


def _home() -> Path:
    home = click.get_current_context().meta["trimtab.clusters"]
    assert isinstance(home, Path)
    return home


@cluster.command()
@click.option("--count", type=click.IntRange(1, 64), default=1, show_default=True, help="How many, of each variant.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What is different about them, in YAML. May be given several times.",
)
@click.option(
    "--name", help="Name of the cluster, or what the names of several begin with (the variant's, or cluster)."
)
@click.option("--nodes", type=click.IntRange(1, 15), help="Nodes of each (1).")
@click.option("--like", metavar="NAME", help="Copies of this frozen cluster, with all that is in it.")
@click.option("--ttl", metavar="DURATION", help="Delete them after so long, such as 2h.")
@click.option("--owner", type=click.IntRange(1), metavar="PID", help="Delete them once this process has ended.")
@click.option("--jobs", type=click.IntRange(1, 64), help="How many are started at a time (twice the cores).")
@output_option("table", "json", "yaml")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def create(
    count: int,
    variants: tuple[Path, ...],
    ttl: str | None,
    owner: int | None,
    jobs: int | None,
    fmt: str,
    command: tuple[str, ...],
    **named: Any,
) -> None:
    """Make clusters and return once each serves.

    They stay until `trimtab cluster delete`, or as long as --ttl and --owner say. With a COMMAND (after --) they are there
    for it alone: it finds them by KUBECONFIG and TRIMTAB_CLUSTER_NAMES, and when it ends, however it ends, they go; the exit
    status is its own.
    """
    from trimtab.engine.clusters import create as making
    from trimtab.engine.clusters import leases, places, remove
    from trimtab.engine.clusters import variants as kinds

    if command and (ttl or owner):
        raise click.UsageError("with a COMMAND the clusters live as long as it: leave --ttl and --owner out")
    until_s = time.time() + seconds(ttl) if ttl else None
    if variants and named["like"]:
        raise click.UsageError("--like makes whole copies, of which no --variant can be had: leave one of the two out")
    lease = leases.Lease(until_s=until_s)
    if owner or command:
        held = leases.of_process(owner or os.getpid(), until_s)
        if held is None:
            raise EngineError(f"there is no process {owner}: give the pid of one that runs as --owner")
        lease = held
    chosen = tuple(map(kinds.read, variants)) or (kinds.Variant(),)
    wanted = making.Wanted(count, chosen, jobs=jobs or remove.JOBS, **named)
    began = time.monotonic()
    made = making.create(_home(), wanted, lease, _tell)
    _tell(
        f"{len(made)} {'cluster serves' if len(made) == 1 else 'clusters serve'} after {time.monotonic() - began:.1f} s"
    )
    if not command:
        _print([places.describe(one) for one in made], fmt)
        return
    try:
        status = _run(command, made)
    finally:
        remove.remove(_home(), made, _tell)
    raise click.exceptions.Exit(status)


def _run(command: tuple[str, ...], made: list[Cluster]) -> int:
    """Runs the user's command and returns its exit status, 128 + N for signal N, as a shell does."""
    from trimtab.confinement import calls

    ways = {
        "KUBECONFIG": ":".join(str(one.kubeconfig) for one in made),
        "TRIMTAB_CLUSTER_NAMES": " ".join(one.name for one in made),
    }
    try:
        done = subprocess.run(command, env=os.environ | ways, check=False, preexec_fn=calls.die_with_parent)
    except OSError as err:
        raise EngineError(f"{command[0]} cannot be run: {err.strerror}") from None
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _print(rows: list[dict[str, Any]], fmt: str) -> None:
    if fmt != "table":
        dump(rows, fmt)
        return
    shown = [
        (
            row["name"],
            colour(row["state"], "green" if row["state"] == "ready" else "yellow"),
            row.get("variant"),
            row.get("server"),
            _until(row),
            row.get("kubeconfig"),
        )
        for row in rows
    ]
    table(("name", "state", "variant", "server", "wanted until", "kubeconfig"), shown)


def _until(row: dict[str, Any]) -> str:
    ends = [row["until"]] if row.get("until") else []
    if row.get("owner_pid"):
        ends.append(f"{row['owner'] or 'process'} ({row['owner_pid']}) ends")
    return ", or ".join(ends) or "deleted"


@cluster.command("list")
@output_option("table", "json", "yaml")
def list_clusters(fmt: str) -> None:
    """Show the clusters, how to reach them, and until when each is wanted."""
    from trimtab.engine.clusters import places

    found = places.all_of(_home())
    if not found and fmt == "table":
        _tell(f"no clusters in {_home()}")
        return
    _print([places.describe(one) for one in found], fmt)


@cluster.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
def delete(names: tuple[str, ...], everything: bool) -> None:
    """Delete clusters, with all they made on this machine."""
    from trimtab.engine.clusters import places, remove

    if bool(names) == everything:
        raise click.UsageError("give the names of clusters, or --all")
    home = _home()
    doomed = places.all_of(home) if everything else [places.get(home, name) for name in dict.fromkeys(names)]
    remove.remove(home, doomed, click.echo)
    if everything and not places.all_of(home):
        places.forget_home(home)


@cluster.command()
def reap() -> None:
    """Delete the clusters that nobody wants any more: whose time is up, whose owner has ended."""
    from trimtab.engine import lifecycle
    from trimtab.engine.clusters import remove

    lifecycle.require_root("trimtab cluster reap")
    if not remove.reap(_home(), click.echo):
        click.echo("nothing to reap")


@cluster.command()
@click.argument("name")
def kubeconfig(name: str) -> None:
    """Print a cluster's kubeconfig; its context is called NAME."""
    from trimtab.engine.clusters import places

    one = places.get(_home(), name)
    try:
        click.echo(one.kubeconfig.read_text(), nl=False)
    except OSError as err:
        raise EngineError(f"{one.kubeconfig} cannot be read: {err.strerror}") from None


@cluster.command()
@click.argument("images", nargs=-1)
@click.option("--into", multiple=True, metavar="NAME", help="Only these clusters; new ones get them anyway. (All.)")
@click.pass_obj
def load(target: Target, images: tuple[str, ...], into: tuple[str, ...]) -> None:
    """Give the clusters IMAGES of the engine at --data, by tag; without any named, all it has.

    Each has them unpacked when this returns. Clusters that are made later have them from the start.
    """
    from trimtab.engine import lifecycle
    from trimtab.engine.clusters import images as shared
    from trimtab.engine.clusters import places

    lifecycle.require_root("trimtab cluster load")
    home = _home()
    names = shared.collect(home, target.settings().data_path("content"), images)
    clusters = [places.get(home, name) for name in into] or [one for one in places.all_of(home) if not one.is_over()]
    began = time.monotonic()
    shared.load(home, clusters, names)
    _tell(f"{len(names)} images in {len(clusters)} clusters after {time.monotonic() - began:.1f} s")


@cluster.command()
@click.argument("name")
def freeze(name: str) -> None:
    """Stop a cluster for good, so that others can begin as copies of it: `trimtab cluster create --like NAME`."""
    from trimtab.engine import lifecycle
    from trimtab.engine.clusters import copies, places

    lifecycle.require_root("trimtab cluster freeze")
    copies.freeze(places.get(_home(), name))
    click.echo(f"{name}: frozen")
