"""Mirrors of registries, for machines that reach none: a directory, or an address.

    DIR/HOST/NAMESPACE/NAME/terraform-provider-NAME_VERSION_OS_ARCH.zip      packed
    DIR/HOST/NAMESPACE/NAME/VERSION/OS_ARCH/terraform-provider-NAME...       unpacked
    https://.../HOST/NAMESPACE/NAME/index.json, VERSION.json                 the provider network mirror protocol

A mirror's owner is trusted: what it says of an archive's checksum is checked, and what is locked is checked by whoever installs it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from trimtab.components.infrastructure.programs.fetching import InstallError, read, read_json, token
from trimtab.components.infrastructure.programs.registry import (
    ARCHIVE_BYTES_MAX,
    HOST,
    PROGRAM,
    VERSION,
    Fetched,
    Progress,
    Source,
    from_path,
    newest,
    system,
    unpacked,
)

TERRAFORM = "registry.terraform.io"
"""Whose mirrors also have what is asked of the default host."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def from_mirror(mirror: str, source: Source, wanted: str, progress: Progress) -> Fetched:
    """A provider of a mirror, which is a directory or an address. Raises `InstallError`."""
    hosts = [source.host, TERRAFORM] if source.host == HOST else [source.host]
    if "://" in mirror:
        return _from_address(mirror, hosts, source, wanted, progress)
    return _from_directory(Path(mirror), hosts, source, wanted)


def _from_directory(directory: Path, hosts: list[str], source: Source, wanted: str) -> Fetched:
    os_, arch = system()
    places = [directory / host / source.namespace / source.name for host in hosts]
    place = next((one for one in places if one.is_dir()), None)
    if place is None:
        raise InstallError(f"{source}: not in the mirror {directory} (no {places[0]})")
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


def _from_address(mirror: str, hosts: list[str], source: Source, wanted: str, progress: Progress) -> Fetched:
    url = urlsplit(mirror)
    if url.scheme != "https" and url.hostname not in LOOPBACK:
        raise InstallError(f"{mirror}: a mirror is reached by https")
    secret = token(url.netloc)
    index, place = None, ""
    for host in hosts:
        place = f"{mirror.rstrip('/')}/{host}/{source.namespace}/{source.name}/"
        index = read_json(f"{place}index.json", f"{source} in {mirror}", secret=secret, may_lack=host != hosts[-1])
        if index is not None:
            break
    versions = list((index[0] if index else {}).get("versions") or {})
    version = newest(versions, wanted)
    if version is None:
        raise InstallError(
            f"{source}: no version {wanted or 'of it'} in {mirror}; there are {', '.join(versions) or 'none'}"
        )
    target = "_".join(system())
    what = f"{source} {version} in {mirror}"
    answer, at = read_json(f"{place}{version}.json", what, secret=secret)
    archive = (answer.get("archives") or {}).get(target)
    if not isinstance(archive, dict) or not isinstance(archive.get("url"), str):
        others = ", ".join(sorted(answer.get("archives") or {})) or "none"
        raise InstallError(f"{what}: no archive for {target}; there are {others}")
    progress(f"{source} {version}: fetching from {mirror}")
    address = urljoin(at, archive["url"])
    same = urlsplit(address).netloc == url.netloc
    data, _ = read(address, what, ARCHIVE_BYTES_MAX, secret=secret if same else "")
    _check(what, data, [str(one) for one in archive.get("hashes") or []])
    return unpacked(what, version, data)


def _check(what: str, archive: bytes, hashes: list[str]) -> None:
    """By the schemes `zh:` (of the archive) and `h1:` (of the files in it). Raises `InstallError`."""
    known = [one for one in hashes if one.startswith(("zh:", "h1:"))]
    if not known:
        return
    if f"zh:{hashlib.sha256(archive).hexdigest()}" not in known and files_hash(what, archive) not in known:
        raise InstallError(f"{what}: wrong checksum: the mirror says {known[0]}: nothing was installed")


def files_hash(what: str, archive: bytes) -> str:
    """`h1:` and the hash of the names and hashes of all files of an archive (golang.org/x/mod/sumdb/dirhash). Raises `InstallError`."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            if sum(one.file_size for one in packed.infolist()) > ARCHIVE_BYTES_MAX:
                raise InstallError(f"{what}: larger than {ARCHIVE_BYTES_MAX} bytes")
            lines = [f"{hashlib.sha256(packed.read(name)).hexdigest()}  {name}\n" for name in sorted(packed.namelist())]
    except zipfile.BadZipFile as err:
        raise InstallError(f"{what}: not a zip archive ({err})") from None
    except (RuntimeError, EOFError, zlib.error) as err:
        raise InstallError(f"{what}: cannot be unpacked ({err})") from None
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()
