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

from trimtab.components.infrastructure.programs.fetching import InstallError, token
from trimtab.components.infrastructure.programs.mirror import files_hash, from_mirror
from trimtab.components.infrastructure.programs.registry import (
    Fetched,
    from_path,
    from_registry,
    newest,
    order,
    source_of,
    system,
)
from trimtab.components.infrastructure.programs.shelf import Shelf
from trimtab.components.infrastructure.programs.signature import dearmored, verify

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
    """Keys in a directory of its own: `test`; `expired`, a year after its last signature; `revoked`; `sub`, which signs by a subkey."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.make("test")
        self.public = self.key("test")

    def make(self, name: str, *options: str, until: str = "never") -> None:
        self.run(*options, "--quick-gen-key", "--passphrase", "", f"{name}@example.org", "ed25519", "sign", until)

    def key(self, name: str) -> str:
        return self.run("--armor", "--export", f"{name}@example.org").decode()

    def fingerprint(self, name: str) -> str:
        lines = self.run("--with-colons", "--list-keys", f"{name}@example.org").decode().splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr"))

    def run(self, *arguments: str, data: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    def sign(self, data: bytes, name: str = "test", *options: str) -> bytes:
        return self.run(*options, "--local-user", f"{name}@example.org", "--detach-sign", data=data)

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
        self.elsewhere: dict[str, str] = {}
        """Where a path leads on to."""
        self.logins: list[tuple[str, str]] = []
        """(path, Authorization) of what was asked."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.logins.append((self.path, self.headers.get("authorization", "")))
                if self.path in registry.elsewhere:
                    self.send_response(302)
                    self.send_header("location", registry.elsewhere[self.path])
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
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


def fetch(registry: Registry, wanted: str = "", unsigned: bool = False) -> tuple[Fetched, list[str]]:
    """What was fetched, and what was said."""
    said: list[str] = []
    source = source_of("acme/cloud")
    return from_registry(source, wanted, said.append, unsigned=unsigned, base=registry.url), said


def test_the_newest_release_is_fetched_and_verified(registry: Registry, tmp_path: Path) -> None:
    found, _ = fetch(registry)
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
        (lambda r: r.put(r.place, r.where | {"signing_keys": {}}), "acme/cloud 1.2.0: the registry names no key that signed it: --unsigned takes it"),
        (lambda r: r.put(r.place, r.where | {"shasum": "0" * 64}), "acme/cloud 1.2.0: the registry and the checksums do not say the same of "),
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


def test_what_no_key_signed_is_taken_only_when_somebody_says_so(registry: Registry) -> None:
    registry.put(registry.place, registry.where | {"signing_keys": {"gpg_public_keys": []}})
    found, said = fetch(registry, unsigned=True)
    assert found.program == PROGRAM
    assert (
        said[-1] == "acme/cloud 1.2.0: the registry names no key that signed it; taken by the registry's checksum alone"
    )
    registry.files[f"/files/{FILENAME}"] = archive(b"\x7fELF of somebody else")
    with pytest.raises(InstallError, match="wrong checksum of "):
        fetch(registry, unsigned=True)


def test_signatures_are_judged_by_their_keys(gpg: Gpg) -> None:
    data, past = b"sums", "--faked-system-time"
    gpg.make("expired", past, "20200101T000000", until="1y")
    gpg.make("revoked")
    gpg.make("sub")
    gpg.run("--passphrase", "", "--quick-add-key", gpg.fingerprint("sub"), "ed25519", "sign", "never")
    revoked = gpg.sign(data, "revoked")
    revocation = (gpg.home / "openpgp-revocs.d" / f"{gpg.fingerprint('revoked')}.rev").read_text()
    gpg.run("--import", data=revocation.replace(":-----BEGIN", "-----BEGIN").encode())
    old = gpg.sign(data, "expired", past, "20200601T000000")

    assert verify("acme/cloud", data, gpg.sign(data, "sub"), [gpg.key("sub")]) == ""
    assert verify("acme/cloud", data, old, [gpg.key("expired")]).startswith("signed by a key that has expired (")
    assert verify("acme/cloud", data, old + gpg.sign(data), [gpg.public]) == "", "of two signatures one is known"
    assert verify("acme/cloud", data, gpg.sign(data), [gpg.key("expired"), gpg.public]) == ""
    assert verify("acme/cloud", data, gpg.sign(data), [gpg.key("expired") + "\n" + gpg.public]) == ""
    assert verify("acme/cloud", data, gpg.run("--armor", "--detach-sign", data=data), [gpg.public]) == ""
    for signature, key, text in (
        (revoked, gpg.key("revoked"), "its key was revoked"),
        (gpg.sign(data), gpg.key("sub"), "No public key"),
        (old, gpg.public, "No public key"),
        (b"junk", gpg.public, "it is no OpenPGP signature"),
        (gpg.sign(b"other"), gpg.public, "BAD signature"),
        (gpg.sign(data) + gpg.sign(b"other"), gpg.public, "BAD signature"),
    ):
        with pytest.raises(
            InstallError, match=rf"^acme/cloud: its signature is not good \(.*{text}.*nothing was installed$"
        ):
            verify("acme/cloud", data, signature, [key])


def test_the_newest_that_is_made_for_this_machine_is_taken(registry: Registry) -> None:
    here = [{"os": OS, "arch": ARCH}]
    versions = [
        {"version": "1.2.0", "platforms": here, "protocols": ["4.0", "5.1"]},
        {"version": "1.3.0", "platforms": [{"os": "plan9", "arch": "386"}], "protocols": ["5.0"]},
        {"version": "2.0.0", "platforms": here, "protocols": ["4.0"]},
    ]
    warning = "acme/cloud has moved to acme/clouds"
    registry.put("/v1/providers/acme/cloud/versions", {"versions": versions, "warnings": [warning]})
    found, said = fetch(registry)
    assert found.version == "1.2.0"
    assert said[0] == f"acme/cloud: {warning}"
    for wanted, text in (
        ("1.3", rf"^acme/cloud 1\.3\.0: not made for {OS}/{ARCH}; the newest that can be used is 1\.2\.0$"),
        (
            "2.0.0",
            r"^acme/cloud 2\.0\.0: speaks protocol 4\.0, and Trimtab 5 and 6; the newest that can be used is 1\.2\.0$",
        ),
    ):
        with pytest.raises(InstallError, match=text):
            fetch(registry, wanted)


def test_addresses_are_relative_to_where_they_stand(registry: Registry) -> None:
    """Also after it led elsewhere: the address in the end counts."""
    for path in [one for one in registry.files if one.startswith("/v1/")]:
        registry.files[path.replace("/v1/", "/moved/to/")] = registry.files.pop(path)
    place = registry.place.replace("/v1/", "/moved/to/")
    files = "../../../../../../../../../files"
    where = {
        "download_url": f"{files}/{FILENAME}",
        "shasums_url": "/files/SHA256SUMS",
        "shasums_signature_url": f"{files}/SHA256SUMS.sig",
    }
    registry.put(place, registry.where | where)
    registry.elsewhere["/.well-known/terraform.json"] = "/moved/terraform.json"
    registry.put("/moved/terraform.json", {"providers.v1": "to/providers/"})
    assert fetch(registry)[0].program == PROGRAM


def test_a_login_goes_to_its_registry_alone(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_TOKEN_registry_opentofu_org", "secret")
    monkeypatch.setenv("TF_TOKEN_my__own_example_org", "other")
    registry.files["/moved/versions"] = registry.files["/v1/providers/acme/cloud/versions"]
    registry.elsewhere["/v1/providers/acme/cloud/versions"] = f"{registry.url}/moved/versions"
    fetch(registry)
    sent = [path for path, login in registry.logins if login]
    assert sent == ["/v1/providers/acme/cloud/versions", registry.place]
    assert {login for _, login in registry.logins} == {"", "Bearer secret"}
    assert token("my-own.example.org") == "other"
    assert token("example.org") == ""


def test_a_network_mirror(registry: Registry) -> None:
    place = "/mirror/registry.terraform.io/acme/cloud"
    data, target = archive(), f"{OS}_{ARCH}"
    zip_hash, h1 = f"zh:{hashlib.sha256(data).hexdigest()}", files_hash("", data)
    registry.files[f"{place}/files/cloud.zip"] = data
    registry.put(f"{place}/index.json", {"versions": {"1.1.0": {}, "1.2.0": {}}})

    def has(**given: Any) -> None:
        registry.put(f"{place}/1.2.0.json", {"archives": {target: {"url": "files/cloud.zip"} | given}})

    for hashes in ([], [h1], [zip_hash, "h1:of another system"], ["xx:unheard of"]):
        has(hashes=hashes)
        found = of_mirror(f"{registry.url}/mirror/", "acme/cloud", "")
        assert (found.version, found.program) == ("1.2.0", PROGRAM)
    has(hashes=["zh:" + "0" * 64, "h1:another"])
    with pytest.raises(
        InstallError, match=r"^acme/cloud 1\.2\.0 in .*: wrong checksum: the mirror says zh:0+: nothing was installed$"
    ):
        of_mirror(f"{registry.url}/mirror", "acme/cloud", "")
    registry.put(f"{place}/1.2.0.json", {"archives": {"plan9_386": {"url": "x.zip"}}})
    with pytest.raises(InstallError, match=rf"no archive for {target}; there are plan9_386$"):
        of_mirror(f"{registry.url}/mirror", "acme/cloud", "")
    with pytest.raises(InstallError, match=r"^acme/cloud: no version 3 in .*; there are 1\.1\.0, 1\.2\.0$"):
        of_mirror(f"{registry.url}/mirror", "acme/cloud", "3")
    with pytest.raises(InstallError, match=r"^acme/other in .*: not there \("):
        of_mirror(f"{registry.url}/mirror", "acme/other", "")
    with pytest.raises(InstallError, match=r"^http://mirror\.example: a mirror is reached by https$"):
        of_mirror("http://mirror.example", "acme/cloud", "")


def test_the_hash_of_an_archives_files_is_that_of_the_go_command() -> None:
    """Two files, `a` and `b/c`, as golang.org/x/mod/sumdb/dirhash has them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("b/c", "there\n")
        packed.writestr("a", "hello\n")
    assert files_hash("", out.getvalue()) == "h1:5ZRgYB6cHTNJ7ZDdZf3tAWbV4lmumGZxQKmHVLil89M="


def of_mirror(mirror: Path | str, source: str, wanted: str) -> Fetched:
    return from_mirror(str(mirror), source_of(source), wanted, lambda _: None)


def test_mirrors_packed_and_unpacked(tmp_path: Path) -> None:
    place = tmp_path / "registry.opentofu.org" / "acme" / "cloud"
    place.mkdir(parents=True)
    (place / FILENAME).write_bytes(archive())
    unpacked = place / "1.3.0" / f"{OS}_{ARCH}"
    unpacked.mkdir(parents=True)
    (unpacked / "terraform-provider-cloud_v1.3.0_x5").write_bytes(PROGRAM + b"3")
    assert of_mirror(tmp_path, "acme/cloud", "").version == "1.3.0"
    assert of_mirror(tmp_path, "acme/cloud", "1.2").program == PROGRAM
    with pytest.raises(InstallError, match=r"acme/cloud: no version 9 in .*; there are 1\.3\.0, 1\.2\.0$"):
        of_mirror(tmp_path, "acme/cloud", "9")
    with pytest.raises(InstallError, match="acme/other: not in the mirror"):
        of_mirror(tmp_path, "acme/other", "")


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
