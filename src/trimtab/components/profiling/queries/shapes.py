"""The JSON of answers to queries: what `-o json` prints, the page draws and `terminal.py` writes. Trees are columns.

Values are in `unit` (nanoseconds, bytes ...). A node's function is an index into `functions`; node 0 is the root, which has no function
of its own (function 0 is named "all"); parents come before their children.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

By = Literal["function", "line", "file", "binary"]
"""What is one thing: a function, a line of a source file, a source file, a binary."""

Per = Literal["total", "request", "second"]
"""What the two sides of a diff are divided by: their total, the requests served, the time they cover."""


class Function(Struct, frozen=True, array_like=True):
    """What a node stands for. `kind` is that of its frame (native, kernel, python, jit, named, mark), `reason` why it has no name."""

    name: str
    file: str = ""
    line: int = 0
    binary: str = ""
    kind: str = ""
    reason: str = ""

    @property
    def place(self) -> str:
        """`FILE:LINE`, as far as known; else the binary."""
        if not self.file:
            return self.binary
        return f"{self.file}:{self.line}" if self.line else self.file


ROOT = Function("all")


View = Literal["top", "tree", "diff", "top-diff", "sandwich", "labels", "series"]


class Question(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked, as the query string of the endpoint `query` (msgspec.convert(..., strict=False))."""

    view: View = "top"
    type: str = "cpu"
    selector: str = ""
    start: int = -3600
    """Unix seconds; 0 and less: so many seconds from now."""
    end: int = 0
    before_selector: str | None = None
    """Diffs: what it is compared with; where nothing is said, the same as after. With neither, the stretch of time just before."""
    before_start: int | None = None
    before_end: int | None = None
    by: str = "function"
    """One of `By`; of tables, or the name of a label: the total of each of its values."""
    focus: str = ""
    ignore: str = ""
    hide: str = ""
    sort: Literal["self", "total"] = "self"
    limit: int = 100
    """Rows of a table; 0 is all."""
    nodes: int = 20_000
    function: str = ""
    """sandwich: the function, see `top.find`."""
    per: Per = "total"
    before_units: float = 0
    """Diffs per request: how many each side served. Per second they need not be said."""
    after_units: float = 0
    anonymous: bool = False
    """Functions without a name are one per binary."""
    step: int = 60
    """series: seconds."""


class Side(Struct, kw_only=True, omit_defaults=True):
    """What one side of a diff, or a whole answer, is made of."""

    total: int
    """In `unit`, after filters."""
    samples: float = 0
    """How many equal samples would tell as much."""
    units: float = 0
    """Diffs: what a value is divided by to be compared (the total, requests, seconds)."""
    lost: dict[str, int] = {}
    start: int = 0
    """Unix seconds."""
    end: int = 0
    selector: str = ""


class TreeAnswer(Struct, kw_only=True, tag_field="answer", tag="tree"):
    """A merge: where the time went, from the root to the leaves."""

    type: str
    unit: str
    side: Side
    functions: list[Function]
    function: list[int]
    parent: list[int]
    """Of the root, -1."""
    self: list[int]
    total: list[int]
    pruned: int = 0
    """Nodes too small to be told of; their values are in their parents' totals."""


class DiffAnswer(Struct, kw_only=True, tag_field="answer", tag="diff"):
    """Two merges on one tree. A node whose `before_total` is 0 is new; one whose `after_total` is 0 has vanished."""

    type: str
    unit: str
    per: Per
    before: Side
    after: Side
    functions: list[Function]
    function: list[int]
    parent: list[int]
    before_self: list[int]
    before_total: list[int]
    after_self: list[int]
    after_total: list[int]
    pruned: int = 0


class Row(Struct, kw_only=True):
    """A function of a table. `total` counts a sample once, however often the function is in its stack."""

    function: Function
    self: int
    total: int


class TopAnswer(Struct, kw_only=True, tag_field="answer", tag="top"):
    """The functions (lines, files, binaries) of a merge, by what they cost themselves or in all."""

    type: str
    unit: str
    by: str
    side: Side
    rows: list[Row]
    rows_total: int
    """How many there are; `rows` may be the first of them."""


Change = Literal["", "new", "vanished"]


class DiffRow(Struct, kw_only=True):
    """A function of two merges; what it costs per unit is the value divided by its side's `units`."""

    function: Function
    before_self: int
    before_total: int
    after_self: int
    after_total: int
    change: Change = ""
    """new: not in the profile before. vanished: not in the one after."""


class TopDiffAnswer(Struct, kw_only=True, tag_field="answer", tag="top-diff"):
    """The functions of two merges, by how much they changed."""

    type: str
    unit: str
    by: str
    per: Per
    before: Side
    after: Side
    rows: list[DiffRow]
    rows_total: int


class SandwichAnswer(Struct, kw_only=True, tag_field="answer", tag="sandwich"):
    """One function between its callers (a tree that grows outwards from it) and its callees. Both roots are the function."""

    callers: TreeAnswer
    callees: TreeAnswer


class LabelsAnswer(Struct, kw_only=True, tag_field="answer", tag="labels"):
    """What can be asked of a stretch of time."""

    labels: dict[str, list[str]]
    types: list[tuple[str, str]]
    """Name and unit of what is counted."""


class SeriesAnswer(Struct, kw_only=True, tag_field="answer", tag="series"):
    """The sum of samples by steps of time."""

    type: str
    unit: str
    start: int
    step_s: int
    values: list[int]


class Comparison(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked with view=compare: whether the image that an App got differs from the one before it."""

    view: Literal["compare"] = "compare"
    namespace: str
    app: str
    since: int
    """Unix seconds: when the new image took over."""
    threshold_percent: float = 5.0
    """By how many points a function must have grown to be named."""
    min_samples: int = 200
    before_image: str = ""
    """The digest that it had; when there are no samples of it, the one that most before are of."""
    after_image: str = ""
    requests_start: int = 0
    """Unix seconds, a multiple of 60: from when the requests served are known; 0: they are not."""
    requests: str = ""
    """Requests served in each minute from then, with commas between."""


class Grown(Struct, kw_only=True):
    """A function that costs more than before. Parts of what the App's processes cost before (per request: in all, for one request)."""

    function: Function
    before: float
    after: float
    least: float
    """The lower end of the interval of the growth."""
    change: Change = ""


CompareState = Literal["waiting", "too-few", "same-image", "compared"]


class CompareAnswer(Struct, kw_only=True, tag_field="answer", tag="compare"):
    """What became of the comparison."""

    state: CompareState
    before_image: str = ""
    after_image: str = ""
    before: Side = field(default_factory=lambda: Side(total=0))
    after: Side = field(default_factory=lambda: Side(total=0))
    per: Per = "total"
    cost_before: float = 0
    """Per request: nanoseconds of CPU that one took. 0 without requests."""
    cost_after: float = 0
    functions: int = 0
    """How many were compared."""
    grown: list[Grown] = []


Answer = (
    TreeAnswer | DiffAnswer | TopAnswer | TopDiffAnswer | SandwichAnswer | LabelsAnswer | SeriesAnswer | CompareAnswer
)
