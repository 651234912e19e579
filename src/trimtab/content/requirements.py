"""Python requirements, turned into wheels with known digests: pip resolves, fetches and verifies; nothing is built.

What was resolved is recorded, so that the same requirements give the same wheels, without network, until someone asks
to refresh. The wheels themselves stay in the store. pip is told the image's Python and platform, not this machine's.
"""

from __future__ import annotations

import re
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from trimtab.content.bytecode import running_version
from trimtab.content.cache import key_of, recall, remember
from trimtab.content.errors import BadSpec, BuildFailed
from trimtab.content.oci import host_platform
from trimtab.content.store import ContentStore
from trimtab.content.tools import ToolFailed, run

# The C library of Debian 12 is 2.36: wheels for it and any older one run there (PEP 600).
_GLIBC_MINOR = 36
_GLIBC_MINOR_MIN = 5
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_WHEEL_NAME = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")
_LOCAL = re.compile(r"(?:-e\s|--editable[ =]|\.{0,2}/|\.$|(?:.*@\s*)?file:)")
_SOURCE = re.compile(r"(?:[^-].*@\s*|)(?:(?:git|hg|svn|bzr)\+\S+|https?://\S+)(?<!\.whl)(?:\s.*)?")
_NESTED = re.compile(r"(?:-r|--requirement|-c|--constraint)[ =]?(?P<path>\S+)")
_DEPTH_MAX = 8
_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Temporary failure|ConnectTimeout|ProxyError|Max retries"
)


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """One wheel in the store."""

    name: str
    version: str
    file: str
    digest: str
    size: int


class WheelSet(msgspec.Struct, frozen=True, kw_only=True):
    """What the requirements came to, sorted by name."""

    wheels: list[Wheel]
    at: str
    """When, RFC 3339."""


def read_requirements(declared: Sequence[str] | str, context: Path, *, wheels_only: bool = True) -> list[str]:
    """The requirement lines, options included, nested files resolved. Raises BadSpec naming file and line."""
    if not isinstance(declared, str):
        for line in declared:
            _refuse_source(line.strip(), "python", wheels_only)
        return [line.strip() for line in declared if line.strip()]
    path = context / declared
    if not path.resolve().is_relative_to(context.resolve()):
        raise BadSpec(f"python: {declared!r} is outside the project directory")
    if not path.is_file():
        raise BadSpec(
            f"python: there is no {declared} in {context}; list the requirements or name the file that has them"
        )
    if path.suffix == ".toml":
        return _from_pyproject(path, declared)
    return _from_file(path, declared, context, wheels_only, 0)


def _from_pyproject(path: Path, declared: str) -> list[str]:
    try:
        project = tomllib.loads(path.read_text()).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSpec(f"python: {declared}: {error}") from None
    found = project.get("dependencies", [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise BadSpec(f"python: {declared}: project.dependencies must be a list of requirements")
    return found


def _from_file(path: Path, declared: str, context: Path, wheels_only: bool, depth: int) -> list[str]:
    if depth > _DEPTH_MAX:
        raise BadSpec(f"python: {declared}: requirement files include each other without end")
    lines: list[str] = []
    text = path.read_text().replace("\\\n", " ")
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(?:^|\s)#.*$", "", raw).strip()
        if not line:
            continue
        _refuse_source(line, f"{declared}:{number}", wheels_only)
        nested = _NESTED.fullmatch(line)
        if nested is None:
            lines.append(line)
            continue
        if line.startswith(("-c", "--constraint")):
            raise BadSpec(
                f"python: {declared}:{number}: constraint files are not read; put the versions into {declared}"
            )
        below = (path.parent / nested["path"]).resolve()
        if not below.is_relative_to(context.resolve()) or not below.is_file():
            raise BadSpec(f"python: {declared}:{number}: there is no {nested['path']} in the project directory")
        lines.extend(_from_file(below, nested["path"], context, wheels_only, depth + 1))
    return lines


def _refuse_source(line: str, where: str, wheels_only: bool) -> None:
    if _LOCAL.match(line):
        raise BadSpec(f"{where}: {line!r} would build a package from source; copy the directory with `files` instead")
    if wheels_only and _SOURCE.fullmatch(line):
        raise BadSpec(
            f"{where}: {line!r} would build a package from source; allow it with wheels_only=False, or name a wheel"
        )


async def resolve_wheels(
    store: ContentStore,
    requirements: Sequence[str],
    *,
    python: str,
    architecture: str,
    wheels_only: bool = True,
    refresh: bool = False,
    progress: Callable[[str, float | None], None] = lambda detail, fraction: None,
) -> WheelSet:
    """The wheels for these requirement lines, all in the store.

    Raises BuildFailed in one line: no such package, no wheel for it, no network.
    """
    if not requirements:
        return WheelSet(wheels=[], at="")
    key = key_of("wheels", python, architecture, sorted(requirements), wheels_only)
    if not refresh and (known := recall(store, "wheels", key, WheelSet)):
        return known
    async with store.lock("wheels-" + key):
        if not refresh and (known := recall(store, "wheels", key, WheelSet)):
            return known
        progress("resolving Python packages", None)
        wheels = await _download(store, requirements, python, architecture, wheels_only, progress)
        found = WheelSet(wheels=wheels, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        remember(store, "wheels", key, found, [(one.digest, one.size) for one in wheels])
        return found


async def _download(
    store: ContentStore,
    requirements: Sequence[str],
    python: str,
    architecture: str,
    wheels_only: bool,
    progress: Callable[[str, float | None], None],
) -> list[Wheel]:
    cache = store.directory / "pip"
    with store.work_directory("pip") as work:
        target = work / "wheels"
        for directory in (target, cache):
            directory.mkdir(exist_ok=True)
            store.give_to_owner(directory)
        listed = work / "requirements.txt"
        listed.write_text("".join(line + "\n" for line in requirements))
        store.give_to_owner(listed)
        argv = [
            sys.executable,
            "-I",
            "-m",
            "pip",
            *(["download", "--dest"] if wheels_only else ["wheel", "--wheel-dir"]),
        ]
        argv += [str(target), "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=3"]
        argv += ["--cache-dir", str(cache), "--requirement", str(listed)]
        argv += _target_options(python, architecture) if wheels_only else _building_options(python, architecture)

        def on_line(line: str) -> None:
            if match := re.match(r"\s*(?:Collecting|Downloading|Saved) (\S+)", line):
                progress(f"fetching {match[1].rpartition('/')[2]}", None)

        try:
            await run(argv, cwd=work, env={"HOME": str(work)}, on_line=on_line, as_owner_of=store.directory)
        except ToolFailed as failure:
            raise BuildFailed(_reason(failure, python)) from None
        return [_keep(store, path) for path in sorted(target.iterdir())]


def _target_options(python: str, architecture: str) -> list[str]:
    machine = _MACHINES[architecture]
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    options += ["--abi", "cp" + python.replace(".", "")]
    for minor in range(_GLIBC_MINOR, _GLIBC_MINOR_MIN - 1, -1):
        options += ["--platform", f"manylinux_2_{minor}_{machine}"]
        if minor == 17:
            options += ["--platform", f"manylinux2014_{machine}"]
    return [*options, "--platform", f"linux_{machine}"]


def _building_options(python: str, architecture: str) -> list[str]:
    """Building from source is only possible for the Python that runs us, on the machine that we are on."""
    if python != running_version() or architecture != host_platform().architecture:
        raise BadSpec("wheels_only: building from source works only for this machine's own Python and processor")
    return []


def _keep(store: ContentStore, path: Path) -> Wheel:
    match = _WHEEL_NAME.fullmatch(path.name)
    if match is None:
        raise BuildFailed(f"pip downloaded {path.name}, which is not a wheel")
    name = re.sub(r"[-_.]+", "-", match["name"]).lower()
    size = path.stat().st_size
    return Wheel(name=name, version=match["version"], file=path.name, digest=store.put_file(path), size=size)


def _reason(failure: ToolFailed, python: str) -> str:
    """pip's reason, in one line."""
    text = "\n".join(failure.lines)
    if _NO_NETWORK.search(text) and ("No matching distribution" in text or "Could not install" in text):
        return "cannot reach the Python package index; is the network there?"
    if match := re.search(r"No matching distribution found for ([^\n]+?)(?: \(from [^\n]*)?$", text, re.MULTILINE):
        named = match[1].strip()
        versions = re.search(r"\(from versions: ([^)]*)\)", text)
        if versions and versions[1] not in ("none", ""):
            return f"no wheel of {named} for Python {python}; wheels there are: {_shortened(versions[1])}"
        return (
            f"no wheel of {named} for Python {python}: there is no such package, or it has none; "
            "choose another version, or allow building from source with wheels_only=False"
        )
    if match := re.search(r"The conflict is caused by:\n(.*)", text, re.DOTALL):
        return "the Python requirements contradict each other: " + "; ".join(match[1].split("\n")[:3])
    if match := re.search(r"THESE PACKAGES DO NOT MATCH THE HASHES[^\n]*\n?([^\n]*)", text):
        return f"a Python package is not what its hash says: {match[1].strip()}"
    if "Invalid requirement" in text:
        line = next(line for line in failure.lines if "Invalid requirement" in line)
        return f"python: {line.removeprefix('ERROR: ')}"
    errors = [line.removeprefix("ERROR: ") for line in failure.lines if line.startswith("ERROR: ")]
    return f"pip: {errors[-1] if errors else failure}"


def _shortened(versions: str) -> str:
    listed = versions.split(", ")
    return ", ".join(listed if len(listed) <= 6 else ["...", *listed[-5:]])
