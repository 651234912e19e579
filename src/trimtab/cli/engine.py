"""`trimtab start | stop | status | check | kubeconfig | uninstall`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from trimtab.cli.output import age, colour, dump, mebibytes, output_option, table
from trimtab.cli.target import Target

_PORT = click.IntRange(1, 65535)


def _say(line: str) -> None:
    click.echo(line)


def _domain(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A domain in lower case, without the final dot."""
    if value is None:
        return None
    domain = value.lower().rstrip(".")
    if not re.fullmatch(
        r"(?=.{1,200}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", domain
    ):
        raise click.BadParameter(f"{value!r} is no domain: write one like cluster.local")
    return domain


def _node_config(context: click.Context, option: click.Parameter, value: Path | None) -> dict[str, Any] | None:
    """What a file says about nodes under pressure."""
    if value is None:
        return None
    from trimtab.components.node.node_config import BadNodeConfig, read

    try:
        return read(value)
    except BadNodeConfig as err:
        raise click.BadParameter(str(err)) from None


@click.command()
@click.option("--port", type=_PORT, help="Port of the API (6443 when free).")
@click.option("--http-port", type=_PORT, help="Port for plain HTTP (80 when free).")
@click.option("--https-port", type=_PORT, help="Port for HTTPS (443 when free).")
@click.option("--web-port", type=_PORT, help="Port of the dashboard (8080 when free).")
@click.option("--listen", metavar="ADDRESS", help="Address that API, dashboard and HTTP listen on (127.0.0.1).")
@click.option(
    "--nodes", type=click.IntRange(1, 15), help="Nodes on this machine, each with a disk and network of its own (1)."
)
@click.option("--cluster-domain", metavar="DOMAIN", callback=_domain, help="Domain of service names (cluster.local).")
@click.option(
    "--proxy-protocol/--no-proxy-protocol",
    default=None,
    help="HTTP and HTTPS connections begin with a PROXY header, v1 or v2, of a load balancer before the ingress.",
)
@click.option(
    "--node-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=_node_config,
    help="A KubeletConfiguration: eviction thresholds, image garbage collection, process and log limits.",
)
@click.option(
    "--node-lease",
    "node_lease_s",
    type=click.IntRange(2, 3600),
    metavar="SECONDS",
    help="How long a node may be silent before its pods get no requests (40).",
)
@click.option("--no-node", is_flag=True, help="Only the API and the controllers: no containerd, no pods.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground until stopped (what systemd runs).")
@click.option("--enable", is_flag=True, help="Also start the engine at every boot (systemd).")
@click.option("--profiling", is_flag=True, help="Measure every process from now on, as `trimtab profile enable` does.")
@click.pass_obj
def start(
    target: Target, /, nodes: int | None, no_node: bool, foreground: bool, enable: bool, profiling: bool, **named: Any
) -> None:
    """Start the engine and return when it serves.

    Makes the engine at --data when there is none. An engine that already runs is left alone. Ports and address are kept
    for the next start.
    """
    from trimtab.engine import lifecycle

    lifecycle.require_root("trimtab start")
    if profiling and (foreground or no_node):
        raise click.UsageError(
            "--profiling is for an engine in the background, with a node: use `trimtab profile enable`"
        )
    names = {"port": "api_port"}
    chosen = {names.get(name, name): value for name, value in named.items() if value is not None}
    options = lifecycle.Options(chosen, node=not no_node, foreground=foreground, nodes=nodes)
    if enable:
        from trimtab.engine import systemd

        for line in systemd.enable(target.data, options):
            _say(line)
        lifecycle.wait_for_running(target.data, options, _say)
    else:
        lifecycle.start(target.data, options, _say)
    if profiling:
        _enable_profiling(target)


def _enable_profiling(target: Target) -> None:
    """Where the machine can: what it lacks is told in one line, and nothing else is the worse for it."""
    import asyncio

    from trimtab.components.profiling.commands import enabled
    from trimtab.components.profiling.needs import perf_event

    if (problem := perf_event()) is not None:
        _say(f"profiling stays off: {problem}")
        return

    async def enable() -> None:
        async with target.client() as client:
            await enabled(client, {}, wait=False)

    asyncio.run(enable())
    _say("profiling: on; `trimtab profile top` shows what costs most")


@click.command()
@click.option("--keep-pods", is_flag=True, help="Leave containers and Envoy running; the next start takes them over.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(0, 3600),
    default=60,
    show_default=True,
    help="Seconds that a pod may take to end, however long its own grace period is.",
)
@click.option(
    "--main-pid", help="Of systemd: the supervisor that it wants stopped; empty when that has ended.", hidden=True
)
@click.pass_obj
def stop(target: Target, keep_pods: bool, timeout_s: int, main_pid: str | None) -> None:
    """Stop the engine and its pods, in order. Objects and volumes stay; the next start brings the pods back."""
    from trimtab.engine import lifecycle, systemd

    if main_pid == "":
        return  # it ended by itself: systemd starts it again, and what it left running is taken over
    if main_pid is None and not keep_pods and systemd.runs(target.data):
        lifecycle.require_root("trimtab stop")
        systemd.stop(target.data)
        _say(f"stopped {systemd.unit_name(target.data)}: the engine starts again at boot, or by `systemctl start`")
        return
    lifecycle.stop(target.settings(), keep_pods=keep_pods, say=_say, timeout_s=timeout_s)


@click.command()
@output_option("table", "json", "yaml")
@click.pass_obj
def status(target: Target, fmt: str) -> None:
    """Show the engine's processes with their memory and CPU, its node and its apps. Exit status 3: it does not run."""
    from trimtab.engine import status as engine_status

    report = engine_status.report(target.settings())
    if fmt != "table":
        dump(report, fmt)
    else:
        _print_status(report)
    if report["state"] == "stopped":
        raise click.exceptions.Exit(3)


def _print_status(report: dict[str, Any]) -> None:
    state = report["state"]
    click.echo(
        f"engine {report['id']} at {report['data']}: {colour(state, 'green' if state == 'running' else 'yellow')}"
    )
    if report["processes"]:
        rows = [
            (
                p["name"],
                p["pid"],
                p["state"],
                mebibytes(p["rss_bytes"]),
                f"{p['cpu_percent']:.2f} %",
                f"{p['cpu_s']:.1f} s",
                p["restarts"],
                age(p["age_s"]),
            )
            for p in report["processes"]
        ]
        table(("process", "pid", "state", "memory", "cpu", "cpu time", "restarts", "age"), rows)
        click.echo(f"memory in all: {mebibytes(report['pss_bytes'])} (shared pages counted once)")
    for node in report["nodes"]:
        click.echo(
            f"node {node['name']}: {node['ready']}, {node['pods']} pods"
            + (f" ({node['message']})" if node["message"] else "")
        )
    for app in report["apps"]:
        said = f" ({app['message']})" if app["message"] else ""
        url = f"  {app['url']}" if app["url"] else ""
        click.echo(f"app {app['namespace']}/{app['name']}: {app['ready']}{said}{url}")
    if profiling := report["profiling"]:
        click.echo(f"profiling: {profiling['reason']}" + (f" ({profiling['message']})" if profiling["message"] else ""))
    for view in report["views"]:
        if view["troubled"]:
            click.echo(f"{view['title'].lower()}: {view['troubled']} need attention, first in the dashboard's view")
    for problem in report["problems"]:
        click.echo(colour(problem, "yellow"))
    if state == "running":
        click.echo(f"API {report['api']}, dashboard {report['web']}")


@click.command()
@output_option("table", "json", "yaml")
@click.pass_obj
def check(target: Target, fmt: str) -> None:
    """Check that this machine has what the engine and every component need. Exit status 1: something is missing."""
    from trimtab.engine import check as engine_check

    findings = engine_check.run(target.data)
    if fmt != "table":
        dump([{"name": f.name, "level": f.level, "message": f.message} for f in findings], fmt)
    else:
        marks = {"ok": colour("ok     ", "green"), "note": "note   ", "missing": colour("missing", "red")}
        for finding in findings:
            click.echo(f"{marks[finding.level]}  {finding.name}" + (f": {finding.message}" if finding.message else ""))
    if any(f.level == "missing" for f in findings):
        raise click.exceptions.Exit(1)


@click.command()
@click.pass_obj
def kubeconfig(target: Target) -> None:
    """Print a kubeconfig for the embedded API, with the administrator's token: `trimtab kubeconfig > ~/.kube/config`."""
    import os

    from trimtab.engine.access import admin_kubeconfig, write_kubeconfig

    settings = target.settings()
    text = admin_kubeconfig(settings)
    if os.geteuid() == 0:
        write_kubeconfig(settings)  # puts a damaged DATA/admin.kubeconfig right
    click.echo(text, nl=False)


@click.command()
@click.option("--yes", is_flag=True, help="Also delete the data: objects, volumes, images, journal. Cannot be undone.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(0, 3600),
    help="Seconds that a pod may take to end (60; 10 when its data goes too).",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --context: the directory of its `trimtab run` (~/.local/state/trimtab/HOST).",
)
@click.pass_obj
def uninstall(target: Target, yes: bool, timeout_s: int | None, state: Path | None) -> None:
    """Stop the engine and remove what it left on this machine.

    Networks, cgroups, mounts, sockets and the systemd unit go. The data directory goes only with --yes; without it, the
    command says what it would delete. With --context: what `trimtab run` has put into that cluster, once it has ended.

    What providers made for its objects (servers, clusters ...) stays where it is, and is named: delete the objects first if it is to go.
    """
    from trimtab.cli.outside import say_what_stays

    say_what_stays(target, _say)
    if not target.is_embedded:
        import asyncio

        from trimtab.engine.departing import depart

        async def leave() -> None:
            async with target.client() as client:
                await depart(client, target.runner(), really=yes, say=_say)

        target.state = state
        asyncio.run(leave())
        return
    from trimtab.engine import uninstall as engine_uninstall

    engine_uninstall.uninstall(target.data, delete_data=yes, say=_say, timeout_s=timeout_s)
