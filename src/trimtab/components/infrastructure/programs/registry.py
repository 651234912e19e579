"""Where providers come from: a registry, a file system mirror, or a path; what is fetched is verified before it is kept.

    NAMESPACE/NAME[@VERSION] --versions--> the newest that fits --download--> SHA256SUMS, its signature, the archive --> the program

The registry protocol of Terraform providers (`providers.v1`), as OpenTofu's registry speaks it. A signature is checked by `gpgv` against the keys
that the registry names for the namespace; a mirror's archives are checked against the lock, if there is one.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import platform
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

HOST = "registry.opentofu.org"
ARCHIVE_BYTES_MAX = 1 << 30
ANSWER_BYTES_MAX = 64 << 20
TIMEOUT_S = 60.0
UNSAID = "0.0.0"
"""The version of a program from a path of which nobody said one: it may be another one tomorrow."""
PROTOCOLS = (5, 6)
NAME = re.compile(r"^(?:(?P<host>[a-z0-9.-]+\.[a-z]+(?::\d+)?)/)?(?P<namespace>[a-zA-Z0-9_-]+)/(?P<name>[a-z0-9_-]+)$")
VERSION = re.compile(r"^(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?$")
PROGRAM = re.compile(r"^terraform-provider-[^/]+$")


class InstallError(Exception):
    """A provider that cannot be had: one line with where, what is wrong, and what to do."""


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


def from_registry(source: Source, wanted: str, progress: Progress, *, base: str = "") -> Fetched:
    """Fetches and verifies a provider. base: another address of the host's (a proxy). Raises `InstallError`."""
    address = base or f"https://{source.host}"
    services = _json(f"{address}/.well-known/terraform.json", f"registry {source.host}")
    root = services.get("providers.v1")
    if not isinstance(root, str):
        raise InstallError(f"{source.host}: serves no providers (no providers.v1 in /.well-known/terraform.json)")
    place = urljoin(f"{address}/", f"{root.rstrip('/')}/{source.namespace}/{source.name}")
    known = [v for v in _json(f"{place}/versions", f"{source}").get("versions", []) if isinstance(v, dict)]
    names = [str(v.get("version")) for v in known]
    version = newest(names, wanted)
    if version is None:
        last = ", ".join(sorted(names, key=order)[-5:]) or "none"
        raise InstallError(f"{source}: there is no version {wanted or 'of it'}; the latest are {last}")
    os_, arch = system()
    progress(f"{source} {version}: fetching")
    where = _json(f"{place}/{version}/download/{os_}/{arch}", f"{source} {version} for {os_}/{arch}")
    sums = _fetch(urljoin(place, str(where.get("shasums_url"))), f"{source} {version}: its checksums", ANSWER_BYTES_MAX)
    signature = _fetch(
        urljoin(place, str(where.get("shasums_signature_url"))), f"{source} {version}: its signature", 1 << 20
    )
    keys = [str(k.get("ascii_armor")) for k in (where.get("signing_keys") or {}).get("gpg_public_keys", [])]
    _verify(f"{source} {version}", sums, signature, keys)
    filename = str(where.get("filename"))
    expected = _listed(sums, filename)
    if expected is None:
        raise InstallError(f"{source} {version}: its signed checksums do not name {filename}")
    archive = _fetch(urljoin(place, str(where.get("download_url"))), f"{source} {version}", ARCHIVE_BYTES_MAX)
    if (found := hashlib.sha256(archive).hexdigest()) != expected:
        raise InstallError(
            f"{source} {version}: wrong checksum of {filename}: sha256 {found}, signed is {expected}: nothing was installed"
        )
    return _unpacked(f"{source} {version}", version, archive)


def _json(url: str, what: str) -> dict[str, Any]:
    try:
        answer = json.loads(_fetch(url, what, ANSWER_BYTES_MAX))
    except ValueError:
        raise InstallError(f"{what}: {url} answers no JSON") from None
    if not isinstance(answer, dict):
        raise InstallError(f"{what}: {url} answers no JSON object")
    return answer


def _fetch(url: str, what: str, most: int) -> bytes:
    if urlsplit(url).scheme not in ("https", "http"):
        raise InstallError(f"{what}: {url!r} is no address")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(most + 1)
            promised = int(answer.headers.get("content-length") or len(data))
    except urllib.error.HTTPError as err:
        with err:
            if err.code == 404:
                raise InstallError(f"{what}: not there ({url}: 404)") from None
            raise InstallError(f"{what}: {url}: {err.code} {err.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as err:
        reason = getattr(err, "reason", err)
        raise InstallError(f"{what}: {url}: {reason}") from None
    if len(data) > most:
        raise InstallError(f"{what}: {url}: more than {most} bytes")
    if len(data) < promised:
        raise InstallError(f"{what}: {url}: it broke off after {len(data)} of {promised} bytes: try again")
    return data


def _listed(sums: bytes, filename: str) -> str | None:
    for line in sums.decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if name.strip() == filename:
            return digest.strip().lower()
    return None


def _verify(what: str, data: bytes, signature: bytes, keys: list[str]) -> None:
    """Raises `InstallError` unless one of the keys signed it."""
    program = shutil.which("gpgv")
    if program is None:
        raise InstallError("gpgv is missing, which checks providers' signatures: apt-get install gpgv")
    if not keys:
        raise InstallError(f"{what}: the registry names no key that signed it")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "sums").write_bytes(data)
        (folder / "sums.sig").write_bytes(signature)
        (folder / "keys.gpg").write_bytes(b"".join(dearmored(key) for key in keys))
        done = subprocess.run(
            [
                program,
                "--homedir",
                directory,
                "--keyring",
                str(folder / "keys.gpg"),
                str(folder / "sums.sig"),
                str(folder / "sums"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise InstallError(
            f"{what}: its signature is not good ({said[-1].strip() if said else 'gpgv'}): nothing was installed"
        )


def dearmored(text: str) -> bytes:
    """The bytes of an ASCII-armored OpenPGP block (RFC 9580, 6.2). Raises `InstallError`."""
    lines = [line.strip() for line in text.strip().splitlines()]
    try:
        begin = next(i for i, line in enumerate(lines) if line.startswith("-----BEGIN PGP")) + 1
        end = next(i for i, line in enumerate(lines) if line.startswith("-----END PGP"))
        while lines[begin] and ":" in lines[begin]:
            begin += 1
        body = [line for line in lines[begin:end] if line and not line.startswith("=")]
        return base64.b64decode("".join(body), validate=True)
    except (StopIteration, ValueError, IndexError):
        raise InstallError("the registry's key is no OpenPGP key") from None


# From files


def from_mirror(directory: Path, source: Source, wanted: str) -> Fetched:
    """From a file system mirror, packed or unpacked: `DIR/HOST/NAMESPACE/NAME/...`. Raises `InstallError`."""
    os_, arch = system()
    place = directory / source.host / source.namespace / source.name
    if not place.is_dir():
        others = directory / "registry.terraform.io" / source.namespace / source.name
        if source.host != HOST or not others.is_dir():
            raise InstallError(f"{source}: not in the mirror {directory} (no {place})")
        place = others
    packed = re.compile(rf"^terraform-provider-{re.escape(source.name)}_(.+)_{os_}_{arch}\.zip$")
    versions: dict[str, Path] = {}
    for entry in sorted(place.iterdir()):
        if match := packed.match(entry.name):
            versions[match[1]] = entry
        elif VERSION.match(entry.name) and (entry / f"{os_}_{arch}").is_dir():
            versions[entry.name] = entry / f"{os_}_{arch}"
    version = newest(list(versions), wanted)
    if version is None:
        raise InstallError(
            f"{source}: no version {wanted or 'for this machine'} in {place}; there are {', '.join(versions) or 'none'}"
        )
    path = versions[version]
    if path.is_file():
        return from_path(path, version)
    programs = [entry for entry in sorted(path.iterdir()) if PROGRAM.match(entry.name)]
    if not programs:
        raise InstallError(f"{path}: there is no terraform-provider-* in it")
    return from_path(programs[0], version)


def from_path(path: Path, version: str = "") -> Fetched:
    """A program, or an archive of one. Raises `InstallError`."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise InstallError(f"{path}: {err.strerror or err}") from None
    if data.startswith(b"PK\x03\x04"):
        return _unpacked(str(path), version, data)
    if not data.startswith((b"\x7fELF", b"#!")):
        raise InstallError(f"{path}: neither a program nor a zip archive of one")
    return Fetched(version or _version_in(path.name), data, f"sha256:{hashlib.sha256(data).hexdigest()}")


def _version_in(name: str) -> str:
    match = re.search(r"_v?(\d+\.\d+\.\d+[^_]*)", name)
    return match[1] if match else UNSAID


def _unpacked(what: str, version: str, archive: bytes) -> Fetched:
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
