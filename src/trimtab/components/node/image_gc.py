"""Images that nobody needs go when disk space runs short.

    all images - those of containers - those that a pod of this node names - those being pulled - the young ones
        -> the longest unused first, until there is enough room

What a pod is about to need is never removed: a pod names its images from the moment that this node knows of it, and an image
cannot be taken for present while it is being removed (`Images.removal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from trimtab.api.core import Pod
from trimtab.components.node.decide import IMAGE, IMAGE_ID, all_containers
from trimtab.components.node.images import DOCKER_HUB, Images, registry_of
from trimtab.components.node.sandboxes import ContainerRuntime, ContainerView, RuntimeFailure, StoredImage


def full_name(reference: str) -> str:
    """A reference as containerd keeps it: `busybox` is `docker.io/library/busybox:latest`."""
    if registry_of(reference) == DOCKER_HUB and not reference.startswith(f"{DOCKER_HUB}/"):
        reference = f"{DOCKER_HUB}/{reference}" if "/" in reference else f"{DOCKER_HUB}/library/{reference}"
    last = reference.rpartition("/")[2]
    return reference if ":" in last or "@" in last else f"{reference}:latest"


def needed(
    containers: Iterable[ContainerView], pods: Iterable[Pod], pulling: Iterable[str], kept: Iterable[str]
) -> set[str]:
    """The names and ids of images that must stay: of containers (ended ones, too), of pods, of pulls, and `kept`."""
    found = set(kept) | set(pulling)
    for view in containers:
        found |= {view.image, view.image_ref, view.annotations.get(IMAGE, ""), view.annotations.get(IMAGE_ID, "")}
    for pod in pods:
        if pod.status.phase not in ("Succeeded", "Failed"):
            found |= {container.image for container in all_containers(pod)}
    found.discard("")
    return found | {full_name(name) for name in found if not name.startswith("sha256:")}


class ImageCollector:
    """Removes unused images of one node."""

    def __init__(self, runtime: ContainerRuntime, images: Images, age_s: float, now: Callable[[], datetime]) -> None:
        self._runtime = runtime
        self._images = images
        self._age = timedelta(seconds=age_s)
        self._now = now

    async def collect(self, needs: Callable[[], set[str]], enough: Callable[[], bool]) -> Sequence[StoredImage]:
        """Removes one unused image after the other until `enough`; returns those that are gone. `needs` is asked anew before
        each: pods come and go meanwhile.

        Raises:
            RuntimeFailure: the images cannot be listed.
        """
        stored = await self._runtime.images()
        self._images.noticed(image.id for image in stored)
        removed = []
        for image in sorted(stored, key=lambda image: (self._images.last_used(image.id), image.id)):
            if enough():
                break
            if self._now() - self._images.known_since(image.id) < self._age:
                continue
            async with self._images.removal:
                wanted = needs()
                if wanted & {image.id, *image.names, *self._images.references(image.id)}:
                    continue
                self._images.forget(image.id)
                try:
                    await self._runtime.remove_image(image.id)
                except RuntimeFailure:
                    continue  # somebody uses it after all, or containerd is away: the next look will tell
            removed.append(image)
        return removed
