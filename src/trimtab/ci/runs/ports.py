"""Where the parts of a run meet: what is handed from one to the other, and what each has to be able to do.

    Graph -> Lookups.define -> what is known already -> Job -> Executor.execute -> Result -> Lookups.keep

`run` calls; `keys` and `cache` look up and keep; `sandbox` executes. Digests are texts, `sha256:<hex>`. A tree is a directory as
it was taken: an output that is one file is a tree of that one file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from trimtab.ci.definition.graph import Graph, Step

JSON = dict[str, Any]

Reason = Literal["exit", "timeout", "cancelled", "memory", "disk", "processes", "output", "service"]
"""How a step has ended: by its own exit status, or by what stopped it. `output`: a declared one was not there; `service`: one
did not become ready."""


class EngineFault(Exception):
    """Nothing is wrong with the step: it could not be run (disk, registry, sandbox). One line: what, where, the fix. Exit status 3."""


# Looking up


@dataclass(frozen=True)
class Result:
    """What a step that succeeded has given; the value of a cache entry. outputs: the digests of trees by name.

    log: the digest of its log; tests: of its results by test, "" for none. seconds: what it took when it ran, and so what a
    hit saves.
    """

    outputs: Mapping[str, str]
    log: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    rss_bytes: int = 0
    tests: str = ""


@dataclass(frozen=True)
class Found:
    """What is known of a step before it runs. components: all that its key is made of, by name, in words or digests.

    result: None for a miss. reason: one line; for a hit where it came from, for a miss what changed since the nearest record
    (`input /w: app/models.py changed`). saved: what a hit has spared.
    """

    step: str
    def_key: str
    content_key: str
    components: Mapping[str, str]
    result: Result | None
    reason: str
    nearest: str = ""


class Lookups(Protocol):
    """The cache as a run sees it. Safe to call from several threads."""

    def define(self, graph: Graph, images: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, Found]:
        """All steps of a graph by definition alone: nothing is fetched or run for it. Raises `EngineFault`.

        images: by `str(base)` what it stands for (a digest, of the image or of its spec). secrets: by `file#key` the value.
        """

    def by_content(self, found: Found, step: Step, producers: Mapping[str, Result]) -> Found:
        """The second look, when everything that a step takes is there: by what it is, whoever made it.

        producers: by step id.
        """

    def tree(self, ref: JSON) -> str:
        """The digest of the tree of a source (`{"source": [...], "exclude": [...]}` of an action), its files in the store."""

    def keep(self, found: Found, step: Step, result: Result) -> None:
        """Remembers a success, under both keys."""

    def close(self) -> None:
        """Ends what is open."""


# Executing


@dataclass(frozen=True)
class Laid:
    """A tree that is laid at `to`, over what was laid there before."""

    to: str
    tree: str


@dataclass(frozen=True)
class Job:
    """A step with all that it refers to in hand; also what a shell in its failed state is made of (`as_json`, `job_of`).

    action: as `Step.action` gives it: runs, cwd, env, user, net, outputs, caches. image: the digest of a manifest in the store.
    services: by name a job of their own, with `ready` in its action. secrets: by variable the value; in no JSON. files: of this
    machine, and where the step sees them; in no JSON, since they go with what they lead to.
    directory: of this execution alone, empty; what a failure leaves stays there, a success leaves nothing.
    timeout_s: after which its end will be asked for; in no JSON.
    reports: paths of files that are read at the end, besides the `junit` of the action's runs.
    """

    step: str
    action: JSON
    image: str
    inputs: tuple[Laid, ...]
    directory: Path
    services: Mapping[str, Job] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    attempt: int = 1
    memory_bytes: int = 0
    cpus: float = 1.0
    timeout_s: float = 3600.0
    reports: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> JSON:
        """Plain values, for a record."""
        return {
            "step": self.step,
            "action": self.action,
            "image": self.image,
            "inputs": [asdict(one) for one in self.inputs],
            "directory": str(self.directory),
            "services": {name: job.as_json() for name, job in self.services.items()},
            "attempt": self.attempt,
            "memoryBytes": self.memory_bytes,
            "cpus": self.cpus,
        }


def job_of(doc: JSON) -> Job:
    """The job of a record; without its secrets."""
    return Job(
        doc["step"],
        doc["action"],
        doc["image"],
        tuple(Laid(one["to"], one["tree"]) for one in doc["inputs"]),
        Path(doc["directory"]),
        {name: job_of(one) for name, one in doc["services"].items()},
        attempt=doc["attempt"],
        memory_bytes=doc["memoryBytes"],
        cpus=doc["cpus"],
    )


@dataclass(frozen=True)
class Outcome:
    """How an execution ended. outputs: by name the digest of a tree, taken when it succeeded.

    ended: "exit" with status 0 is success. said: one line more, for whoever reads of a failure. kept: where its state is.
    """

    ended: Reason
    exit: int
    outputs: Mapping[str, str]
    seconds: float
    cpu_s: float = 0.0
    rss_bytes: int = 0
    said: str = ""
    kept: Path | None = None
    where: str = ""
    """The cluster of which it was a pod."""
    failed_run: int | None = None
    """Which of the step's commands failed, from 0."""
    reports: Mapping[str, bytes] = field(default_factory=dict)
    """By its path what each report holds, after a failure, too; what is not there, or is above 64 MiB, is left out."""

    @property
    def succeeded(self) -> bool:
        return self.ended == "exit" and self.exit == 0


class Stop:
    """Asks an execution to end: by whom it runs registers how, whoever wants its end says why. Nobody polls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._then: list[Callable[[], None]] = []
        self.reason: Reason | None = None

    def ask(self, reason: Reason) -> None:
        """Ends it; the first reason holds."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            calls, self._then = self._then, []
        for call in calls:
            call()

    def then(self, call: Callable[[], None]) -> None:
        """Has `call` made when the end is asked for, at once when it was already. It must not block, and may come from any thread."""
        with self._lock:
            if self.reason is None:
                self._then.append(call)
                return
        call()


class Executor(Protocol):
    """What runs jobs: the sandbox here, pods on a cluster."""

    def execute(self, job: Job, write: Callable[[bytes], None], stop: Stop) -> Outcome:
        """Runs a job to its end; blocks. Called from several threads at once, a job each.

        write: takes what the commands print, both streams, as it comes. When `stop` is asked for, everything of the job is
        killed within seconds and `ended` is the reason. Raises `EngineFault`.
        """
