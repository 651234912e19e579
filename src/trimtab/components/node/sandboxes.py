"""What the agent asks of a container runtime, and what it sees of it: one small protocol, real or simulated.

The words are CRI's: a sandbox is a pod's network and its pause process, a container runs within a sandbox, an attempt
counts how often either was made anew. Times are UTC.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

POD_UID = "io.kubernetes.pod.uid"
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
CONTAINER_NAME = "io.kubernetes.container.name"
"""The labels that Kubernetes' own tools (crictl) look for."""

State = Literal["created", "running", "exited", "unknown"]


class RuntimeFailure(RuntimeError):
    """The runtime refused or failed; the text is for a person. `code` is gRPC's name of the status."""

    def __init__(self, message: str, code: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.code = code

    @property
    def gone(self) -> bool:
        """True when what was asked about does not exist (any more)."""
        return self.code == "NOT_FOUND"

    @property
    def unreachable(self) -> bool:
        """True when the runtime did not answer; whether it acted is unknown."""
        return self.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")


@dataclass(frozen=True)
class Sandbox:
    id: str
    uid: str
    name: str
    namespace: str
    attempt: int
    ready: bool
    created_at: datetime
    ip: str = ""


@dataclass(frozen=True)
class ContainerView:
    """One container, running or not. exit_code is 128 + signal for a process that a signal ended."""

    id: str
    sandbox_id: str
    pod_uid: str
    name: str
    attempt: int
    state: State
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExitEvent:
    """The first process of a container or a sandbox has ended."""

    container_id: str
    exit_code: int
    exited_at: datetime


@dataclass(frozen=True)
class OomEvent:
    container_id: str


@dataclass(frozen=True)
class Reconnected:
    """Events may have been missed: look at everything again."""


Event = ExitEvent | OomEvent | Reconnected


@dataclass(frozen=True)
class ImageInfo:
    id: str
    """The digest of its configuration."""
    digests: tuple[str, ...]
    uid: int | None
    username: str
    architecture: str = ""
    """What it is built for, where it says so."""


@dataclass(frozen=True)
class StoredImage:
    """An image on this node. names: its tags and digests; size: what it takes, compressed."""

    id: str
    names: tuple[str, ...]
    size_bytes: int


class ContainerRuntime(Protocol):
    """All methods raise `RuntimeFailure`. Configurations are CRI messages as dicts (see `messages.py`)."""

    async def run_sandbox(self, config: Mapping[str, Any]) -> str: ...
    async def sandbox_ip(self, sandbox_id: str) -> str: ...
    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Kills what runs in it and removes its network. Idempotent."""

    async def remove_sandbox(self, sandbox_id: str) -> None: ...
    async def create_container(
        self, sandbox_id: str, config: Mapping[str, Any], sandbox_config: Mapping[str, Any]
    ) -> str: ...
    async def start_container(self, container_id: str) -> None: ...
    async def update_container(self, container_id: str, resources: Mapping[str, int]) -> None:
        """Changes what a running container may use. Idempotent."""

    async def stop_container(self, container_id: str, timeout_s: float) -> None:
        """SIGTERM (or the image's signal), SIGKILL after `timeout_s`; returns when it has ended. Idempotent."""

    async def remove_container(self, container_id: str) -> None: ...
    async def sandboxes(self, uid: str | None = None) -> Sequence[Sandbox]:
        """All, or those of one pod."""

    async def containers(self, uid: str | None = None) -> Sequence[ContainerView]:
        """All, or those of one pod."""

    async def container(self, container_id: str) -> ContainerView: ...
    async def exec(self, container_id: str, command: Sequence[str], timeout_s: float) -> tuple[int, bytes]:
        """Runs a command in a container: exit code and output. A timeout is a `RuntimeFailure`."""

    async def image(self, reference: str) -> ImageInfo | None: ...
    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> str:
        """Fetches an image; returns its id."""

    async def images(self) -> Sequence[StoredImage]:
        """All images of this node."""

    async def remove_image(self, reference: str) -> None:
        """Removes an image under all of its names. Idempotent."""

    async def reopen_log(self, container_id: str) -> None: ...

    def events(self) -> AsyncIterator[Event]:
        """Task exits and OOM kills from now on, `Reconnected` first; ends only when cancelled."""
