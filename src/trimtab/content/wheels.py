"""Wheels as a layer: unpacked as the wheel format says, with bytecode, scripts and metadata. No code of theirs runs.

A wheel is a zip of what goes into site-packages; `NAME.data/` holds what goes elsewhere; `entry_points.txt` names the
commands, for which small scripts are written. Format: the binary distribution format of the Python packaging
specifications.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import re
import zipfile
from collections.abc import Callable, Sequence

import msgspec

from trimtab.content.bytecode import compile_sources, compiler_for, pyc_path
from trimtab.content.cache import key_of, recall, remember
from trimtab.content.digest import Digest
from trimtab.content.errors import BuildFailed
from trimtab.content.requirements import Wheel
from trimtab.content.store import ContentStore
from trimtab.content.tarwriter import COMPRESSION_LEVEL, Layer, LayerWriter, checked
from trimtab.content.tree import Tree

WHEELS_REVISION = 2  # raised when this module writes anything differently, so that cached layers are made anew

_FILE_BYTES_MAX = 2 << 30
_SCRIPT = '#!{python}\nimport sys\nfrom {module} import {first}\n\nif __name__ == "__main__":\n    sys.exit({call}())\n'
_ENTRY = re.compile(r"(?P<module>[\w.]+)\s*:\s*(?P<object>[\w.]+)\s*(?:\[.*\])?")


class PythonHome(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image's Python is, and where it looks for packages that are added. Paths without a leading slash."""

    version: str
    interpreter: str
    site: str
    scripts: str


DEBIAN_PYTHON = PythonHome(
    version="3.11",
    interpreter="/usr/bin/python3",
    site="usr/local/lib/python3.11/dist-packages",
    scripts="usr/local/bin",
)


class WheelsLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of Python packages."""

    layer: Layer
    licenses: dict[str, str]
    """{package: its licence, as it declares it}."""


async def wheels_layer(
    store: ContentStore,
    wheels: Sequence[Wheel],
    home: PythonHome,
    tree: Tree | None = None,
    progress: Callable[[str, float | None], None] = lambda detail, fraction: None,
) -> tuple[WheelsLayer, bool]:
    """The layer of these wheels, and whether it was there already."""
    compiled = compiler_for(home.version) is not None
    key = key_of(WHEELS_REVISION, COMPRESSION_LEVEL, [(one.file, one.digest) for one in wheels], home, tree, compiled)
    if known := recall(store, "python", key, WheelsLayer):
        return known, True
    import asyncio

    with store.ingest() as ingest:
        site = _Site(LayerWriter(ingest, tree), home)
        for position, one in enumerate(wheels):
            progress(f"installing {one.name}", position / len(wheels))
            await asyncio.to_thread(site.add, store, one)
        progress("finishing", 1.0)
        compiled_sources = await compile_sources(site.sources, home.version, checked=False, directory=store.directory)
        made = site.finish(compiled_sources)
    remember(store, "python", key, made, [(made.layer.digest, made.layer.size)])
    return made, False


class _Site:
    """The site directory being written."""

    def __init__(self, writer: LayerWriter, home: PythonHome) -> None:
        self._writer = writer
        self._home = home
        self._licenses: dict[str, str] = {}
        self.sources: list[tuple[str, bytes]] = []

    def add(self, store: ContentStore, wheel: Wheel) -> None:
        """One wheel: files in the order of their names, then scripts, then the record of them all."""
        try:
            with store.open(Digest(wheel.digest)) as file, zipfile.ZipFile(file) as archive:
                self._add(archive, wheel)
        except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, configparser.Error) as error:
            raise BuildFailed(f"the wheel {wheel.file} is malformed: {error}") from None

    def _add(self, archive: zipfile.ZipFile, wheel: Wheel) -> None:
        info_directory = _info_directory(archive, wheel)
        record: list[str] = []
        for member in sorted(archive.infolist(), key=lambda one: one.filename):
            if member.is_dir() or member.filename in (f"{info_directory}/RECORD", f"{info_directory}/RECORD.jws"):
                continue
            if member.file_size > _FILE_BYTES_MAX:
                raise BuildFailed(f"the wheel {wheel.file} has a file of {member.file_size} bytes: {member.filename}")
            path, is_script = self._place(checked(member.filename), wheel)
            if path is None:
                continue
            data = archive.read(member)
            if is_script and data.startswith(b"#!python"):
                first, _, rest = data.partition(b"\n")
                arguments = first.removeprefix(b"#!python").removeprefix(b"w")
                data = b"#!" + self._home.interpreter.encode() + arguments + b"\n" + rest
            executable = is_script or bool(member.external_attr >> 16 & 0o111)
            record.append(self._file(path, data, executable))
        record.extend(self._commands(archive, info_directory, wheel))
        record.append(self._file(f"{self._home.site}/{info_directory}/INSTALLER", b"trimtab\n", False))
        name = f"{self._home.site}/{info_directory}/RECORD"
        record.append(f"{self._relative(name)},,")
        self._put(name, "".join(line + "\n" for line in sorted(record)).encode(), False)
        metadata = archive.read(f"{info_directory}/METADATA").decode("utf-8", "replace")
        self._licenses[wheel.name] = _license(metadata)

    def _place(self, path: str, wheel: Wheel) -> tuple[str | None, bool]:
        """Where a member goes in the image, and whether it is a script. Bytecode that a wheel brings stays out."""
        if path.endswith(".pyc"):
            return None, False
        first, _, rest = path.partition("/")
        if not first.endswith(".data"):
            return f"{self._home.site}/{path}", False
        kind, _, rest = rest.partition("/")
        if kind in ("purelib", "platlib"):
            return f"{self._home.site}/{rest}", False
        if kind == "scripts":
            return f"{self._home.scripts}/{rest}", True
        prefix = self._home.scripts.rpartition("/")[0]
        if kind == "data":
            return f"{prefix}/{rest}", False
        if kind == "headers":
            return f"{prefix}/include/python{self._home.version}/{wheel.name}/{rest}", False
        raise BuildFailed(f"the wheel {wheel.file} has an unknown part {first}/{kind}")

    def _commands(self, archive: zipfile.ZipFile, info_directory: str, wheel: Wheel) -> list[str]:
        name = f"{info_directory}/entry_points.txt"
        if name not in archive.namelist():
            return []
        parser = configparser.RawConfigParser(delimiters=("=",), interpolation=None, strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
        parser.read_string(archive.read(name).decode())
        record: list[str] = []
        for section in ("console_scripts", "gui_scripts"):
            for command, entry in sorted(parser.items(section)) if parser.has_section(section) else ():
                match = _ENTRY.fullmatch(entry.strip())
                if match is None or not re.fullmatch(r"[\w.-]+", command):
                    raise BuildFailed(f"the wheel {wheel.file} has a malformed entry point {command!r}")
                text = _SCRIPT.format(
                    python=self._home.interpreter,
                    module=match["module"],
                    first=match["object"].partition(".")[0],
                    call=match["object"],
                )
                record.append(self._file(f"{self._home.scripts}/{command}", text.encode(), True))
        return record

    def _file(self, path: str, data: bytes, executable: bool) -> str:
        """Writes a file; returns its line of RECORD."""
        self._put(path, data, executable)
        if path.endswith(".py") and path.startswith(self._home.site):
            self.sources.append((path, data))
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        return f"{self._relative(path)},sha256={digest},{len(data)}"

    def _put(self, path: str, data: bytes, executable: bool) -> None:
        self._writer.parents(path)
        self._writer.file(path, data, mode=0o755 if executable else 0o644)

    def _relative(self, path: str) -> str:
        if path.startswith(self._home.site + "/"):
            return path[len(self._home.site) + 1 :]
        return "../" * (self._home.site.count("/") + 1) + path

    def finish(self, compiled: Sequence[bytes]) -> WheelsLayer:
        for (path, _), data in zip(self.sources, compiled, strict=True):
            if data:
                target = pyc_path(path, self._home.version)
                self._writer.parents(target)
                self._writer.file(target, data)
        return WheelsLayer(layer=self._writer.finish(), licenses=self._licenses)


def _info_directory(archive: zipfile.ZipFile, wheel: Wheel) -> str:
    found = {name.split("/")[0] for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)}
    if len(found) != 1:
        raise BuildFailed(f"the wheel {wheel.file} has {len(found)} .dist-info directories; one is expected")
    return found.pop()


def _license(metadata: str) -> str:
    head = metadata.split("\n\n", 1)[0]
    for field in ("License-Expression", "License"):
        if match := re.search(rf"^{field}: ([^\n]{{1,100}})$", head, re.MULTILINE):
            return match[1].strip()
    classifiers = re.findall(r"^Classifier: License :: (?:OSI Approved :: )?([^\n]+)$", head, re.MULTILINE)
    return "; ".join(classifiers)
