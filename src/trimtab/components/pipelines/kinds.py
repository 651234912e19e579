"""Pipeline and PipelineRun: what a push of which branch runs, whose image it becomes, and how each run went."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from msgspec import Meta, field

from trimtab.api import Condition, Model, Resource, resource
from trimtab.api.resource import ResourceType

GROUP_VERSION = "trimtab.dev/v1alpha1"
DNS_LABEL = r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"
"""40 characters at most, since a run's name is the pipeline's with 13 more behind it."""
COMMIT = r"^[0-9a-f]{40}$"


class PipelineApp(Model):
    """The App that gets the image of each green run."""

    name: Annotated[str, Meta(min_length=1)]
    step: str = ""
    """The publishing step whose image it is; needed only when the pipeline publishes several."""


class PipelineWebhook(Model):
    """Where a forge's pushes come from, and how they are known to be its."""

    repository: Annotated[str, Meta(min_length=1)]
    """The URL to fetch the commit from, whatever the payload says."""
    secret: Annotated[str, Meta(min_length=1)]
    """The Secret of this namespace whose key `secret` signs the payloads (HMAC-SHA256, X-Hub-Signature-256)."""
    login: str = ""
    """The Secret of this namespace to fetch with, where the repository asks for it: `password` (a token) and `username`, or
    `ssh-privatekey` and `known_hosts`."""


class PipelineSpec(Model):
    branch: str = "main"
    """A push of this branch makes a run; other branches are stored and run nothing."""
    directory: str = ""
    """Where ship.py is in the repository; empty: at the top."""
    pipeline: str = ""
    """The pipeline in ship.py; empty: `ci`, or the only one."""
    parameters: dict[str, str] = {}
    """Values of the pipeline's parameters."""
    app: PipelineApp | None = None
    webhook: PipelineWebhook | None = None
    keep_runs: Annotated[int, Meta(ge=1, le=1000)] = 20
    """How many ended runs are kept, with their logs and reports."""
    suspend: bool = False
    """Pushes are stored and recorded as runs, which wait."""


class Deployed(Model):
    """What the App was last given."""

    run: str
    commit: str = ""
    image: str = ""
    at: datetime | None = None


class PipelineStatus(Model):
    observed_generation: int = 0
    git: str = ""
    """The path of the repository at this API: `git push https://ADDRESS/PATH`."""
    last_run: str = ""
    last_green: str = ""
    deployed: Deployed | None = None
    message: str = ""
    """One line: how the last run went."""
    conditions: list[Condition] = []


@resource(
    GROUP_VERSION,
    "pipelines",
    short_names=("pl",),
    columns=(
        ("Branch", "string", ".spec.branch"),
        ("App", "string", ".spec.app.name"),
        ("Last", "string", ".status.lastRun"),
        ("Green", "string", ".status.lastGreen"),
        ("Status", "string", ".status.message"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class Pipeline(Resource):
    """A repository to push to, the pipeline that a push runs, and the App that gets the image when it is green."""

    spec: PipelineSpec = field(default_factory=PipelineSpec)
    status: PipelineStatus = field(default_factory=PipelineStatus)


class PipelineRunSpec(Model):
    pipeline: Annotated[str, Meta(min_length=1)]
    """The Pipeline, in the same namespace."""
    commit: Annotated[str, Meta(pattern=COMMIT)]
    """The commit in the Pipeline's repository."""
    ref: str = ""
    """What was pushed, such as refs/heads/main."""
    author: str = ""
    message: str = ""
    """The first line of the commit's message."""
    trigger: str = "command"
    """Who asked for it: push, webhook or command."""
    pusher: str = ""
    """The user of this API who pushed, or the forge's name of him."""


class StepStatus(Model):
    name: str
    state: str
    """running, or as `trimtab ci` says: hit, succeeded, failed, fault, skipped, cancelled, unneeded."""
    seconds: float = 0.0
    reason: str = ""
    """Why it ran, or was not run again; of a failure, what happened."""


class PublishedImage(Model):
    step: str
    reference: str
    """By digest, `NAME@sha256:...`."""


class PipelineRunStatus(Model):
    phase: str = "Pending"
    """Pending, Running, Succeeded, Failed (a step did) or Error (it could not be run)."""
    attempts: int = 0
    """How often it was begun: more than once when the node agent was restarted meanwhile."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float = 0.0
    run: str = ""
    """The run's id in `trimtab ci history`."""
    summary: str = ""
    """`2/3`: the steps that are done, of all; with what was not run again."""
    steps: list[StepStatus] = []
    images: list[PublishedImage] = []
    message: str = ""
    conditions: list[Condition] = []


@resource(
    GROUP_VERSION,
    "pipelineruns",
    short_names=("plr",),
    columns=(
        ("Pipeline", "string", ".spec.pipeline"),
        ("Phase", "string", ".status.phase"),
        ("Steps", "string", ".status.summary"),
        ("Seconds", "number", ".status.seconds"),
        ("Commit", "string", ".spec.message"),
        ("Author", "string", ".spec.author"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class PipelineRun(Resource):
    """One run of a Pipeline for one commit. Made by a push, by a webhook, or by hand."""

    spec: PipelineRunSpec = field(default_factory=lambda: PipelineRunSpec(pipeline="", commit=""))
    status: PipelineRunStatus = field(default_factory=PipelineRunStatus)


# What of an App is read and written here. Its own kind is the component `apps`'; two components meet at the API alone.


class ShippedSpec(Model):
    image: str = ""


class ShippedStatus(Model):
    image: str = ""


class Shipped(Resource):
    """An App as pipelines see it: the image that it should run, and the one that it does."""

    resource_type: ClassVar[ResourceType] = ResourceType(GROUP_VERSION, "App", "apps")

    spec: ShippedSpec = field(default_factory=ShippedSpec)
    status: ShippedStatus = field(default_factory=ShippedStatus)
