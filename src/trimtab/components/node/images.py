"""Images on this node: which policy asks for a pull, with whose login, one pull at a time for each image.

A pull runs in the background and wakes every pod that waits for it. What the engine built itself is pulled the same way,
from the agent's own registry on loopback (`registry.py`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from trimtab.api.core import Container, Pod, Secret, ServiceAccount
from trimtab.components.node import machine
from trimtab.components.node.cri import explain_pull
from trimtab.components.node.environment import ConfigProblem, Lookup, contents
from trimtab.components.node.sandboxes import ContainerRuntime, ImageInfo, RuntimeFailure
from trimtab.content import oci

DOCKER_HUB = "docker.io"
DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io", DOCKER_HUB)
REFERENCE = re.compile(r"[\w][\w.:/@-]*")
MESSAGE_LENGTH_MAX = 600


def registry_of(reference: str) -> str:
    """The registry host of an image reference; docker.io when it names none."""
    first, slash, _ = reference.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else DOCKER_HUB


def policy_of(container: Container) -> str:
    """`imagePullPolicy`, with the API's default: Always for the tag latest or none, else IfNotPresent."""
    if container.image_pull_policy:
        return container.image_pull_policy
    if "@" in container.image:
        return "IfNotPresent"
    _, colon, tag = container.image.rpartition("/")[2].partition(":")
    return "Always" if not colon or tag == "latest" else "IfNotPresent"


def credentials(config: Mapping[str, object], registry: str) -> dict[str, str] | None:
    """CRI's `AuthConfig` for a registry from a Docker `config.json`, or None."""
    entries = config.get("auths", config)
    if not isinstance(entries, dict):
        return None
    wanted = DOCKER_HUB_KEYS if registry == DOCKER_HUB else (registry,)
    for key, entry in entries.items():
        host = key.removeprefix("https://").removeprefix("http://")
        if not isinstance(entry, dict) or not (key in wanted or host in wanted or host.partition("/")[0] in wanted):
            continue
        if entry.get("username"):
            return {"username": str(entry["username"]), "password": str(entry.get("password", ""))}
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            user, _, password = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
            return {"username": user, "password": password}
    return None


async def login(pod: Pod, image: str, get: Lookup) -> dict[str, str] | None:
    """The login for an image's registry from the pod's, or its service account's, imagePullSecrets."""
    refs = list(pod.spec.image_pull_secrets)
    account = await get(ServiceAccount, pod.spec.service_account_name or "default", pod.namespace)
    if account is not None and not refs:
        refs = list(account.image_pull_secrets)
    registry = registry_of(image)
    for ref in refs:
        secret = await get(Secret, ref.name, pod.namespace)
        if secret is None:
            continue  # as in Kubernetes: the pull may work without
        for key in (".dockerconfigjson", ".dockercfg"):
            with contextlib.suppress(ConfigProblem, json.JSONDecodeError, KeyError):
                found = credentials(json.loads(contents(secret)[key]), registry)
                if found is not None:
                    return found
    return None


@dataclass(frozen=True)
class PullFailure(Exception):
    """reason is Kubernetes' word, message one line for a person."""

    reason: str
    message: str


class Images:
    """What is present is remembered until somebody may have removed it; pulls of one image are shared."""

    def __init__(self, runtime: ContainerRuntime, now: Callable[[], datetime]) -> None:
        self._runtime = runtime
        self._now = now
        self._began = now()
        self._present: dict[str, ImageInfo] = {}
        self._known_since: dict[str, datetime] = {}
        self._used_at: dict[str, datetime] = {}
        self.removal = asyncio.Lock()
        """Held while an image is removed, so that nobody takes it for present meanwhile."""
        self._pulls: dict[tuple[str, str], asyncio.Task[ImageInfo]] = {}
        self._pulled_at: datetime | None = None

    def present(self, reference: str) -> ImageInfo | None:
        """What is known to be on this node, without asking."""
        return self._present.get(reference)

    def forget(self, image_id: str | None = None) -> None:
        """containerd was away: what it has must be asked again; or one image is going."""
        for reference in list(self._present) if image_id is None else self.references(image_id):
            del self._present[reference]

    def references(self, image_id: str) -> list[str]:
        """The references under which an image was asked for."""
        return [reference for reference, found in self._present.items() if found.id == image_id]

    def used(self, image_id: str) -> None:
        """A container begins or ends."""
        self._used_at[image_id] = self._now()

    def noticed(self, image_ids: Iterable[str]) -> None:
        """These are all images of the node."""
        known = set(image_ids)
        self._known_since = {ident: self.known_since(ident) for ident in known}
        self._used_at = {ident: at for ident, at in self._used_at.items() if ident in known}

    def known_since(self, image_id: str) -> datetime:
        """When an image came; since our start for those that were there before."""
        return self._known_since.get(image_id, self._began)

    def last_used(self, image_id: str) -> datetime:
        return self._used_at.get(image_id, self.known_since(image_id))

    async def ensure(self, container: Container, auth: Mapping[str, str] | None) -> ImageInfo:
        """The image of a container, pulled if its policy says so.

        Raises:
            PullFailure: it cannot be had (now).
        """
        reference, policy = container.image, policy_of(container)
        if not REFERENCE.fullmatch(reference):
            raise PullFailure(
                "InvalidImageName", f'"{reference}" is not an image reference; write NAME:TAG or NAME@DIGEST'
            )
        try:
            found = None if policy == "Always" else await self._look(reference)
            if found is None and policy == "Never":
                raise PullFailure(
                    "ErrImageNeverPull",
                    f"{reference} is not on this node and imagePullPolicy is Never; build or load it, or change the policy",
                )
            if found is None:
                found = await self._shared(reference, auth)
        except RuntimeFailure as err:
            raise PullFailure("ErrImagePull", self._failed(reference, err)) from None
        if not machine.runs(found.architecture):
            own = oci.host_platform().architecture
            text = f"{reference}: the image is built for {found.architecture}, this machine is {own}"
            raise PullFailure("ErrImagePull", text)
        self._present[reference] = found
        return found

    async def _look(self, reference: str) -> ImageInfo | None:
        async with self.removal:
            return await self._runtime.image(reference)

    async def _shared(self, reference: str, auth: Mapping[str, str] | None) -> ImageInfo:
        key = (reference, json.dumps(auth, sort_keys=True) if auth else "")
        task = self._pulls.get(key)
        if task is None:
            task = self._pulls[key] = asyncio.get_running_loop().create_task(self._pull(reference, auth))
            task.add_done_callback(lambda _: self._ended(key))
        return await asyncio.shield(task)

    def _ended(self, key: tuple[str, str]) -> None:
        self._pulls.pop(key, None)
        self._pulled_at = self._now()

    def busy(self, within_s: float) -> bool:
        """Whether an image is being pulled, or a pull ended, well or not, up to so many seconds ago."""
        since = self._pulled_at
        return bool(self._pulls) or (since is not None and (self._now() - since).total_seconds() < within_s)

    async def _pull(self, reference: str, auth: Mapping[str, str] | None) -> ImageInfo:
        pulled = await self._runtime.pull(reference, auth)
        found = await self._look(pulled or reference)
        if found is None:
            raise RuntimeFailure("it was pulled but is not there; the node may be out of disk space")
        self._known_since.setdefault(found.id, self._now())
        self.used(found.id)
        return found

    @staticmethod
    def _failed(reference: str, err: RuntimeFailure) -> str:
        text = explain_pull(str(err))
        return f"{reference}: {text}"[:MESSAGE_LENGTH_MAX]
