"""Providers are fetched and verified: from a registry that signs, a mirror, a path; and nothing is installed when anything is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trimtab.components.infrastructure.programs.registry import (
    InstallError,
    dearmored,
    from_mirror,
    from_path,
    from_registry,
    newest,
    order,
    source_of,
    system,
)
from trimtab.components.infrastructure.programs.shelf import Shelf

PROGRAM = b"\x7fELF and so on"
OS, ARCH = system()
FILENAME = f"terraform-provider-cloud_1.2.0_{OS}_{ARCH}.zip"


def archive(program: bytes = PROGRAM, name: str = "terraform-provider-cloud_v1.2.0") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr(name, program)
        packed.writestr("LICENSE", "")
    return out.getvalue()


class Gpg:
    """A key pair in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.run("--quick-gen-key", "--passphrase", "", "test@example.org", "ed25519", "sign", "never")
        self.public = self.run("--armor", "--export").decode()

    def run(self, *arguments: str, data: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    def sign(self, data: bytes) -> bytes:
        return self.run("--detach-sign", data=data)

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=True)


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    import shutil
    import tempfile

    if shutil.which("gpg") is None:
        pytest.skip("gpg is missing, which signs what this test fetches: apt-get install gnupg")
    with tempfile.TemporaryDirectory(prefix="gpg-") as short:  # the agent's socket wants a short path
        one = Gpg(Path(short) / "home")
        yield one
        one.close()


class Registry:
    """Serves paths; what stands in `files` is what it answers."""

    def __init__(self, gpg: Gpg) -> None:
        self.files: dict[str, bytes] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = registry.files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("content-length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        sums = f"{hashlib.sha256(archive()).hexdigest()}  {FILENAME}\n".encode()
        self.put("/.well-known/terraform.json", {"providers.v1": "/v1/providers/"})
        versions = [{"version": v} for v in ("1.0.0", "1.2.0", "1.10.0-beta1", "0.9.9")]
        self.put("/v1/providers/acme/cloud/versions", {"versions": versions})
        self.where: dict[str, Any] = {
            "filename": FILENAME,
            "download_url": f"{self.url}/files/{FILENAME}",
            "shasums_url": f"{self.url}/files/SHA256SUMS",
            "shasums_signature_url": f"{self.url}/files/SHA256SUMS.sig",
            "signing_keys": {"gpg_public_keys": [{"key_id": "X", "ascii_armor": gpg.public}]},
        }
        self.files |= {
            f"/files/{FILENAME}": archive(),
            "/files/SHA256SUMS": sums,
            "/files/SHA256SUMS.sig": gpg.sign(sums),
        }
        self.place = f"/v1/providers/acme/cloud/1.2.0/download/{OS}/{ARCH}"
        self.put(self.place, self.where)

    def put(self, path: str, value: Any) -> None:
        self.files[path] = json.dumps(value).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def registry(gpg: Gpg) -> Iterator[Registry]:
    one = Registry(gpg)
    yield one
    one.close()


def fetch(registry: Registry, wanted: str = "") -> Any:
    return from_registry(source_of("acme/cloud"), wanted, lambda _: None, base=registry.url)


def test_the_newest_release_is_fetched_and_verified(registry: Registry, tmp_path: Path) -> None:
    found = fetch(registry)
    assert (found.version, found.program) == ("1.2.0", PROGRAM)
    shelf = Shelf(tmp_path / "providers")
    assert shelf.put(found.program) == found.checksum
    assert shelf.put(found.program) == found.checksum
    assert shelf.installed() == [found.checksum]
    assert shelf.program(found.checksum).read_bytes() == PROGRAM
    shelf.remove(found.checksum)
    assert shelf.installed() == []


def test_a_signature_of_somebody_else_is_refused(registry: Registry) -> None:
    registry.files["/files/SHA256SUMS"] = registry.files["/files/SHA256SUMS"].replace(b"a", b"b")
    with pytest.raises(
        InstallError,
        match=r"^acme/cloud 1\.2\.0: its signature is not good \(gpgv: BAD signature .*nothing was installed$",
    ):
        fetch(registry)


def test_a_wrong_checksum_is_refused(registry: Registry) -> None:
    registry.files[f"/files/{FILENAME}"] = archive(b"\x7fELF of somebody else")
    with pytest.raises(
        InstallError,
        match=r"^acme/cloud 1\.2\.0: wrong checksum of .*: sha256 .*, signed is .*: nothing was installed$",
    ):
        fetch(registry)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r.put("/.well-known/terraform.json", {}), "registry.opentofu.org: serves no providers (no providers.v1 in /.well-known/terraform.json)"),
        (lambda r: r.files.pop("/v1/providers/acme/cloud/versions"), "acme/cloud: not there ("),
        (lambda r: r.put("/v1/providers/acme/cloud/versions", {"versions": []}), "acme/cloud: there is no version of it; the latest are none"),
        (lambda r: r.files.pop(r.place), "acme/cloud 1.2.0 for "),
        (lambda r: r.files.update({r.place: b"<html>"}), "acme/cloud 1.2.0 for "),
        (lambda r: r.put(r.place, r.where | {"signing_keys": {}}), "acme/cloud 1.2.0: the registry names no key that signed it"),
        (lambda r: r.put(r.place, r.where | {"signing_keys": {"gpg_public_keys": [{"ascii_armor": "hm"}]}}), "the registry's key is no OpenPGP key"),
        (lambda r: r.put(r.place, r.where | {"filename": "other.zip"}), "acme/cloud 1.2.0: its signed checksums do not name other.zip"),
        (lambda r: r.put(r.place, r.where | {"download_url": "file:///etc/passwd"}), "acme/cloud 1.2.0: 'file:///etc/passwd' is no address"),
    ],
)  # fmt: skip
def test_what_a_registry_gets_wrong_is_one_line(registry: Registry, change: Any, text: str) -> None:
    change(registry)
    with pytest.raises(InstallError) as raised:
        fetch(registry)
    assert str(raised.value).startswith(text)
    assert "\n" not in str(raised.value)


def test_a_version_that_is_not_there_names_those_that_are(registry: Registry) -> None:
    with pytest.raises(
        InstallError,
        match=r"^acme/cloud: there is no version 3; the latest are 0\.9\.9, 1\.0\.0, 1\.2\.0, 1\.10\.0-beta1$",
    ):
        fetch(registry, "3")


def test_mirrors_packed_and_unpacked(tmp_path: Path) -> None:
    place = tmp_path / "registry.opentofu.org" / "acme" / "cloud"
    place.mkdir(parents=True)
    (place / FILENAME).write_bytes(archive())
    unpacked = place / "1.3.0" / f"{OS}_{ARCH}"
    unpacked.mkdir(parents=True)
    (unpacked / "terraform-provider-cloud_v1.3.0_x5").write_bytes(PROGRAM + b"3")
    assert from_mirror(tmp_path, source_of("acme/cloud"), "").version == "1.3.0"
    assert from_mirror(tmp_path, source_of("acme/cloud"), "1.2").program == PROGRAM
    with pytest.raises(InstallError, match=r"acme/cloud: no version 9 in .*; there are 1\.3\.0, 1\.2\.0$"):
        from_mirror(tmp_path, source_of("acme/cloud"), "9")
    with pytest.raises(InstallError, match="acme/other: not in the mirror"):
        from_mirror(tmp_path, source_of("acme/other"), "")


def test_a_path_is_a_program_or_an_archive_of_one(tmp_path: Path) -> None:
    path = tmp_path / "terraform-provider-cloud_v1.5.0"
    path.write_bytes(PROGRAM)
    assert from_path(path).version == "1.5.0"
    path.write_bytes(archive())
    assert from_path(path, "2.0.0").program == PROGRAM
    path.write_bytes(b"hello")
    with pytest.raises(InstallError, match="neither a program nor a zip archive of one"):
        from_path(path)
    path.write_bytes(archive(name="readme"))
    with pytest.raises(InstallError, match=r"there is no terraform-provider-\* in the archive"):
        from_path(path)
    with pytest.raises(InstallError, match="No such file or directory"):
        from_path(tmp_path / "nowhere")


def test_names_and_versions() -> None:
    assert str(source_of("linode/linode")) == "linode/linode"
    assert source_of("registry.terraform.io/hashicorp/aws").host == "registry.terraform.io"
    with pytest.raises(InstallError, match="write NAMESPACE/NAME, such as linode/linode"):
        source_of("linode")
    assert newest(["1.9.0", "1.10.0", "2.0.0-rc1", "junk"], "") == "1.10.0"
    assert newest(["1.9.0", "1.10.0", "2.0.0-rc1"], "2.0.0-rc1") == "2.0.0-rc1"
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0"]
    assert sorted(sorted(ordered), key=order) == ordered


def test_armor_is_taken_off() -> None:
    text = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: 1\n\naGVs\nbG8=\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    assert dearmored(text) == b"hello"
