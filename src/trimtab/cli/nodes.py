"""`trimtab node list | add | remove | kill | partition | mend`."""

from __future__ import annotations

import click

from trimtab.cli.output import dump, mebibytes, output_option, table
from trimtab.cli.target import Target


def _say(line: str) -> None:
    click.echo(line)


@click.group()
def node() -> None:
    """Nodes of this machine: each has processes, a network and a disk of its own. The first one is the machine itself."""


@node.command("list")
@output_option("table", "json", "yaml")
@click.pass_obj
def list_nodes(target: Target, fmt: str) -> None:
    """Show every node with its network, disk and memory."""
    from trimtab.engine import nodes

    rows = nodes.report(target.settings())
    if fmt != "table":
        dump(rows, fmt)
        return
    shown = [
        (
            r["name"],
            r["ready"],
            r["address"],
            r["pods"],
            _amount(r["disk_bytes"]),
            _amount(r["pss_bytes"]),
            r["message"],
        )
        for r in rows
    ]
    table(("node", "state", "address", "pods", "disk", "memory", ""), shown)


def _amount(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else mebibytes(size_bytes)


@node.command()
@click.pass_obj
def add(target: Target) -> None:
    """Add a node and wait until it is ready."""
    from trimtab.engine import lifecycle, nodes
    from trimtab.runtime.settings import node_number

    lifecycle.require_root("trimtab node add")
    settings = target.settings()
    taken = {node_number(name) for name in settings.nodes}
    number = next(n for n in range(2, len(taken) + 3) if n not in taken)
    nodes.names(number)
    nodes.change(settings, (*settings.nodes, f"node-{number}"), _say)


@node.command()
@click.argument("name")
@click.option("--timeout", type=click.IntRange(0), metavar="SECONDS", help="How long budgets may hold it up (300).")
@click.option("--force", is_flag=True, help="Ask no disruption budget: stop the pods where they are.")
@click.pass_obj
def remove(target: Target, name: str, timeout: int | None, force: bool) -> None:
    """Have a node's pods leave, as their disruption budgets allow, and take it away with its disk. `local` volumes go with it."""
    from trimtab.engine import draining, lifecycle, nodes

    lifecycle.require_root("trimtab node remove")
    settings = target.settings()
    nodes.require(settings, name)
    drain_s = None if force else draining.DRAIN_S if timeout is None else timeout
    nodes.change(settings, [n for n in settings.nodes if n != name], _say, drain_s=drain_s)


@node.command()
@click.argument("name")
@click.pass_obj
def kill(target: Target, name: str) -> None:
    """Destroy a node as if it burned: every process killed at once, its disk deleted. For drills and tests."""
    from trimtab.engine import lifecycle, nodes

    lifecycle.require_root("trimtab node kill")
    nodes.kill(target.settings(), name, _say)


@node.command()
@click.argument("name")
@click.pass_obj
def partition(target: Target, name: str) -> None:
    """Cut a node off from everything else, its agent and its pods; `trimtab node mend` ends it."""
    from trimtab.engine import lifecycle, nodes

    lifecycle.require_root("trimtab node partition")
    nodes.partition(target.settings(), name, on=True)


@node.command()
@click.argument("name")
@click.pass_obj
def mend(target: Target, name: str) -> None:
    """End a node's partition."""
    from trimtab.engine import lifecycle, nodes

    lifecycle.require_root("trimtab node mend")
    nodes.partition(target.settings(), name, on=False)
