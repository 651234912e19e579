"""The root of the command tree. A command's module is imported only when the command is used, so that `trimtab --help`
and completion stay fast however much there is to import behind a command.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from trimtab.cli.contributed import CONTRIBUTED

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "The engine on this machine": {
        "start": ("trimtab.cli.engine:start", "Start the engine, or make it; returns when it serves."),
        "stop": ("trimtab.cli.engine:stop", "Stop the engine and its pods, in order."),
        "node": ("trimtab.cli.nodes:node", "List, add, remove or destroy nodes of this machine."),
        "status": ("trimtab.cli.engine:status", "Show processes, node and apps."),
        "check": ("trimtab.cli.engine:check", "Check that this machine can run everything."),
        "kubeconfig": ("trimtab.cli.engine:kubeconfig", "Print a kubeconfig for the embedded API."),
        "token": ("trimtab.cli.tokens:token", "Named tokens: who may use the API, and until when."),
        "backup": ("trimtab.cli.backup:backup", "Back up everything, encrypted; list, verify, delete backups."),
        "upgrade": ("trimtab.cli.upgrade:upgrade", "Upgrade the running engine; pods and proxy go on."),
        "restore": ("trimtab.cli.backup:restore", "Make the engine of a backup on an empty machine."),
        "uninstall": ("trimtab.cli.engine:uninstall", "Stop the engine and remove every trace of it."),
    },
    "Throw-away clusters": {
        "cluster": ("trimtab.cli.cluster:cluster", "Make, list and delete clusters for tests."),
    },
    "Another cluster (--context)": {
        "run": ("trimtab.cli.run:run", "Run apps and infrastructure for a Kubernetes that somebody else runs."),
    },
    "Pipelines": {
        "ci": ("trimtab.cli.ci.group:ci", "Run the pipeline of ship.py; no engine is needed."),
    },
    "Objects": {
        "get": ("trimtab.cli.objects:get", "List objects, or show one."),
        "describe": ("trimtab.cli.describe:describe", "Show one object, its events and its last changes."),
        "apply": ("trimtab.cli.objects:apply", "Create or change objects from files."),
        "delete": ("trimtab.cli.objects:delete", "Delete objects."),
        "plan": ("trimtab.cli.plan:plan", "What would change, before it does."),
        "logs": ("trimtab.cli.pods:logs", "Print a container's output."),
        "exec": ("trimtab.cli.pods:exec_command", "Run a command in a container."),
        "debug": ("trimtab.cli.debug:debug", "A shell with tools beside a container, whatever its image has."),
    },
    "What happened": {
        "timeline": ("trimtab.cli.history:timeline", "What happened, in order; -f follows."),
        "why": ("trimtab.cli.history:why", "Why an object is as it is: the chain of causes."),
        "graph": ("trimtab.cli.history:graph", "Which component reads and writes what."),
    },
    "Secrets": {
        "secret": ("trimtab.cli.secret:secret", "Secrets in git: SOPS files with age keys."),
    },
    "From components": CONTRIBUTED,
}


ELSEWHERE = {
    "top": "`trimtab status` shows the engine, `kubectl top pods` the pods, `trimtab profile top` the functions",
    "ui": "`trimtab status` says where the dashboard is",
    "dashboard": "`trimtab status` says where the dashboard is",
    "ps": "`trimtab get pods`, or `trimtab status`",
    "events": "`trimtab timeline`",
    "push": "`trimtab remote NAME` once, then git push",
}
"""What people type who know other tools, and what it is called here; the nearest name could be another thing altogether (top: stop)."""


class Root(click.Group):
    """The group of all commands, by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for commands in SECTIONS.values():
            if cmd_name in commands:
                module, _, attribute = commands[cmd_name][0].partition(":")
                command = getattr(importlib.import_module(module), attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            import difflib

            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            if name in ELSEWHERE:
                hint = f": {ELSEWHERE[name]}"
            else:
                hint = f": did you mean `trimtab {close[0]}`?" if close else ": `trimtab --help` lists all"
            raise click.UsageError(f"there is no command {name!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            if commands:
                with formatter.section(section):
                    formatter.write_dl([(name, text) for name, (_, text) in commands.items()], col_max=14)


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 the engine does not run, 4 no such object.",
)
@click.option(
    "--data",
    envvar="TRIMTAB_DATA",
    type=click.Path(path_type=Path, file_okay=True),
    default="/var/lib/trimtab",
    show_default=True,
    help="The engine that the command means, by its data directory.  [env: TRIMTAB_DATA]",
)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Another cluster, by its kubeconfig file.")
@click.option("--context", "context_name", help="Another cluster, by its context in the kubeconfig.")
@click.version_option(package_name="trimtab", message="%(prog)s %(version)s")
@click.pass_context
def root(ctx: click.Context, /, data: Path, **cluster: Any) -> None:
    """Declare what should exist; Trimtab builds it, ships it, keeps it so, and says why anything changed."""
    from trimtab.cli.target import Target

    ctx.obj = Target(Path(data).absolute(), cluster["kubeconfig"], cluster["context_name"])
