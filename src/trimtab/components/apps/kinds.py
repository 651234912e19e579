"""The App: one web application with its processes, its database and its names, as the API holds it.

A person writes `ship.py` (see `declaration.py`); `trimtab up` builds the images and turns it into this kind. What an App
says is complete: the same App on another engine with the same images gives the same thing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, field

from trimtab.api import Condition, Model, Resource, resource

DNS_LABEL = r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"
"""40 characters at most, since names such as `NAME-migrate-0123456789` are derived from it and a label ends at 63."""

Port = Annotated[int, Meta(ge=1, le=65535)]
Replicas = Annotated[int, Meta(ge=0, le=100)]


class AppProcess(Model):
    """One kind of process of the app, run `replicas` times from the app's image."""

    command: list[str]
    """The program and its arguments; no shell is involved."""
    port: Port | None = None
    """The TCP port that it listens on; None for a worker."""
    health: str | None = None
    """The path that answers 200 when the process can serve. Without it, an open port is enough."""
    replicas: Replicas = 1
    env: dict[str, str] = {}
    memory: str | None = None
    """The memory limit, such as 256Mi."""
    cpu: str | None = None
    """The CPU limit in cores or millicores, such as 500m."""
    grace_seconds: Annotated[int, Meta(ge=1, le=3600)] = 30
    """How long a process may take to finish what it does after SIGTERM."""


class AppSecret(Model):
    """Where the value of a secret environment variable comes from: generated once, or a key of a Secret."""

    generate: Annotated[int, Meta(ge=8, le=256)] | None = None
    """Generate a random text of so many characters, once."""
    secret_name: str | None = None
    key: str | None = None


class AppDatabase(Model):
    """A PostgreSQL of the app's own; its address comes as DATABASE_URL."""

    image: str
    storage: str = "1Gi"


class AppMigration(Model):
    """Runs as a Job with the new image before the new version takes traffic; a failure leaves the old one serving."""

    command: list[str]
    timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 300


class AppSpec(Model):
    image: Annotated[str, Meta(min_length=1)]
    """The image by digest, `NAME@sha256:...`: what was built is what runs."""
    processes: dict[str, AppProcess] = {}
    env: dict[str, str] = {}
    secrets: dict[str, AppSecret] = {}
    database: AppDatabase | None = None
    migration: AppMigration | None = None
    domains: list[str] = []
    """The host names that it answers at, over TLS; they go to the process named `web`, or the first with a port."""


class AppStatus(Model):
    observed_generation: int = 0
    conditions: list[Condition] = []
    url: str = ""
    image: str = ""
    """The image that takes the traffic now."""
    ready: str = ""
    """Ready processes of all, such as 2/2."""
    message: str = ""
    """One line: what is going on, or what is wrong and what to do."""
    released_at: datetime | None = field(default=None)


@resource(
    "trimtab.dev/v1alpha1",
    "apps",
    categories=("all",),
    columns=(
        ("Ready", "string", ".status.ready"),
        ("URL", "string", ".status.url"),
        ("Status", "string", ".status.message"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class App(Resource):
    """A web application: image, processes, database, domains. Made by `trimtab up` from a `ship.py`."""

    spec: AppSpec = field(default_factory=lambda: AppSpec(image="none"))
    status: AppStatus = field(default_factory=AppStatus)
