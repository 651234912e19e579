"""`trimtab debug`: a container with tools beside one that may have none.

    image of tools, built once -> pods/NAME/ephemeralcontainers -> it runs -> attach (a shell), or its log (a command)

What `kubectl debug -it POD --image=... --target=...` does; and the image that it makes is there for kubectl, too.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from trimtab.api import JSON
from trimtab.api.core import Pod
from trimtab.cli.objects import _NAMESPACE
from trimtab.cli.pods import _name
from trimtab.cli.target import MANAGER, Target
from trimtab.engine.errors import EngineError

if TYPE_CHECKING:
    from trimtab.client import WireClient

LETTERS = "bcdfghjklmnpqrstvwxz2456789"
WAIT_S = 300
"""For a container that does not start: an image from far away takes its time."""
FATAL = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")
"""Reasons to wait that do not go away."""


@click.command("debug")
@click.argument("pod")
@click.argument("command", nargs=-1)
@_NAMESPACE
@click.option("-c", "--container", help="Whose processes and files to see; default: the pod's first.")
@click.option("--image", help="Another image than that of tools which the engine makes.")
@click.pass_obj
def debug(
    target: Target,
    pod: str,
    command: tuple[str, ...],
    namespace: str | None,
    container: str | None,
    image: str | None,
) -> None:
    """Open a shell beside a container of a running pod; or run COMMAND there, print what it says, and exit as it does. The
    container's processes are to be seen, and its files below /proc/1/root; its network is shared. The pod is not restarted,
    and its image needs no shell.

    \b
    trimtab debug web-0
    trimtab debug web-0 -- ss -tlnp
    """
    from trimtab.cli import terminal

    words = list(command)
    where, name = namespace or target.default_namespace(), _name(pod)
    live = asyncio.run(_get(target, where, name))
    reference = image or _tools(target)
    tty = not words and sys.stdin.isatty() and sys.stdout.isatty()
    made = _container(live, container, reference, words, tty=tty)
    asyncio.run(_add(target, where, name, made))
    if words:
        raise click.exceptions.Exit(asyncio.run(_print_all(target, where, name, made["name"])))
    if tty:
        click.echo(f"the files of {made['targetContainerName']} are below /proc/1/root; press Enter", err=True)
    query = [("container", made["name"]), ("stdin", "true"), ("stdout", "true")]
    query += [("stderr", str(not tty).lower()), ("tty", str(tty).lower())]
    path = Pod.resource_type.path(where, name, "attach")
    raise click.exceptions.Exit(asyncio.run(terminal.converse(target, path, query, stdin=True, tty=tty)))


def _container(pod: JSON, target: str | None, image: str, command: list[str], *, tty: bool) -> JSON:
    """The ephemeral container."""
    names = [one["name"] for one in pod["spec"]["containers"]]
    if target is not None and target not in names:
        raise EngineError(f"pod {pod['metadata']['name']} has no container {target}; it has {', '.join(names)}")
    made: JSON = {
        "name": f"debug-{''.join(random.choices(LETTERS, k=5))}",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "targetContainerName": target or names[0],
    }
    if command:
        return made | {"command": command}
    return made | {"stdin": True, "stdinOnce": True, "tty": tty}


def _tools(target: Target) -> str:
    """The reference of the image of tools, built when it is not there."""
    if not target.is_embedded:
        raise EngineError("name an image with --image: that of tools is made by an engine on this machine only")
    content = target.settings().data_path("content")

    def work(send: Callable[[Any], None]) -> Any:
        from trimtab.content import ContentError, ContentStore, build, tools_image

        try:
            told = lambda step: send(f"{step.name} {step.detail}".strip())  # noqa: E731
            return asyncio.run(build(tools_image(), ContentStore(content), progress=told)).ref
        except ContentError as err:
            raise EngineError(f"the image of tools cannot be made: {err}; name another with --image") from None

    with tempfile.TemporaryDirectory() as empty:
        Path(empty).chmod(0o755)
        reference: str = target.build(Path(empty), work, lambda text: None, own_users=False)
    target.sign([reference])
    return reference


async def _get(target: Target, namespace: str, name: str) -> JSON:
    async with target.client() as client:
        response = await client.send("GET", Pod.resource_type.path(namespace, name))
    found: JSON = msgspec.json.decode(response.body)
    return found


async def _add(target: Target, namespace: str, name: str, container: JSON) -> None:
    """Adds the container, and returns when it has started."""
    patch = {"spec": {"ephemeralContainers": [container]}}
    async with target.client() as client:
        await client.patch(
            Pod.resource_type,
            name,
            namespace,
            patch,
            manager=MANAGER,
            type="strategic",
            subresource="ephemeralcontainers",
        )
        await _until(client, namespace, name, container["name"], ("running", "terminated"), WAIT_S)


async def _print_all(target: Target, namespace: str, name: str, container: str) -> int:
    """Prints what the container writes until it has ended; its exit status."""
    async with target.client() as client:
        query = {"container": container, "follow": "true"}
        response = await client.send("GET", Pod.resource_type.path(namespace, name, "log"), query, stream=True)
        try:
            async for piece in response.chunks():
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
        finally:
            await response.close()
        ended = (await _until(client, namespace, name, container, ("terminated",), WAIT_S))["terminated"]
    if ended.get("reason") == "StartError":
        why = ended.get("message", "").rpartition("unable to start container process: ")[2].removesuffix(": unknown")
        raise EngineError(f"the command could not be started: {why}")
    return int(ended["exitCode"])


async def _until(
    client: WireClient, namespace: str, name: str, container: str, wanted: tuple[str, ...], timeout_s: float
) -> JSON:
    """The state of an ephemeral container once it is one of these.

    Raises:
        EngineError: it cannot start; the text says why.
    """
    said = "nothing was said"
    try:
        async with asyncio.timeout(timeout_s):
            async for event in client.watch(Pod.resource_type, namespace, name=name):
                if event.type == "BOOKMARK":
                    continue
                if event.type == "DELETED":
                    raise EngineError(f"pod {name} was deleted")
                state = _state(msgspec.json.decode(event.object), container)
                if any(one in state for one in wanted):
                    return state
                waiting = state.get("waiting") or {}
                if waiting.get("message") and waiting["message"] != said:
                    said = waiting["message"]
                    if waiting.get("reason") in FATAL:
                        raise EngineError(f"the container {container} cannot start: {said}")
                    click.echo(f"waiting: {said}", err=True)
    except TimeoutError:
        pass
    raise EngineError(f"the container {container} did not start within {timeout_s:.0f} s: {said}")


def _state(pod: JSON, name: str) -> JSON:
    statuses = (pod.get("status") or {}).get("ephemeralContainerStatuses") or ()
    return next((status.get("state") or {} for status in statuses if status["name"] == name), {})
