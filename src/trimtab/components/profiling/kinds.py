"""Profiler: that the machine is measured, how often, how long it is kept, and what it may cost."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, field

from trimtab.api import Condition, Model, Resource, resource
from trimtab.api.resource import ResourceType

GROUP_VERSION = "trimtab.dev/v1alpha1"
DEFAULT = "default"
"""The name of the Profiler that acts; there is one agent on a machine."""
HZ_MAX = 200
"""More than this measures the measuring: a sample costs about 20 us of the CPU that it interrupts."""


class ProfilerDebuginfod(Model):
    """Debug information from and for others, by build id (https://sourceware.org/elfutils/Debuginfod.html)."""

    urls: list[str] = []
    """Servers that are asked for debug information that is not on this machine, in this order."""
    listen: str = ""
    """HOST:PORT on loopback where the protocol is served to debuggers of this machine; empty: at the API alone."""


class ProfilerScrape(Model):
    """An HTTP endpoint that gives pprof profiles, as Go's net/http/pprof does at /debug/pprof."""

    url: Annotated[str, Meta(min_length=1)]
    """Of one profile, such as http://10.0.0.7:6060/debug/pprof/heap."""
    interval: str = "60s"
    """How often it is asked."""
    labels: dict[str, str] = {}
    """What its samples carry, such as app: shop."""


class ProfilerBudget(Model):
    """What the agent may cost. At the limit it sheds load in the order that docs/profiling.md states, and says so."""

    cpu_percent: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Of one core, on average over a minute."""
    memory: str = "150Mi"


class ProfilerCompare(Model):
    """When the automatic comparison of an App's new image with the one before it raises an Event and a condition."""

    threshold_percent: Annotated[float, Meta(gt=0, le=1000)] = 5.0
    """By how many points a function must have grown: of the App's CPU time, or of what a request took before."""
    min_samples: Annotated[int, Meta(ge=1)] = 200
    """Fewer samples on either side say nothing, however long it is waited."""


Type = Literal["cpu", "offcpu", "pagefaults", "disk", "network", "allocations"]
"""What can be measured by stack. `agent/types.py` says of each what it needs and what it counts."""


class ProfilerSpec(Model):
    hz: Annotated[int, Meta(ge=1, le=HZ_MAX)] = 19
    """How often each CPU is looked at, a second. A prime does not beat with timers."""
    types: Annotated[list[Type], Meta(min_length=1)] = field(default_factory=lambda: ["cpu"])
    """What is measured. When the budget does not do for all, the last of the list is left out first, the CPU's time last."""
    retention: str = "14d"
    """How long profiles are kept: 12h, 14d, 8w."""
    max_disk: str = "10Gi"
    """What profiles may take on the disk; the oldest go first."""
    debuginfod: ProfilerDebuginfod = field(default_factory=ProfilerDebuginfod)
    scrape: list[ProfilerScrape] = []
    budget: ProfilerBudget = field(default_factory=ProfilerBudget)
    compare: ProfilerCompare = field(default_factory=ProfilerCompare)


class ProfilerAgent(Model):
    """The agent as it last told: at most some minutes ago."""

    mode: str = ""
    """bpf: whole stacks, unwound in the kernel. perf: frame pointers alone, where BPF is refused."""
    hz: int = 0
    """What it measures at now: less than spec.hz when its budget made it."""
    cpu_percent: float = 0.0
    """Of one core."""
    memory_bytes: int = 0
    processes: int = 0
    types: list[str] = []
    """What it measures now, of spec.types."""
    missing: dict[str, str] = {}
    """What of spec.types it does not measure, and why."""
    shed: str = ""
    """What it leaves out to stay in its budget, and why."""
    restarts: int = 0


class ProfilerDeploy(Model):
    """An App's image, and its comparison with the one before."""

    namespace: str
    app: str
    image: str
    """By digest."""
    since: datetime
    before: str = ""
    """The image before it; empty of the first that was seen."""
    state: str = ""
    looked_at: datetime | None = None
    message: str = ""


class ProfilerStatus(Model):
    observed_generation: int = 0
    agent: ProfilerAgent = field(default_factory=ProfilerAgent)
    samples: int = 0
    """That the agent has taken since it started."""
    lost: dict[str, int] = {}
    """Samples that were not kept since it started, by reason."""
    scrape_errors: dict[str, str] = {}
    """Targets of spec.scrape that do not answer as they should: what is wrong, by URL."""
    disk_bytes: int = 0
    """What profiles take."""
    rolled_up_at: datetime | None = None
    """When the hours before were last put together."""
    message: str = ""
    """One line: how it is."""
    deploys: list[ProfilerDeploy] = []
    """Of each App the image that it has, and how it compares with the one before."""
    conditions: list[Condition] = []


@resource(
    GROUP_VERSION,
    "profilers",
    namespaced=False,
    columns=(
        ("Hz", "integer", ".status.agent.hz"),
        ("Mode", "string", ".status.agent.mode"),
        ("CPU%", "number", ".status.agent.cpuPercent"),
        ("Retention", "string", ".spec.retention"),
        ("Ready", "string", '.status.conditions[?(@.type=="Ready")].reason'),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class Profiler(Resource):
    """Measures the whole machine while it exists. The one named `default` acts. Made by `trimtab profile enable`."""

    spec: ProfilerSpec = field(default_factory=ProfilerSpec)
    status: ProfilerStatus = field(default_factory=ProfilerStatus)


# What of an App is read and written here. Its own kind is the component `apps`'; two components meet at the API alone.


class ProfiledSpec(Model):
    processes: dict[str, Any] = {}


class ProfiledStatus(Model):
    image: str = ""
    """The image that takes the traffic now, `NAME@sha256:...`."""
    conditions: list[Condition] = []


class Profiled(Resource):
    """An App as profiling sees it: the image that it runs."""

    resource_type: ClassVar[ResourceType] = ResourceType(GROUP_VERSION, "App", "apps")

    spec: ProfiledSpec = field(default_factory=ProfiledSpec)
    status: ProfiledStatus = field(default_factory=ProfiledStatus)
