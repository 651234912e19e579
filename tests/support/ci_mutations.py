"""A project that is changed at random, and a second opinion on what has to run after each change and why.

The world holds the project twice: on disk, and as plain data that every change is made to as well. What a step takes, what it
makes of it and whether that was ever made before is worked out from the data, without digests, keys or globs of the product.
Steps are real commands, run in a directory of their own.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from trimtab.ci.cache.lookups import LocalLookups
from trimtab.ci.definition.evaluate import evaluate, load
from trimtab.ci.definition.graph import Graph
from trimtab.ci.runs.ports import Found, Result

STEPS = 40

Content = tuple[str, bytes]
"""Kind (f, x, l) and bytes; of a link its target."""
Files = dict[str, Content]

_LIST = "find in -type f -print0 | LC_ALL=C sort -z | xargs -0 -r cat"
OPERATIONS: dict[str, str] = {
    "all": f"{_LIST} > out/made",
    "code": f"{_LIST} | grep -v '^#' > out/made || true",
    "count": "find in -type f | wc -l > out/made",
    "names": "find in ! -type d -printf '%P %l\\n' | LC_ALL=C sort > out/made",
    "tools": "find in -type f -perm -100 -printf '%P\\n' | LC_ALL=C sort > out/made",
}


def made_of(operation: str, taken: Files) -> bytes:
    """What a step's command makes of what it takes."""
    ordered = [taken[path] for path in sorted(taken, key=os.fsencode) if taken[path][0] != "l"]
    text = b"".join(data for _, data in ordered)
    if operation == "all":
        return text
    if operation == "code":
        return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"#"))
    if operation == "count":
        return b"%d\n" % len(ordered)
    lines = [
        f"{path} {data.decode() if kind == 'l' else ''}\n" if operation == "names" else f"{path}\n"
        for path, (kind, data) in taken.items()
        if operation == "names" or kind == "x"
    ]
    return "".join(sorted(lines)).encode()


@cache
def meant(pattern: str) -> re.Pattern[str]:
    """What a pattern means: `**` crosses directories, `*` does not, and a directory is all below it."""
    shape = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    return re.compile("".join(shape.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


@cache
def takes(patterns: tuple[str, ...], exclude: tuple[str, ...], path: str) -> bool:
    """Whether a path is one of those that are meant. It follows from these three alone, so each is worked out once."""
    wanted = any(meant(pattern).fullmatch(path) for pattern in patterns)
    return wanted and not any(meant(pattern).fullmatch(path) for pattern in exclude)


@dataclass
class Spec:
    """A step as data."""

    name: str
    patterns: list[str]
    exclude: list[str]
    needs: list[str]
    operation: str
    env: dict[str, str] = field(default_factory=dict)
    timeout_s: int = 60

    def text(self) -> str:
        env = f".env({', '.join(f'{name}={value!r}' for name, value in self.env.items())})" if self.env else ""
        needs = "".join(f'.add({need}(), to="in/{need}")' for need in self.needs)
        exclude = f", exclude={self.exclude}" if self.exclude else ""
        source = f"src({', '.join(map(repr, self.patterns))}{exclude})"
        return (
            f"@step(timeout={self.timeout_s})\ndef {self.name}():\n"
            f'    return base{env}.add({source}, to="in"){needs}.run({OPERATIONS[self.operation]!r}).output("out")\n'
        )


@dataclass(frozen=True)
class Snapshot:
    """All that a step's result depends on, by the names that `why` uses; files of each input by path."""

    plain: Mapping[str, str]
    inputs: Mapping[str, Mapping[str, Content]]

    def differs(self, other: Snapshot) -> set[str]:
        """The components that are not the same."""
        found = {n for n in self.plain.keys() | other.plain.keys() if self.plain.get(n) != other.plain.get(n)}
        names = self.inputs.keys() | other.inputs.keys()
        return found | {name for name in names if self.inputs.get(name) != other.inputs.get(name)}

    def frozen(self) -> tuple[object, ...]:
        files = ((name, tuple(sorted(found.items()))) for name, found in sorted(self.inputs.items()))
        return tuple(sorted(self.plain.items())), tuple(files)


@dataclass
class Ran:
    """A run after a change: what was done, what had to run, what did, and what was said of each."""

    change: str
    expected: set[str]
    found: dict[str, Found]
    snapshots: dict[str, Snapshot]
    problems: list[str]

    @property
    def executed(self) -> set[str]:
        return {id for id, one in self.found.items() if one.result is None}


class World:
    """The project, its data, the cache's directory, and everything that ever ran."""

    def __init__(self, directory: Path, seed: int, files: int) -> None:
        self.random = random.Random(seed)
        self.root = directory / "project"
        self.state = directory / "state"
        self.work = directory / "work"
        self.files: Files = {}
        self.image = 1
        self.remarks: list[str] = []
        self.shuffled = False
        self.undo: list[Callable[[], object]] = []
        self.deck: list[Callable[[World], str]] = []
        self.seen: dict[tuple[object, ...], bytes] = {}
        """By what a step took: what it made. No two take the same, each has its name in its environment."""
        self.keys: dict[str, Snapshot] = {}
        self.by_step: dict[str, list[str]] = {}
        self.specs = self._specs()
        for number in range(files):
            path = f"pkg{number % STEPS:02d}/sub{number % 3}/file{number}.{'py' if number % 4 else 'txt'}"
            self.write(path, "f", f"# about {number}\nvalue = {number}\n".encode())
        for number in range(0, STEPS, 5):
            self.write(f"pkg{number:02d}/shared.txt", "f", b"shared\n")
        self.write_ship()

    def _specs(self) -> list[Spec]:
        found: list[Spec] = []
        for number in range(STEPS):
            own = f"pkg{number:02d}"
            patterns = self.random.choice(
                [
                    [f"{own}/**"],
                    [f"{own}/**/*.py"],
                    [own],
                    [f"{own}/sub1/*", f"{own}/sub2/**"],
                    [f"{own}/**", "**/shared.txt"],
                ]
            )
            exclude = self.random.choice([[], [], [f"{own}/sub0"], ["**/*.txt"]])
            earlier = [spec.name for spec in found]
            needs = self.random.sample(earlier, min(len(earlier), self.random.choice([0, 1, 1, 2])))
            operation = self.random.choice(list(OPERATIONS))
            found.append(Spec(f"s{number:02d}", patterns, exclude, needs, operation, {"STEP": own}))
        return found

    # The project on disk and as data

    def write(self, path: str, kind: str, data: bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        if kind == "l":
            place.unlink(missing_ok=True)
            place.symlink_to(data.decode())
        else:
            place.write_bytes(data)
            place.chmod(0o755 if kind == "x" else 0o644)
        self.files[path] = (kind, data)

    def delete(self, path: str) -> None:
        (self.root / path).unlink()
        del self.files[path]

    def write_ship(self) -> None:
        specs = list(self.specs)
        if self.shuffled:
            self.random.shuffle(specs)
        calls = " & ".join(f"{spec.name}()" for spec in self.specs)
        text = [
            "from trimtab.ci import image, pipeline, src, step",
            *self.remarks,
            'base = image("debian:12").workdir("/w")',
            *(spec.text() for spec in specs),
            f"@pipeline\ndef ci():\n    return {calls}\n",
        ]
        (self.root / "ship.py").write_text("\n".join(text))

    # The second opinion

    def taken(self, spec: Spec) -> Files:
        patterns, exclude = tuple(spec.patterns), tuple(spec.exclude)
        return {path: content for path, content in self.files.items() if takes(patterns, exclude, path)}

    def expect(self) -> tuple[set[str], dict[str, Snapshot], dict[str, bytes]]:
        """Which steps have to run, what each takes, and what each comes to."""
        made: dict[str, bytes] = {}
        snapshots: dict[str, Snapshot] = {}
        expected: set[str] = set()
        for spec in self.specs:
            source = self.taken(spec)
            inputs: dict[str, Mapping[str, Content]] = {"input /w/in": source}
            everything = dict(source)
            for need in spec.needs:
                inputs[f"input /w/in/{need}"] = {"made": ("f", made[need])}
                everything[f"{need}/made"] = ("f", made[need])
            plain = {"image": str(self.image), "run 1": spec.operation, **{f"env {n}": v for n, v in spec.env.items()}}
            snapshots[spec.name] = Snapshot(plain, inputs)
            made[spec.name] = made_of(spec.operation, everything)
            if snapshots[spec.name].frozen() not in self.seen:
                expected.add(spec.name)
        return expected, snapshots, made

    # A run

    def graph(self) -> Graph:
        definition = load(self.root / "ship.py")
        return evaluate(definition, definition.pipelines["ci"], {})

    def run(self, change: str) -> Ran:
        """What a run does now, compared with the second opinion."""
        expected, snapshots, made = self.expect()
        problems: list[str] = []
        graph = self.graph()
        lookups = LocalLookups(self.root, self.state)
        try:
            found = lookups.define(graph, {"debian:12": f"sha256:{self.image:064x}"}, {})
            results: dict[str, Result] = {}
            for id in graph.order():
                if found[id].result is None and not found[id].content_key:
                    found[id] = lookups.by_content(found[id], graph.steps[id], results)
                result = found[id].result
                if result is None:
                    problems += self.explained(lookups, found[id], snapshots[id])
                    result = self.execute(lookups, graph, found[id], results)
                    lookups.keep(found[id], graph.steps[id], result)
                    self.keys[found[id].content_key] = snapshots[id]
                    self.by_step.setdefault(id, []).append(found[id].content_key)
                results[id] = result
                [(_, entry)] = lookups.blobs.files(result.outputs["out"])
                if lookups.blobs.read(f"sha256:{entry[2]}") != made[id]:
                    problems.append(f"{id} has another result than it should have")
        finally:
            lookups.close()
        for id in snapshots:
            self.seen[snapshots[id].frozen()] = made[id]
        return Ran(change, expected, found, snapshots, problems)

    def execute(self, lookups: LocalLookups, graph: Graph, found: Found, results: Mapping[str, Result]) -> Result:
        """Runs a step's commands on copies of what it takes."""
        step = graph.steps[found.step]
        shutil.rmtree(self.work, ignore_errors=True)
        for index, one in enumerate(step.action()["inputs"]):
            ref = one["from"]
            tree = lookups.source(step, index) if "source" in ref else results[ref["step"]].outputs[ref["output"]]
            shutil.copytree(
                lookups.blobs.materialise(tree), f"{self.work}{one['to']}", symlinks=True, dirs_exist_ok=True
            )
        out = self.work / "w" / "out"
        out.mkdir(parents=True)
        for run in step.container.runs:
            subprocess.run(run.argv, cwd=self.work / "w", check=True, timeout=60)
        tree, _ = lookups.blobs.capture(str(out), take=True)
        return Result({"out": tree}, seconds=0.01)

    def explained(self, lookups: LocalLookups, found: Found, now: Snapshot) -> list[str]:
        """What is wrong with the reason that is given for a miss."""
        why = lookups.why(found.step, found.content_key, found.components)
        known = self.by_step.get(found.step, [])
        if why.words != found.reason:
            return [f"{found.step}: {found.reason!r} is not {why.words!r}"]
        if why.kind != "changed":
            expected = "never" if not known else "evicted" if self.keys.get(found.content_key) else "changed"
            return [] if why.kind == expected else [f"{found.step}: {why.words}, but {expected}"]
        before = self.keys[why.nearest]
        problems = []
        if {change.component for change in why.changes} != now.differs(before):
            problems.append(f"{found.step}: {why.words}, but what differs is {now.differs(before)}")
        least = min(len(now.differs(self.keys[key])) for key in known[-50:])
        if len(why.changes) != least:
            problems.append(
                f"{found.step}: compared with one that differs in {len(why.changes)}, one differs in {least}"
            )
        for change in why.changes:
            if change.component.startswith("input "):
                was, is_ = before.inputs[change.component], now.inputs[change.component]
                files = {
                    path: "~" if path in was and path in is_ else "+" if path in is_ else "-"
                    for path in was.keys() | is_.keys()
                    if was.get(path) != is_.get(path)
                }
                if files != dict(change.files):
                    problems.append(f"{found.step}: {change.words}, but {files}")
        return problems

    # Changes

    def change(self) -> str:
        """Changes something at random, each kind of change before any comes again; gives what."""
        if not self.deck:
            self.deck = self.random.sample(CHANGES, len(CHANGES))
        return self.deck.pop()(self)

    def some_file(self) -> str:
        return self.random.choice(sorted(path for path, (kind, _) in self.files.items() if kind != "l"))

    def some_spec(self) -> Spec:
        return self.random.choice(self.specs)


def edit(world: World) -> str:
    path = world.some_file()
    kind, data = world.files[path]
    world.write(path, kind, data + b"more = %d\n" % world.random.randrange(10**6))
    world.undo.append(lambda: world.write(path, kind, data))
    return f"edit {path}"


def remark(world: World) -> str:
    path = world.some_file()
    kind, data = world.files[path]
    world.write(path, kind, b"# %d\n" % world.random.randrange(10**6) + data)
    return f"comment in {path}"


def same_size(world: World) -> str:
    path = world.some_file()
    kind, data = world.files[path]
    place = world.root / path
    times = place.stat()
    changed = bytes((data[0] ^ 1,)) + data[1:] if data else b"x"
    world.write(path, kind, changed)
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    return f"edit of the same size with the time set back in {path}"


def touch(world: World) -> str:
    path = world.some_file()
    os.utime(world.root / path)
    return f"touch {path}"


def rewrite(world: World) -> str:
    path = world.some_file()
    kind, data = world.files[path]
    other = world.root / "ship.py.new"
    other.write_bytes(data)
    other.chmod(0o700 if kind == "x" else 0o600)
    other.replace(world.root / path)
    return f"the same content written anew, with another mode, in {path}"


def executable(world: World) -> str:
    path = world.some_file()
    kind, data = world.files[path]
    world.write(path, "f" if kind == "x" else "x", data)
    return f"executable bit of {path}"


def add(world: World) -> str:
    path = f"{os.path.dirname(world.some_file())}/new{world.random.randrange(10**6)}.py"
    world.write(path, "f", b"new\n")
    world.undo.append(lambda: world.files.get(path) and world.delete(path))
    return f"add {path}"


def remove(world: World) -> str:
    path = world.some_file()
    kind, data = world.files[path]
    world.delete(path)
    world.undo.append(lambda: world.write(path, kind, data))
    return f"remove {path}"


def rename(world: World) -> str:
    path = world.some_file()
    kind, data = world.files[path]
    world.delete(path)
    world.write(f"{path}.moved.py", kind, data)
    return f"rename {path}"


def link(world: World) -> str:
    path = f"{os.path.dirname(world.some_file())}/link{world.random.randrange(5)}"
    world.write(path, "l", b"target%d" % world.random.randrange(5))
    return f"link {path}"


def elsewhere(world: World) -> str:
    world.write(f"notes/{world.random.randrange(100)}.md", "f", b"%d" % world.random.randrange(10**6))
    (world.root / "pkg03" / f"empty{world.random.randrange(100)}").mkdir(exist_ok=True)
    cache = world.root / "pkg04" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "x.pyc").write_bytes(os.urandom(8))
    return "files that nothing takes, an empty directory, what Python left"


def comment_in_ship(world: World) -> str:
    world.remarks = [f"# {world.random.random()}"] * world.random.randrange(4)
    world.shuffled = not world.shuffled
    world.write_ship()
    return "comments in ship.py, steps in another order"


def limits(world: World) -> str:
    world.some_spec().timeout_s += 1
    world.write_ship()
    return "another timeout"


def equal_pattern(world: World) -> str:
    spec = world.some_spec()
    spec.patterns = [p[:-3] if p.endswith("/**") else p for p in spec.patterns]
    spec.patterns.append(f"{spec.name}/no-such-file")
    world.write_ship()
    return f"patterns of {spec.name} that come to the same"


def environment(world: World) -> str:
    spec = world.some_spec()
    name = world.random.choice("ABC")
    if name in spec.env and world.random.randrange(2):
        del spec.env[name]
    else:
        spec.env[name] = world.random.choice([value for value in ("", "1", "2") if value != spec.env.get(name)])
    spec.env = dict(sorted(spec.env.items(), reverse=bool(world.random.randrange(2))))
    world.write_ship()
    return f"env {name} of {spec.name}"


def command(world: World) -> str:
    spec = world.some_spec()
    spec.operation = world.random.choice(list(OPERATIONS))
    world.write_ship()
    return f"command of {spec.name}"


def exclude(world: World) -> str:
    spec = world.some_spec()
    spec.exclude = world.random.choice([[], [f"pkg{spec.name[1:]}/sub1"], ["**/*.txt"]])
    world.write_ship()
    return f"exclude of {spec.name}"


def undo(world: World) -> str:
    if world.undo:
        world.undo.pop()()
    return "undo"


def image(world: World) -> str:
    if world.random.randrange(10):
        return edit(world)
    world.image = world.random.randrange(3)
    return "another image"


CHANGES: tuple[Callable[[World], str], ...] = (
    edit, edit, edit, remark, remark, same_size, touch, rewrite, executable, add, remove, rename, link, elsewhere,
    comment_in_ship, limits, equal_pattern, environment, command, exclude, undo, undo, image,
)  # fmt: skip
