"""`trimtab up`: the terminal of `shipping.py`. One line a step that is done; on a terminal, the step under way too."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import click

from trimtab.api import to_wire
from trimtab.client import Client, HttpTransport
from trimtab.components.apps import declaration, shipping
from trimtab.content import ContentError, ContentStore, Credentials
from trimtab.runtime.commands import Refused

TOLD_EVERY_S = 5.0
"""Off a terminal a build says no more often what it is at, so that a log shows that it lives and is not filled."""


class Target(Protocol):
    """What the command line's global options named."""

    @property
    def is_embedded(self) -> bool: ...

    def content_directory(self) -> Path: ...

    def transport(self) -> HttpTransport: ...

    def build(
        self,
        directory: Path,
        work: Callable[[Callable[[Any], None]], Any],
        on_message: Callable[[Any], None],
        *,
        own_users: bool,
    ) -> Any: ...

    def sign(self, references: Sequence[str]) -> None: ...


class Screen:
    """Progress for a person on stderr, so that stdout stays for `-o json`."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._step_started: dict[str, float] = {}
        self._said = ""
        self._said_at = self._started

    def __call__(self, step: shipping.Step) -> None:
        began = self._step_started.setdefault(step.name, time.monotonic())
        line = f"{self._app}  {step.name:<15} {step.text}"
        if step.done:
            took = time.monotonic() - began
            self._write(f"{line}  {took:.1f} s", end=True)
        elif self._live:
            self._write(line, end=False)
        elif line != self._said and (step.name == "engine" or time.monotonic() - self._said_at >= TOLD_EVERY_S):
            self._said = line
            self._write(line, end=True)

    def _write(self, line: str, *, end: bool) -> None:
        self._said_at = time.monotonic()
        width = shutil.get_terminal_size().columns - 1
        if self._live:
            click.echo(f"\r\x1b[2K{line if end else line[:width]}", nl=end, err=True)
        else:
            click.echo(line, err=True)

    def clear(self) -> None:
        if self._live:
            click.echo("\r\x1b[2K", nl=False, err=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("-n", "--namespace", default="default", show_default=True, help="The namespace that the app lives in.")
@click.option(
    "--registry",
    envvar="TRIMTAB_REGISTRY",
    metavar="HOST[:PORT][/PATH]",
    help="Where images go for another cluster, whose nodes pull from there.  [env: TRIMTAB_REGISTRY]",
)
@click.option("--timeout", "timeout_s", type=click.IntRange(1), default=600, show_default=True, help="Seconds to wait.")
@click.option("--no-wait", is_flag=True, help="Return when the app is applied; the engine goes on alone.")
@click.option("--check", is_flag=True, help="Only check the declaration; build and apply nothing.")
@click.option("--print", "printed", is_flag=True, help="Only build, and print the objects as YAML; apply nothing.")
@click.option("-o", "--output", "fmt", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def up(
    target: Target,
    directory: Path,
    namespace: str,
    registry: str | None,
    timeout_s: int,
    no_wait: bool,
    check: bool,
    printed: bool,
    fmt: str,
) -> None:
    """Ship the app in DIRECTORY and keep it up.

    Reads ship.py or ship.yaml, builds the image (an unchanged one is found, not built), applies the App and waits until
    it serves. A version that does not get ready, or fails its migration, never takes traffic: the one before it serves
    on, and the exit status is 1. It may be interrupted and run again at any time.
    """
    try:
        app = declaration.load(directory)
        app.given_values(os.environ)
        if check:
            click.echo(f"{app.name}: valid")
            return
        screen = Screen(app.name)
        if not target.is_embedded:
            asyncio.run(_check_cluster(target, app))
        images = _build(target, app, directory, registry, screen)
        if printed:
            screen.clear()
            click.echo(_objects(app, namespace, images), nl=False)
            return
        result = asyncio.run(_up(target, app, images, screen, namespace, timeout_s, no_wait))
    except (declaration.BadDeclaration, ContentError, shipping.ShippingFailed) as err:
        raise Refused(" ".join(str(err).split("\n"))) from None
    if fmt == "json":
        click.echo(json.dumps(result, indent=2))
    elif result["url"] and not no_wait:
        click.echo(f"{app.name} serves at {result['url']}  ({result['seconds']} s)")
    else:
        click.echo(f"{app.name}: {'applied' if no_wait else 'up'}  ({result['seconds']} s)")


def _objects(app: declaration.App, namespace: str, images: tuple[str, str | None]) -> str:
    """What would be applied, as YAML: for a cluster that gets its objects in another way."""
    import yaml

    secret = shipping.given_secret(app, namespace, os.environ)
    found = [*([] if secret is None else [secret]), app.resource(namespace, *images)]
    return str(yaml.safe_dump_all([to_wire(one) for one in found], sort_keys=False, explicit_start=True))


async def _check_cluster(target: Target, app: declaration.App) -> None:
    async with target.transport() as transport:
        await shipping.check_cluster(app, Client(transport, agent=shipping.MANAGER))


def _build(
    target: Target, app: declaration.App, directory: Path, registry: str | None, screen: Screen
) -> tuple[str, str | None]:
    """The images of the app and its database, built by a process that can reach nothing else of the engine; for another
    cluster they go to the registry that its nodes pull from."""
    if isinstance(app.image, str) and app.database is None:
        return app.image, None  # nothing to build
    if not target.is_embedded and not registry:
        raise Refused(
            "the nodes of another cluster pull images from a registry: name one that they reach and you may push to, with "
            "--registry HOST/PATH or TRIMTAB_REGISTRY"
        )
    content = target.content_directory()
    directory = directory.resolve()
    logins = Credentials.load()  # ours, not those of the user that builds

    def work(send: Callable[[Any], None]) -> Any:
        return asyncio.run(
            shipping.build_images(
                app,
                directory,
                ContentStore(content),
                lambda step: send([step.name, step.text, step.done]),
                logins,
            )
        )

    own_users = not isinstance(app.image, str) and app.image.dockerfile is not None
    images = target.build(directory, work, lambda said: screen(shipping.Step(*said)), own_users=own_users)
    if not target.is_embedded:
        assert registry is not None
        images = asyncio.run(shipping.push_images(images, ContentStore(content), registry, screen, logins))
    image, database = images
    target.sign([one for one in (image, database) if one and one.startswith(f"{shipping.BUILT_HERE}/")])
    return image, database


async def _up(
    target: Target,
    app: declaration.App,
    images: tuple[str, str | None],
    screen: Screen,
    namespace: str,
    timeout_s: int,
    no_wait: bool,
) -> dict[str, Any]:
    async with target.transport() as transport:
        client = Client(transport, agent=shipping.MANAGER)
        applied = await shipping.apply(app, client, namespace, images, os.environ)
        try:
            if not no_wait:
                applied = await shipping.watch_until_serving(client, applied, timeout_s, screen)
        finally:
            screen.clear()
    return {
        "name": app.name,
        "namespace": namespace,
        "image": images[0],
        "url": applied.status.url,
        "seconds": round(screen.seconds, 2),
    }
