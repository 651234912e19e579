"""What the endpoints of a Profiler answer, without HTTP: questions on the stored profiles, profiles in and out, files by build id.

    {view: top, selector: app="shop"} --ask.py--> JSON        the same --page.py--> HTML        the same --formats/--> pprof, speedscope
    pprof, OTLP --sandbox, formats/--> batch --> store                 ELF file --sandbox--> kept by its build id

The modules that do it load numpy and parsers, so each is imported by the first who asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

if TYPE_CHECKING:
    from trimtab.components.profiling.queries.shapes import Answer, Question
    from trimtab.components.profiling.storage.selection import Selection
    from trimtab.components.profiling.storage.store import Profiles
    from trimtab.components.profiling.symbols.debuginfod import Upload
    from trimtab.components.profiling.symbols.sandbox import Sandbox
    from trimtab.components.profiling.symbols.symbolizer import Symbolizer

JSON_TYPE = "application/json"
HTML_TYPE = "text/html; charset=utf-8"
FORMATS = ("pprof", "speedscope", "folded")
OTLP_TYPES = ("application/x-protobuf", "application/vnd.opentelemetry.profiles.v1development+protobuf")


@dataclass(frozen=True)
class Reply:
    kind: str
    """The content type."""
    body: bytes
    file: str = ""
    """The name to save it as."""


class Answers:
    """On the profiles under `root`. urls: debuginfod servers that are asked for what is not here. now: Unix seconds.

    Methods raise `ValueError` with one line for what cannot be answered, `OSError` when the disk is full.
    """

    def __init__(self, root: Path, urls: Sequence[str], now: Callable[[], int]) -> None:
        self._root = root
        self._urls = urls
        self._now = now
        self._sandbox: Sandbox | None = None
        self._made: Symbolizer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made is not None:
            self._made.close()
        if self._sandbox is not None:
            self._sandbox.close()

    @property
    def profiles(self) -> Profiles:
        from trimtab.components.profiling.storage.store import Profiles

        return Profiles(self._root)

    @property
    def sandbox(self) -> Sandbox:
        """Where what strangers made is parsed."""
        if self._sandbox is None:
            from trimtab.components.profiling.symbols.sandbox import Sandbox

            self._sandbox = Sandbox()
        return self._sandbox

    @property
    def symbolizer(self) -> Symbolizer:
        if self._made is None:
            from trimtab.components.profiling.symbols.symbolizer import Symbolizer

            self._made = Symbolizer(self._root, self._urls)
        return self._made

    @property
    def left(self) -> int:
        """Of how many programs debug information is being looked for, which who asks next will want."""
        return self._made.left if self._made is not None else 0

    def ask(self, parameters: Mapping[str, str]) -> Answer:
        """See `queries/shapes.py`: `Question` and `Answer`."""
        from trimtab.components.profiling.queries import ask, compare

        if parameters.get("view") == "compare":
            return compare.compare(compare.comparison(parameters), self.profiles, self.symbolizer, self._now())
        return ask.answer(ask.question(parameters), self.profiles, self.symbolizer, self._now())

    def query(self, parameters: Mapping[str, str]) -> Reply:
        """An answer as JSON."""
        return Reply(JSON_TYPE, msgspec.json.encode(self.ask(parameters)))

    def page(self, parameters: Mapping[str, str]) -> Reply:
        """The page, which asks `query` by itself; with `embed` among the parameters it has the tree or the diff that they ask for in it."""
        from trimtab.components.profiling.queries import page, shapes

        asked = dict(parameters)
        if not asked.pop("embed", ""):
            return Reply(HTML_TYPE, page.html())
        answer = self.ask({"view": "tree", **asked})
        if not isinstance(answer, shapes.TreeAnswer | shapes.DiffAnswer):
            raise ValueError(f"a page shows a tree or a diff, not {asked['view']}: ask for view=tree or view=diff")
        return Reply(HTML_TYPE, page.html(answer))

    def export(self, parameters: Mapping[str, str]) -> Reply:
        """A query's samples as `format`: pprof (the default), speedscope or folded."""
        given = dict(parameters)
        form = given.pop("format", "pprof")
        if form not in FORMATS:
            raise ValueError(f"{form!r} is no format that profiles are exported in: ask for {', '.join(FORMATS)}")
        selection = self._select(given)
        return written(form, selection, self.symbolizer)

    def push(self, body: bytes, kind: str, parameters: Mapping[str, str]) -> Reply:
        """Takes a profile into the store; the parameters become labels of its samples."""
        from trimtab.components.profiling.formats import intake, temporality

        form: intake.Format = "otlp" if kind in OTLP_TYPES else "pprof"
        decoded = intake.receive(self.sandbox, form, body, dict(parameters), self._now())
        batch = temporality.without_cumulative(decoded)
        self.profiles.append(batch)
        told = {"start": batch.start, "samples": len(batch.samples), "types": [t.name for t in batch.types]}
        return Reply(JSON_TYPE, msgspec.json.encode(told))

    def _select(self, parameters: Mapping[str, str]) -> Selection:
        from trimtab.components.profiling.queries import ask
        from trimtab.components.profiling.storage.selection import Query

        asked: Question = ask.question(parameters)
        now = self._now()
        start, end = (at if at > 0 else now + at for at in (asked.start, asked.end))
        return self.profiles.select(Query(type=asked.type, start=start, end=end, selector=asked.selector))

    def debug_file(self, asked: str) -> Path | None:
        """`BUILD_ID/debuginfo`, `BUILD_ID/executable`, `BUILD_ID/section/NAME`; None when there is none."""
        from trimtab.components.profiling.symbols import debuginfod

        return debuginfod.find(self._root, asked)

    def upload(self, asked: str) -> Upload:
        """A file that is coming in, as a context."""
        from trimtab.components.profiling.symbols.debuginfod import Upload

        return Upload(self._root, asked)


def written(form: str, selection: Selection, symbolizer: Symbolizer) -> Reply:
    """A selection in a format that other tools open."""
    if form == "pprof":
        from trimtab.components.profiling.formats import pprof

        return Reply("application/octet-stream", pprof.encode(selection, symbolizer), "profile.pb.gz")
    if form == "speedscope":
        from trimtab.components.profiling.formats import speedscope

        return Reply(JSON_TYPE, speedscope.encode(selection, symbolizer), "profile.speedscope.json")
    from trimtab.components.profiling.formats import folded

    return Reply("text/plain; charset=utf-8", folded.encode(selection, symbolizer), "profile.folded")
