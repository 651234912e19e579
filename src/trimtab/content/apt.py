"""Debian packages by name, turned into package files with known digests: apt resolves, fetches and verifies, in private.

apt runs against a state of its own (an empty machine, or what the image below already has), so what the host has
installed plays no part. The host only lends its mirrors, where it is Debian of the same release, and its proxy settings.
Signatures are checked by apt against Debian's keyring. What was resolved is recorded: the same request gives the same
files, without network, until someone asks to refresh.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec

from trimtab.content import deb
from trimtab.content.cache import key_of, recall, remember
from trimtab.content.digest import Digest
from trimtab.content.errors import BuildFailed
from trimtab.content.store import ContentStore
from trimtab.content.tools import ToolFailed, run

SUITE = "bookworm"
DISTRO = "debian-12"
LISTS_AGE_MAX_S = 86400.0  # a new resolution looks at indexes no older than a day, if the network is there
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_HOST_SOURCES = Path("/etc/apt")

# Needed only by maintainer scripts, which never run here. Named explicitly in a spec they are put in all the same.
SCRIPT_ONLY = ("adduser", "debconf", "dpkg", "init-system-helpers", "mawk", "sysvinit-utils", "ucf")
_PROVIDED = {"mawk": "awk", "debconf": "debconf-2.0"}


class Deb(msgspec.Struct, frozen=True, kw_only=True):
    """One package file in the store."""

    name: str
    version: str
    architecture: str
    digest: str
    size: int
    source: str = ""
    """The source package, where its name differs."""


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to, in the order of names."""

    debs: list[Deb]
    at: str
    """When, RFC 3339."""


async def resolve(
    store: ContentStore,
    packages: Sequence[str],
    *,
    architecture: str,
    omit: Sequence[str] = (),
    installed: str = "",
    refresh: bool = False,
    progress: Callable[[str, float | None], None] = lambda detail, fraction: None,
) -> Resolution:
    """The package files for these names, all in the store. `installed` is the dpkg status of the image below.

    Raises BuildFailed with apt's reason in one line.
    """
    named = {package.partition("=")[0] for package in packages}
    omit = sorted({*omit, *SCRIPT_ONLY} - named)
    key = key_of("apt", SUITE, architecture, sorted(packages), omit, installed)
    if not refresh and (known := recall(store, "apt", key, Resolution)):
        return known
    if shutil.which("apt-get") is None or not _KEYRING.exists():
        raise BuildFailed(
            "Debian packages need apt and debian-archive-keyring on this machine; on Debian both are there"
        )
    async with store.lock(f"apt-{architecture}"):
        if not refresh and (known := recall(store, "apt", key, Resolution)):
            return known
        with store.work_directory("apt") as work:
            private = _Apt(store, work, architecture, omit, installed)
            debs = await private.fetch(list(packages), refresh=refresh, progress=progress)
    found = Resolution(debs=debs, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    remember(store, "apt", key, found, [(one.digest, one.size) for one in debs])
    return found


class _Apt:
    """apt over a state directory of ours. One user at a time: the caller holds the lock."""

    def __init__(self, store: ContentStore, work: Path, architecture: str, omit: Sequence[str], installed: str) -> None:
        self._store = store
        self._state = store.directory / "apt" / f"{SUITE}-{architecture}"
        self._lists = self._state / "lists"
        for path in (self._lists / "partial", self._state / "cache"):
            path.mkdir(parents=True, exist_ok=True)
        self._work = work
        self._archives = self._work / "archives"
        (self._archives / "partial").mkdir(parents=True)
        (self._work / "status").write_text(_status(installed, omit, architecture))
        (self._work / "sources.list").write_text(_sources(architecture))
        (self._work / "apt.conf").write_text(self._configuration(architecture))
        self._own()

    async def fetch(
        self, packages: list[str], *, refresh: bool, progress: Callable[[str, float | None], None]
    ) -> list[Deb]:
        """Resolve, download what the store does not have, keep it. Indexes too old for the mirror are renewed once."""
        fresh = await self._update(refresh, progress)
        try:
            return await self._install(packages, progress)
        except ToolFailed:
            if fresh:
                raise
            await self._update(True, progress)
            return await self._install(packages, progress)

    async def _update(self, refresh: bool, progress: Callable[[str, float | None], None]) -> bool:
        stamp = self._state / "updated"
        have = stamp.exists()
        if have and not refresh and time.time() - stamp.stat().st_mtime < LISTS_AGE_MAX_S:
            return False
        progress("reading Debian's package indexes", None)
        try:
            await self._apt("apt-get", "-q", "update", "-o", "APT::Update::Error-Mode=any")
        except ToolFailed as failure:
            if have and not refresh:
                return False
            raise BuildFailed(
                f"cannot read Debian's package indexes: {_reason(failure)}; is the network there?"
            ) from None
        stamp.write_text("")
        os.utime(stamp)
        return True

    async def _install(self, packages: list[str], progress: Callable[[str, float | None], None]) -> list[Deb]:
        planned = await self._plan(packages)
        missing = [name for name in planned if not self._place(name)]
        if missing:

            def on_line(line: str) -> None:
                if line.startswith("dlstatus:"):
                    _, _, percent, text = line.split(":", 3)
                    progress(text.split(" (")[0].lower(), float(percent) / 100)

            progress(f"downloading {len(missing)} Debian packages", 0.0)
            try:
                await self._apt(
                    "apt-get",
                    "-q",
                    "-y",
                    "-o",
                    "APT::Status-Fd=1",
                    "--download-only",
                    "install",
                    *packages,
                    on_line=on_line,
                )
            except ToolFailed as failure:
                raise ToolFailed(["apt-get"], failure.code, [_reason(failure)]) from None
        return [self._keep(name) for name in sorted(planned)]

    async def _plan(self, packages: list[str]) -> list[str]:
        """The file names of all packages to install."""
        try:
            out = await self._apt("apt-get", "-q", "-y", "--print-uris", "install", *packages)
        except ToolFailed as failure:
            raise ToolFailed(["apt-get"], failure.code, [_reason(failure)]) from None
        return [line.split()[1] for line in out.decode().splitlines() if line.startswith("'")]

    def _place(self, name: str) -> bool:
        """Lays a file that the store has where apt looks for it; apt still checks it."""
        known = recall(self._store, "deb", key_of(name), Deb)
        if known is None:
            return False
        source, target = self._store.path(Digest(known.digest)), self._archives / name
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
        return True

    def _keep(self, name: str) -> Deb:
        if known := recall(self._store, "deb", key_of(name), Deb):
            return known
        path = self._archives / name
        if not path.exists():
            raise BuildFailed(f"apt did not download {unquote(name)}")
        control = deb.fields(deb.control_text(path))
        kept = Deb(
            name=control["Package"],
            version=control["Version"],
            architecture=control["Architecture"],
            digest=self._store.put_file(path),
            size=path.stat().st_size,
            source=control.get("Source", "").partition(" ")[0],
        )
        remember(self._store, "deb", key_of(name), kept, [(kept.digest, kept.size)])
        return kept

    async def _apt(self, *argv: str, on_line: Callable[[str], None] | None = None) -> bytes:
        env = {"APT_CONFIG": str(self._work / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive", "HOME": str(self._work)}
        return await run(argv, cwd=self._work, env=env, on_line=on_line, as_owner_of=self._store.directory)

    def _configuration(self, architecture: str) -> str:
        paths = {
            "Dir::State": self._state,
            "Dir::State::lists": self._lists,
            "Dir::State::status": self._work / "status",
            "Dir::Cache": self._state / "cache",
            "Dir::Cache::archives": self._archives,
            "Dir::Cache::pkgcache": "",  # would hold the status, which differs each time; srcpkgcache holds the rest
            "Dir::Etc::sourcelist": self._work / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Install-Suggests": "false",
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
        }
        if os.geteuid() != 0 or self._store.directory.stat().st_uid != 0:
            paths["APT::Sandbox::User"] = ""
        return _proxy_settings() + "".join(f'{name} "{value}";\n' for name, value in paths.items())

    def _own(self) -> None:
        """What root made here belongs to the user that apt runs as."""
        for top in (self._store.directory / "apt", self._work):
            self._store.give_to_owner(top)
            for path in top.rglob("*"):
                if path.stat().st_uid == os.geteuid():
                    self._store.give_to_owner(path)
        if os.geteuid() == 0 and self._store.directory.stat().st_uid == 0:
            self._work.chmod(0o755)  # apt's own download user reads here


def _status(installed: str, omit: Sequence[str], architecture: str) -> str:
    """The dpkg status that apt sees: what the image below has, and what is left out, as if it were there.

    What the image below left out in its time shows in dependencies that nothing there satisfies.
    """
    paragraphs = [installed.strip()] if installed.strip() else []
    present, unmet = _dependencies(installed)
    for name in sorted({*omit, *unmet} - present):
        provides = f"Provides: {_PROVIDED[name]}\n" if name in _PROVIDED else ""
        paragraphs.append(
            f"Package: {name}\nStatus: install ok installed\nMaintainer: none <none@localhost>\nMulti-Arch: foreign\n"
            f"Architecture: {architecture}\nVersion: 9999\n{provides}Description: left out of the image"
        )
    return "\n\n".join(paragraphs) + "\n"


def _dependencies(status: str) -> tuple[set[str], set[str]]:
    """The names that this status has, provided ones included, and those it depends on in vain."""
    present: set[str] = set()
    wanted: list[list[str]] = []
    for paragraph in re.split(r"\n\n+", status.strip()):
        named = deb.fields(paragraph)
        present |= {named.get("Package", ""), *(_bare(one) for one in named.get("Provides", "").split(","))}
        for field in ("Depends", "Pre-Depends"):
            wanted += [[_bare(one) for one in choice.split("|")] for choice in named.get(field, "").split(",")]
    return present, {choices[0] for choices in wanted if choices[0] and not present.intersection(choices)}


def _bare(dependency: str) -> str:
    """`libc6:any (>= 2.36)` -> `libc6`."""
    return re.split(r"[\s:(]", dependency.strip(), maxsplit=1)[0]


def _sources(architecture: str) -> str:
    """Debian's archive of our release, from the host's own mirrors where it has some."""
    mirrors = _host_mirrors() or {
        SUITE: "http://deb.debian.org/debian",
        f"{SUITE}-updates": "http://deb.debian.org/debian",
        f"{SUITE}-security": "http://deb.debian.org/debian-security",
    }
    options = f"[arch={architecture} signed-by={_KEYRING}]"
    return "".join(f"deb {options} {uri} {suite} main\n" for suite, uri in mirrors.items())


def _host_mirrors() -> dict[str, str]:
    """{suite: URI} of the host's sources for our release, in both of apt's formats; only those signed by Debian's key."""
    found: dict[str, str] = {}
    for path in [_HOST_SOURCES / "sources.list", *sorted((_HOST_SOURCES / "sources.list.d").glob("*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            match = re.fullmatch(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(?:.*\s)?main(?:\s.*)?", line.strip())
            if match:
                found.setdefault(match[2], match[1])
    for path in sorted((_HOST_SOURCES / "sources.list.d").glob("*.sources")):
        for paragraph in re.split(r"\n\s*\n", path.read_text()):
            named = deb.fields("\n".join(line for line in paragraph.splitlines() if not line.startswith("#")))
            if "deb" in named.get("Types", "").split() and "main" in named.get("Components", "").split():
                for suite in named.get("Suites", "").split():
                    found.setdefault(suite, named.get("URIs", "").split()[0])
    wanted = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    mirrors = {suite: found[suite] for suite in wanted if suite in found}
    return mirrors if SUITE in mirrors else {}


def _proxy_settings() -> str:
    """The host's `Acquire` settings: proxies, certificates, timeouts. Its hooks and the rest stay out."""
    try:
        dump = subprocess.run(
            ["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"], capture_output=True, check=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    kept = (line for line in dump.stdout.splitlines() if re.match(r"Acquire::(https?|ftp|Retries|Check)", line))
    return "".join(line + "\n" for line in kept)


def _reason(failure: ToolFailed) -> str:
    """apt's reason, in one line."""
    errors = [line[3:] for line in failure.lines if line.startswith("E: ")]
    for line in errors:
        if match := re.search(r"Unable to locate package (\S+)", line):
            return f"Debian 12 has no package named {match[1]}; see packages.debian.org for the right name"
        if match := re.search(r"Version '([^']+)' for '([^']+)' was not found", line):
            return f"Debian 12 has no version {match[1]} of {match[2]}; leave the version out to get the current one"
        if match := re.search(r"Package '([^']+)' has no installation candidate", line):
            return f"Debian 12 has no package named {match[1]}, though others mention it"
    unmet = [line for line in failure.lines if "Depends:" in line]
    if unmet:
        return f"these packages do not go together: {unmet[0].strip()}"
    return errors[0] if errors else str(failure)
