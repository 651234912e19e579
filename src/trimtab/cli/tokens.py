"""`trimtab token create | list | renew | revoke`: who may use the API, for what, and until when."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import click

from trimtab.cli.durations import seconds
from trimtab.cli.output import age, dump, output_option, table
from trimtab.cli.target import Target
from trimtab.engine.errors import EngineError

if TYPE_CHECKING:
    from trimtab.client import Client
    from trimtab.client.users import NamedToken

T = TypeVar("T")

_EXPIRES = click.option("--expires", default="90d", show_default=True, metavar="DURATION", help="How long it is valid.")
_SHOWN = output_option("kubeconfig", "token", "json")


@click.group()
def token() -> None:
    """Named tokens for people and machines. Each expires, and can be revoked at any time."""


@token.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(("view", "deploy", "admin")),
    default="view",
    show_default=True,
    help="view: read all but Secrets. deploy: also change apps and workloads, write Secrets; no shell in pods. "
    "admin: everything.",
)
@click.option("-n", "--namespace", "namespaces", multiple=True, help="Only in this namespace; repeat for more.")
@_EXPIRES
@_SHOWN
@click.pass_obj
def create(target: Target, name: str, role: str, namespaces: tuple[str, ...], expires: str, fmt: str) -> None:
    """Make a token and print a kubeconfig with it. It is shown this once and kept nowhere.

    \b
    trimtab token create anna --role admin > anna.kubeconfig
    trimtab token create ci --role deploy -n web --expires 30d -o token
    """
    from trimtab.client import users

    life = timedelta(seconds=seconds(expires))
    made, text = _with_client(target, lambda client: users.create(client, name, role, namespaces, life))
    _show(target, made, text, fmt)


@token.command("list")
@output_option("table", "json", "yaml")
@click.pass_obj
def list_tokens(target: Target, fmt: str) -> None:
    """Show all named tokens, their rights and when they expire."""
    from trimtab.client import users

    found = _with_client(target, users.tokens)
    if fmt != "table":
        dump([known.wire() for known in found], fmt)
        return
    if not found:
        click.echo("there are no named tokens: `trimtab token create NAME` makes one", err=True)
        return
    now = datetime.now(UTC)
    rows = [(known.name, known.role, ", ".join(known.namespaces) or "all", _left(known, now)) for known in found]
    table(("name", "role", "namespaces", "expires"), rows)


@token.command()
@click.argument("name")
@_EXPIRES
@_SHOWN
@click.pass_obj
def renew(target: Target, name: str, expires: str, fmt: str) -> None:
    """Replace a token by a new one with the same rights; the old one ends at once."""
    from trimtab.client import users

    life = timedelta(seconds=seconds(expires))
    made, text = _with_client(target, lambda client: users.renew(client, name, life))
    _show(target, made, text, fmt)


@token.command()
@click.argument("name")
@click.pass_obj
def revoke(target: Target, name: str) -> None:
    """End a token at once, with every watch and stream that it has open."""
    from trimtab.client import users

    _with_client(target, lambda client: users.revoke(client, name))
    click.echo(f"token {name} is revoked")


def _with_client(target: Target, work: Callable[[Client], Awaitable[T]]) -> T:
    """Raises `EngineError`: what `work` refused, in one line."""
    from trimtab.client import Client
    from trimtab.client.users import UserError

    async def run() -> T:
        async with target.transport() as transport:
            return await work(Client(transport, agent="trimtab-token"))

    try:
        return asyncio.run(run())
    except UserError as err:
        raise EngineError(str(err)) from None


def _left(known: NamedToken, now: datetime) -> str:
    if known.expires is None:
        return ""
    if known.is_expired(now):
        return f"expired {age((now - known.expires).total_seconds())} ago"
    return f"{known.expires:%Y-%m-%d %H:%M} UTC (in {age((known.expires - now).total_seconds())})"


def _show(target: Target, made: NamedToken, text: str, fmt: str) -> None:
    from trimtab.client.kubeconfig import kubeconfig_text

    if fmt == "json":
        dump(made.wire() | {"token": text}, "json")
        return
    if fmt == "token":
        click.echo(text)
    else:
        cluster, access = target.cluster_access()
        access.token = text
        access.namespace = made.namespaces[0] if made.namespaces else "default"
        click.echo(kubeconfig_text(cluster, made.name, access), nl=False)
    where = f"in {', '.join(made.namespaces)}" if made.namespaces else "in all namespaces"
    click.echo(f"{made.name}: {made.role} {where}, expires {made.expires:%Y-%m-%d %H:%M} UTC; shown only now", err=True)
    if target.is_embedded and ipaddress.ip_address(target.settings().listen).is_loopback:
        click.echo(
            "the API is reached from this machine only: `trimtab start --listen ADDRESS` opens it to others", err=True
        )
