"""`trimtab logs` and `trimtab exec`."""

from __future__ import annotations

import asyncio
import sys

import click

from trimtab.api import ResourceType
from trimtab.api.core import Pod
from trimtab.cli.objects import _NAMESPACE
from trimtab.cli.target import Target
from trimtab.engine.errors import NotFound

_POD: ResourceType = Pod.resource_type


@click.command()
@click.argument("pod")
@_NAMESPACE
@click.option("-c", "--container", help="Which container; needed when the pod has several.")
@click.option("-f", "--follow", is_flag=True, help="Go on as it comes.")
@click.option("-p", "--previous", is_flag=True, help="Of the container before its last restart.")
@click.option("--tail", type=click.IntRange(0), help="Only the last so many lines.")
@click.option("--since", metavar="DURATION", help="Only what is newer: 30s, 5m, 2h.")
@click.option("--timestamps", is_flag=True, help="With the time of each line.")
@click.pass_obj
def logs(
    target: Target,
    pod: str,
    namespace: str | None,
    container: str | None,
    follow: bool,
    previous: bool,
    tail: int | None,
    since: str | None,
    timestamps: bool,
) -> None:
    """Print what a container wrote. POD may also be written pod/NAME."""
    from trimtab.cli.durations import seconds

    query: dict[str, str] = {}
    for name, value in (
        ("container", container),
        ("follow", "true" if follow else None),
        ("previous", "true" if previous else None),
        ("tailLines", tail),
        ("sinceSeconds", max(1, round(seconds(since))) if since else None),
        ("timestamps", "true" if timestamps else None),
    ):
        if value is not None:
            query[name] = str(value)

    async def run() -> None:
        where = namespace or target.default_namespace()
        async with target.client() as client:
            response = await client.send("GET", _POD.path(where, _name(pod), "log"), query, stream=True)
            try:
                async for piece in response.chunks():
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()
            finally:
                await response.close()

    asyncio.run(run())


def _name(pod: str) -> str:
    kind, _, name = pod.rpartition("/")
    if kind not in ("", "pod", "pods", "po"):
        raise NotFound(f"{pod}: give a pod; `trimtab get pods` lists them")
    return name


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("pod")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_NAMESPACE
@click.option("-c", "--container", help="Which container; needed when the pod has several.")
@click.option("-i", "--stdin", is_flag=True, help="Pass our standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.pass_obj
def exec_command(
    target: Target,
    pod: str,
    command: tuple[str, ...],
    namespace: str | None,
    container: str | None,
    stdin: bool,
    tty: bool,
) -> None:
    """Run a command in a container; its exit status becomes ours.

    \b
    trimtab exec web-0 -- ls /srv
    trimtab exec -it web-0 sh
    """
    from trimtab.cli import terminal

    words = [word for index, word in enumerate(command) if not (index == 0 and word == "--")]
    query = [("command", word) for word in words]
    query += [
        ("stdout", "true"),
        ("stderr", "false" if tty else "true"),
        ("stdin", str(stdin).lower()),
        ("tty", str(tty).lower()),
    ]
    if container:
        query.append(("container", container))
    where = namespace or target.default_namespace()
    status = asyncio.run(
        terminal.converse(
            target, _POD.path(where, _name(pod), "exec"), query, stdin=stdin, tty=tty and sys.stdin.isatty()
        )
    )
    raise click.exceptions.Exit(status)
