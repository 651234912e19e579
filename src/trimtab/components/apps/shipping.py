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
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from trimtab.api.cluster import Lease, StorageClass
from trimtab.api.core import HOOK_NAMESPACE, Namespace, Secret
from trimtab.client import ApiError, Client, NotFound
from trimtab.components.apps import declaration, kinds
from trimtab.content import (
    BuiltImage,
    ContentStore,
    Credentials,
    RegistryClient,
    build,
    parse_reference,
    postgres_image,
)
from trimtab.content.builder import Progress
from trimtab.content.builder import Step as BuildStep

MANAGER = "trimtab-up"
BUILT_HERE = "trimtab.local"
"""The registry name of images in the content store."""
LEADER = "trimtab-controllers"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
NOT_RUNNING = "Trimtab does not run for this cluster: start it with `trimtab --context NAME run` on a machine that reaches its pods"
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
    return f"{what}, {built.size / (1 << 20):.0f} MiB ({built.digest[:19]}…)"


async def check_cluster(app: declaration.App, client: Client) -> None:
    """Looks, before anything is built, whether a cluster that is not ours has what the app needs.

    Raises:
        ShippingFailed: it has not; the text says what is missing and how to get it.
    """
    try:
        await client.list(kinds.App)
    except NotFound:
        raise ShippingFailed(NOT_RUNNING) from None
    leader = await client.get(Lease, LEADER, HOOK_NAMESPACE)
    if leader is None or not leader.spec.holder_identity:
        raise ShippingFailed(NOT_RUNNING)
    if app.database is None:
        return
    classes = (await client.list(StorageClass)).items
    if not any(one.metadata.annotations.get(DEFAULT_CLASS) == "true" for one in classes):
        have = f"it has {', '.join(sorted(one.name for one in classes))}" if classes else "it has none at all"
        raise ShippingFailed(
            f"no default StorageClass: the database's volume would wait forever ({have}); mark one with "
            f"`kubectl annotate storageclass NAME {DEFAULT_CLASS}=true`"
        )


async def push_images(
    images: Sequence[str | None],
    store: ContentStore,
    registry: str,
    report: Report,
    logins: Credentials | None = None,
) -> tuple[str, str | None]:
    """Sends built images to the registry that a cluster's nodes pull from; returns their references there, by digest.
    What is not built here (an image of another registry) stays as it is.

    Raises:
        trimtab.content.ContentError: one line: not reached, not let in.
    """
    sent: list[str | None] = []
    async with RegistryClient(store, credentials=logins) as client:
        for name, image in zip(("image", "database image"), images, strict=True):
            reference = parse_reference(image) if image else None
            if reference is None or reference.registry != BUILT_HERE or reference.digest is None:
                sent.append(image)
                continue
            there = f"{registry.rstrip('/')}/{reference.repository}"

            def progress(done: int, total: int, name: str = name) -> None:
                report(Step(f"push {name}", f"{done / (1 << 20):.0f} of {total / (1 << 20):.0f} MiB"))

            # A tag besides the digest: registries sweep what has none.
            tag = reference.digest.rpartition(":")[2][:12]
            await client.push(reference.digest, f"{there}:{tag}", progress=progress)
            report(Step(f"push {name}", f"{there}:{tag}", done=True))
            sent.append(f"{there}@{reference.digest}")
    image, database = sent
    assert image is not None
    return image, database


async def apply(
    app: declaration.App, client: Client, namespace: str, images: tuple[str, str | None], environ: Mapping[str, str]
) -> kinds.App:
    """Applies the App and its given secrets; returns the App as the API has it."""
    if await client.get(Namespace, namespace) is None:
        made = Namespace()
        made.metadata.name = namespace
        await client.apply(made, manager=MANAGER)
    if (secret := given_secret(app, namespace, environ)) is not None:
        await client.apply(secret, manager=MANAGER)
    return await client.apply(app.resource(namespace, *images), manager=MANAGER)


def given_secret(app: declaration.App, namespace: str, environ: Mapping[str, str]) -> Secret | None:
    """The Secret with the values that the app is given; None when it is given none."""
    values = app.given_values(environ)
    if not values:
        return None
    secret = Secret(data={k: base64.b64encode(v.encode()).decode() for k, v in values.items()})
    secret.metadata.name, secret.metadata.namespace = app.given_secret, namespace
    return secret


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
