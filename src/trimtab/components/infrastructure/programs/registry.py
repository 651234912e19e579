"""Where providers come from: a registry, or a path (mirrors: `mirror`); what is fetched is verified before it is kept.

    NAMESPACE/NAME[@VERSION] --versions--> the newest that fits --download--> SHA256SUMS, its signature, the archive --> the program

The registry protocol of Terraform providers (`providers.v1`), as OpenTofu's registry speaks it. The keys are those that the registry names for
the namespace; of many providers OpenTofu's has none, and those are installed only when whoever installs says so.
"""

from __future__ import annotations

import hashlib
import io
import platform
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from trimtab.components.infrastructure.programs.fetching import (
    ANSWER_BYTES_MAX,
    InstallError,
    read,
    read_json,
    token,
)
from trimtab.components.infrastructure.programs.signature import verify

HOST = "registry.opentofu.org"
ARCHIVE_BYTES_MAX = 1 << 30
SIGNATURE_BYTES_MAX = 1 << 20
UNSAID = "0.0.0"
"""The version of a program from a path of which nobody said one: it may be another one tomorrow."""
PROTOCOLS = ("5", "6")
NAME = re.compile(r"^(?:(?P<host>[a-z0-9.-]+\.[a-z]+(?::\d+)?)/)?(?P<namespace>[a-zA-Z0-9_-]+)/(?P<name>[a-z0-9_-]+)$")
VERSION = re.compile(r"^(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?$")
PROGRAM = re.compile(r"^terraform-provider-[^/]+$")


@dataclass(frozen=True)
class Source:
    """`HOST/NAMESPACE/NAME`."""

    host: str
    namespace: str
    name: str

    def __str__(self) -> str:
        short = f"{self.namespace}/{self.name}"
        return short if self.host == HOST else f"{self.host}/{short}"


@dataclass(frozen=True)
class Fetched:
    """A provider's program in memory-mapped form: its bytes, and what they are known by."""

    version: str
    program: bytes
    checksum: str
    """`sha256:` of the program."""


Progress = Callable[[str], None]


def source_of(text: str) -> Source:
    """Raises `InstallError`."""
    match = NAME.match(text)
    if match is None:
        raise InstallError(f"{text}: not the name of a provider; write NAMESPACE/NAME, such as linode/linode")
    return Source(match["host"] or HOST, match["namespace"], match["name"])


def system() -> tuple[str, str]:
    """(os, arch) as registries name them."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return platform.system().lower(), machine


def order(version: str) -> tuple[Any, ...]:
    """Sorts versions by semantic versioning's precedence."""
    match = VERSION.match(version)
    if match is None:
        return (-1,)
    before = match[4]
    parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in before.split(".")) if before else ()
    return (int(match[1]), int(match[2]), int(match[3]), before is None, parts)


def newest(versions: list[str], wanted: str) -> str | None:
    """The newest that is `wanted`: empty for the newest release, `2` or `2.1` for the newest of those, or one exactly."""
    if wanted in versions:
        return wanted
    prefix = f"{wanted}." if wanted else ""
    found = [v for v in versions if v.startswith(prefix) and VERSION.match(v) and "-" not in v]
    return max(found, key=order, default=None)


# From a registry


def from_registry(
    source: Source, wanted: str, progress: Progress, *, unsigned: bool = False, base: str = ""
) -> Fetched:
    """Fetches and verifies a provider. unsigned: also one for which the registry names no key. base: another address of the host's (a
    proxy). Raises `InstallError`."""
    secret = token(source.host)
    address = f"{base or f'https://{source.host}'}/.well-known/terraform.json"
    services, found_at = read_json(address, f"registry {source.host}")
    root = services.get("providers.v1")
    if not isinstance(root, str):
        raise InstallError(f"{source.host}: serves no providers (no providers.v1 in /.well-known/terraform.json)")
    place = f"{urljoin(found_at, root).rstrip('/')}/{source.namespace}/{source.name}"
    known, _ = read_json(f"{place}/versions", f"{source}", secret=secret)
    for warning in known.get("warnings") or []:
        progress(f"{source}: {warning}")
    version = _chosen(source, [one for one in known.get("versions") or [] if isinstance(one, dict)], wanted)
    what = f"{source} {version}"
    os_, arch = system()
    progress(f"{what}: fetching")
    where, at = read_json(f"{place}/{version}/download/{os_}/{arch}", f"{what} for {os_}/{arch}", secret=secret)
    sums, _ = read(urljoin(at, str(where.get("shasums_url"))), f"{what}: its checksums", ANSWER_BYTES_MAX)
    keys = [str(k.get("ascii_armor")) for k in (where.get("signing_keys") or {}).get("gpg_public_keys") or []]
    if keys:
        url = urljoin(at, str(where.get("shasums_signature_url")))
        if said := verify(what, sums, read(url, f"{what}: its signature", SIGNATURE_BYTES_MAX)[0], keys):
            progress(f"{what}: {said}")
    elif unsigned:
        progress(f"{what}: the registry names no key that signed it; taken by the registry's checksum alone")
    else:
        raise InstallError(
            f"{what}: the registry names no key that signed it: --unsigned takes it by its checksum alone"
        )
    filename = str(where.get("filename"))
    expected = _listed(sums, filename)
    if expected is None:
        raise InstallError(f"{what}: its {'signed ' if keys else ''}checksums do not name {filename}")
    if str(where.get("shasum") or expected).lower() != expected:
        raise InstallError(
            f"{what}: the registry and the checksums do not say the same of {filename}: nothing was installed"
        )
    archive, _ = read(urljoin(at, str(where.get("download_url"))), what, ARCHIVE_BYTES_MAX)
    if (found := hashlib.sha256(archive).hexdigest()) != expected:
        raise InstallError(
            f"{what}: wrong checksum of {filename}: sha256 {found}, signed is {expected}: nothing was installed"
        )
    return unpacked(what, version, archive)


def _chosen(source: Source, known: list[dict[str, Any]], wanted: str) -> str:
    """The newest that is wanted, made for this machine, and speaks a protocol of ours. Raises `InstallError`."""
    misfits = {str(one.get("version")): _misfit(one) for one in known}
    version = newest([one for one, why in misfits.items() if not why], wanted)
    if version is not None:
        return version
    if (other := newest(list(misfits), wanted)) is not None:
        fitting = newest([one for one, why in misfits.items() if not why], "")
        better = f"; the newest that can be used is {fitting}" if fitting else ""
        raise InstallError(f"{source} {other}: {misfits[other]}{better}")
    last = ", ".join(sorted(misfits, key=order)[-5:]) or "none"
    raise InstallError(f"{source}: there is no version {wanted or 'of it'}; the latest are {last}")


def _misfit(version: dict[str, Any]) -> str:
    """Why a version cannot be used here, or empty. Registries need not say for what it is."""
    os_, arch = system()
    platforms = [
        f"{one.get('os')}/{one.get('arch')}" for one in version.get("platforms") or [] if isinstance(one, dict)
    ]
    if platforms and f"{os_}/{arch}" not in platforms:
        return f"not made for {os_}/{arch}"
    protocols = [str(one) for one in version.get("protocols") or []]
    if protocols and not any(one.split(".")[0] in PROTOCOLS for one in protocols):
        return f"speaks protocol {', '.join(protocols)}, and Trimtab {' and '.join(PROTOCOLS)}"
    return ""


def _listed(sums: bytes, filename: str) -> str | None:
    for line in sums.decode(errors="replace").splitlines():
        digest, _, name = line.partition(" ")
        if name.strip().removeprefix("*") == filename:
            return digest.strip().lower()
    return None


# From files


def from_path(path: Path, version: str = "") -> Fetched:
    """A program, or an archive of one. Raises `InstallError`."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise InstallError(f"{path}: {err.strerror or err}") from None
    if data.startswith(b"PK\x03\x04"):
        return unpacked(str(path), version, data)
    if not data.startswith((b"\x7fELF", b"#!")):
        raise InstallError(f"{path}: neither a program nor a zip archive of one")
    return Fetched(version or _version_in(path.name), data, f"sha256:{hashlib.sha256(data).hexdigest()}")


def _version_in(name: str) -> str:
    match = re.search(r"_v?(\d+\.\d+\.\d+[^_]*)", name)
    return match[1] if match else UNSAID


def unpacked(what: str, version: str, archive: bytes) -> Fetched:
    """The program in an archive. Raises `InstallError`."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            names = [name for name in packed.namelist() if PROGRAM.match(name)]
            if not names:
                raise InstallError(f"{what}: there is no terraform-provider-* in the archive")
            info = packed.getinfo(names[0])
            if info.file_size > ARCHIVE_BYTES_MAX:
                raise InstallError(f"{what}: {names[0]} is larger than {ARCHIVE_BYTES_MAX} bytes")
            data = packed.read(info)
    except zipfile.BadZipFile as err:
        raise InstallError(f"{what}: not a zip archive ({err})") from None
    except (RuntimeError, EOFError, zlib.error) as err:  # encrypted, packed in a way of its own, broken within
        raise InstallError(f"{what}: cannot be unpacked ({err})") from None
    return Fetched(version or _version_in(names[0]), data, f"sha256:{hashlib.sha256(data).hexdigest()}")
