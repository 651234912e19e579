"""What the reconcilers here ask of the world: a place for each repository, a process for each run. `process.py` does it for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

PHASES = ("Succeeded", "Failed", "Error")
"""How a run ends."""


@dataclass(frozen=True)
class Order:
    """One run to be made. uid: of the PipelineRun; repository: uid of the Pipeline, and title its name for
    people. fetch: a URL to get the commit from first; login: with what, by the keys of a Secret."""

    uid: str
    repository: str
    commit: str
    directory: str = ""
    pipeline: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    fetch: str = ""
    title: str = ""
    login: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass
class Progress:
    """How far a run is. phase: Running, or as it ended; steps and images as in a PipelineRun's status."""

    phase: str = "Running"
    message: str = ""
    run: str = ""
    seconds: float = 0.0
    total: int = 0
    steps: Sequence[Mapping[str, Any]] = ()
    images: Sequence[Mapping[str, str]] = ()

    @property
    def ended(self) -> bool:
        return self.phase in PHASES


class Runner(Protocol):
    """Repositories and runs on this machine."""

    @property
    def is_here(self) -> bool:
        """Whether this process is the one that runs pipelines: the first node's agent."""

    async def serve(self, process: Any) -> None:
        """Lets pushes in and makes PipelineRuns of them, until cancelled. process: of the service that does it."""

    async def repository(self, uid: str) -> bool | None:
        """True where there is this repository, else None."""

    async def make_repository(self, uid: str) -> bool: ...

    async def remove_repository(self, uid: str) -> None:
        """Removes it with all that was kept for it. Nothing there is no failure."""

    def look(self, uid: str) -> Progress | None:
        """How far the run is that this process began; None: it began none."""

    def begin(self, order: Order) -> None:
        """Begins a run, or goes on with what was kept of it."""

    async def remove_run(self, uid: str) -> None:
        """Ends the run if it goes on, and removes its log and record. Nothing there is no failure."""
