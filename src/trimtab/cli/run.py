"""`trimtab --context C run`: the components beside a Kubernetes that somebody else runs."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.cli.target import Target
from trimtab.engine.errors import EngineError

_PORT = click.IntRange(1, 65535)


@click.command()
@click.option("--listen", metavar="ADDRESS", default="0.0.0.0", show_default=True, help="Address of HTTP and HTTPS.")
@click.option("--http-port", type=_PORT, default=80, show_default=True, help="Port for plain HTTP.")
@click.option("--https-port", type=_PORT, default=443, show_default=True, help="Port for HTTPS.")
@click.option(
    "--admission-port",
    type=_PORT,
    help="Port at which the cluster's API server asks about writes of providers' kinds.  [default: a free one]",
)
@click.option(
    "--only",
    type=click.Choice(["apps", "infrastructure"]),
    multiple=True,
    help="Leave out the rest; `infrastructure` alone needs no pods in reach and no port for HTTP.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for the proxy's files, logs, the journal and programs of providers (~/.local/state/trimtab/HOST).",
)
@click.pass_obj
def run(
    target: Target,
    listen: str,
    http_port: int,
    https_port: int,
    admission_port: int | None,
    only: tuple[str, ...],
    state: Path | None,
) -> None:
    """Run apps, ingress and infrastructure for the cluster that --context names, in the foreground, until stopped.

    Installs what they need there (namespace trimtab-system, CRDs, roles) and leaves to the cluster what it has itself. To be
    run where pods are reached: on a node, or on a machine that the pod network is routed to.
    """
    import asyncio

    from trimtab.engine import beside
    from trimtab.engine.processes import start_logging, until_terminated

    if target.is_embedded:
        raise EngineError("run is for another cluster: name it with --context or --kubeconfig; ours is `trimtab start`")
    server = target.server()
    place = (state or beside.default_state(server)).absolute()
    options = beside.Options(place, listen, http_port, https_port, admission_port or 0, only)

    async def work() -> None:
        async with target.cluster_transport() as transport:
            await beside.run(transport, server, options, lambda line: click.echo(line, err=True))

    start_logging()
    asyncio.run(until_terminated(work))
