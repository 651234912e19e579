"""`trimtab up`, without its terminal: from a directory to an App that serves.

    declaration  ship.py is read and checked                 (nothing has happened yet)
    image        the app's image, and PostgreSQL's            (content store; an unchanged one is found, not built)
    apply        the App and the values of given secrets      (the API; from here on the engine keeps it so)
    watch        what the engine reports, until it serves     (killing `up` changes nothing any more)

Every step can be repeated, so an `up` that was killed half-way is simply run again.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from trimtab.api.core import Namespace, Secret
from trimtab.client import ApiError, Client
from trimtab.components.apps import declaration, kinds
from trimtab.content import BuiltImage, ContentStore, Credentials, build, postgres_image
from trimtab.content.builder import Progress
from trimtab.content.builder import Step as BuildStep

MANAGER = "trimtab-up"
FAILED_AT_ONCE = ("MigrationFailed", "SecretMissing")
"""States that do not mend by waiting."""
FAILED_AFTER_S = {"NotReady": 30.0}
"""States that may pass (a first crash while the database starts) but not forever."""


class ShippingFailed(Exception):
    """The new version does not serve; the text is the App's own line."""


@dataclass(frozen=True)
class Step:
    """What is being done now: `name` is image, database image, apply or engine; `done` ends it."""

    name: str
    text: str
    done: bool = False


Report = Callable[[Step], None]


async def build_images(
    app: declaration.App, directory: Path, store: ContentStore, report: Report, logins: Credentials | None = None
) -> tuple[str, str | None]:
    """The references by digest of the app's image and of its database's, built where they are not there yet. `logins`: for
    private base images.

    Raises:
        trimtab.content.ContentError: one line, naming the package, requirement or file at fault.
    """

    def progress(name: str) -> Progress:
        def told(step: BuildStep) -> None:
            part = f" {step.fraction:.0%}" if step.fraction is not None else ""
            report(Step(name, f"{step.name}{part} {step.detail}".rstrip()))

        return told

    if isinstance(app.image, str):
        image = app.image
    else:
        built = await build(
            app.image.spec(app.name), store, context=directory, progress=progress("image"), credentials=logins
        )
        image = built.ref
        report(Step("image", _summary(built), done=True))
    if app.database is None:
        return image, None
    made = await build(postgres_image(app.database.version), store, progress=progress("database image"))
    report(Step("database image", _summary(made), done=True))
    return image, made.ref


def _summary(built: BuiltImage) -> str:
    fresh = [layer.name for layer in built.layers if not layer.cached]
    what = f"built {', '.join(fresh)}" if fresh else "unchanged"
    return f"{what}, {built.size / 1e6:.0f} MB ({built.digest[:19]}…)"


async def apply(
    app: declaration.App, client: Client, namespace: str, images: tuple[str, str | None], environ: Mapping[str, str]
) -> kinds.App:
    """Applies the App and its given secrets; returns the App as the API has it."""
    values = app.given_values(environ)
    if await client.get(Namespace, namespace) is None:
        made = Namespace()
        made.metadata.name = namespace
        await client.apply(made, manager=MANAGER)
    if values:
        secret = Secret(data={k: base64.b64encode(v.encode()).decode() for k, v in values.items()})
        secret.metadata.name, secret.metadata.namespace = app.given_secret, namespace
        await client.apply(secret, manager=MANAGER)
    return await client.apply(app.resource(namespace, *images), manager=MANAGER)


async def watch_until_serving(client: Client, app: kinds.App, timeout_s: float, report: Report) -> kinds.App:
    """Follows the App until it serves what was applied.

    Raises:
        ShippingFailed: it will not, or not within `timeout_s`; the version before it serves on.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    failing_since: dict[str, float] = {}
    said = ""
    async with aclosing(_states(client, app)) as states:
        while True:
            waiting = [deadline, *(since + FAILED_AFTER_S[reason] for reason, since in failing_since.items())]
            try:
                state = await asyncio.wait_for(anext(states), max(0.0, min(waiting) - loop.time()))
            except TimeoutError:
                raise ShippingFailed(said or "the engine did not take the app up; see `trimtab status`") from None
            ready = {c.type: c for c in state.status.conditions}.get("Ready")
            if ready is None or state.status.observed_generation < app.metadata.generation:
                continue
            if ready.status == "True":
                report(Step("engine", "serving", done=True))
                return state
            if ready.message != said:
                said = ready.message
                report(Step("engine", said))
            if ready.reason in FAILED_AT_ONCE:
                raise ShippingFailed(said)
            if ready.reason in FAILED_AFTER_S:
                failing_since.setdefault(ready.reason, loop.time())
            else:
                failing_since.clear()


async def _states(client: Client, app: kinds.App) -> AsyncGenerator[kinds.App, None]:
    """The App now and after each change; goes on over a restart of the API server."""
    only = f"metadata.name={app.name}"
    while True:
        try:
            listing = await client.list(kinds.App, app.namespace, fields=only)
            for item in listing.items:
                yield item
            stream = client.watch(kinds.App, app.namespace, resource_version=listing.resource_version, fields=only)
            async with aclosing(stream) as events:
                async for event in events:
                    if event.type in ("ADDED", "MODIFIED"):
                        yield event.object
        except ApiError as err:
            if err.status not in (410, 429) and err.status < 500:
                raise
        except ConnectionError:
            pass
        await asyncio.sleep(RECONNECT_S)


RECONNECT_S = 0.2
