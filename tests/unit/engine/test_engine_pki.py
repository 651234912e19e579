"""Keys, certificates and the kubeconfig, as other programs see them."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from trimtab.client.kubeconfig import read_kubeconfig
from trimtab.content.signing import SigningKey
from trimtab.engine import access, pki
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "pki").mkdir()
    return Settings(id="0a1b2c", data=str(tmp_path), run=str(tmp_path / "run"), service_cidr="10.130.16.0/20")


def test_a_new_engine_gets_all_keys_and_an_old_one_keeps_them(settings: Settings) -> None:
    assert not pki.complete(settings)

    pki.ensure(settings)

    folder = settings.data_path("pki")
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    private = {"ca.key", "apiserver.key", "admin.token", "images.key"}
    assert set(made) == {*private, "ca.crt", "apiserver.crt", "images.pub"}
    assert pki.complete(settings)
    pki.ensure(settings)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert all(modes[name] == 0o600 for name in private)
    assert SigningKey(pki.image_key(settings)).public.encode() == made["images.pub"]


async def test_a_tls_client_that_trusts_the_ca_accepts_the_server(settings: Settings) -> None:
    pki.ensure(settings)
    folder = settings.data_path("pki")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "apiserver.crt", folder / "apiserver.key")

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving)
    trusting = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    for name in ("127.0.0.1", "localhost", "kubernetes.default.svc.cluster.local", "10.130.16.1"):
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=trusting, server_hostname=name)
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_the_serving_certificate_is_renewed_in_time_and_for_new_names(settings: Settings) -> None:
    pki.ensure(settings)
    folder = settings.data_path("pki")
    day = 86400
    assert pki.complete(settings, time.time() + 240 * day)
    assert not pki.complete(settings, time.time() + 245 * day)
    old, ca = (folder / "apiserver.crt").read_bytes(), (folder / "ca.crt").read_bytes()

    elsewhere = Settings(id=settings.id, data=settings.data, run=settings.run, listen="192.0.2.2")
    pki.ensure(elsewhere)

    assert (folder / "apiserver.crt").read_bytes() != old
    assert (folder / "ca.crt").read_bytes() == ca
    renewed = x509.load_pem_x509_certificate((folder / "apiserver.crt").read_bytes())
    names = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.2" in [str(a) for a in names.get_values_for_type(x509.IPAddress)]


def test_a_renewed_ca_keeps_its_key_so_that_old_and_new_trust_each_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pki, "CA_LIFETIME", pki.CA_LIFETIME / 4)
    pki.ensure(settings)
    monkeypatch.undo()
    folder = settings.data_path("pki")
    old = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signed_before = x509.load_pem_x509_certificate((folder / "apiserver.crt").read_bytes())
    assert not pki.complete(settings)

    pki.ensure(settings)

    new = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    assert new.not_valid_after_utc > old.not_valid_after_utc
    signed_before.verify_directly_issued_by(new)
    (folder / "apiserver.crt").unlink()
    pki.ensure(settings)
    x509.load_pem_x509_certificate((folder / "apiserver.crt").read_bytes()).verify_directly_issued_by(old)
    assert pki.complete(settings)


def test_an_interrupted_first_start_is_completed(settings: Settings) -> None:
    pki.ensure(settings)
    folder = settings.data_path("pki")
    key = (folder / "ca.key").read_bytes()
    for name in ("ca.crt", "apiserver.crt"):
        (folder / name).unlink()

    pki.ensure(settings)

    assert pki.complete(settings)
    assert (folder / "ca.key").read_bytes() == key


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ca.crt", r"ca\.crt is damaged \(.*\): bring it back from a backup \(`trimtab restore`\)"),
        ("ca.key", r"ca\.key is damaged \(.*\): bring it back from a backup \(`trimtab restore`\)"),
    ],
)
def test_a_damaged_ca_is_never_replaced_silently(settings: Settings, name: str, line: str) -> None:
    pki.ensure(settings)
    settings.data_path("pki", name).write_text("not PEM")

    with pytest.raises(EngineError, match=line):
        pki.ensure(settings)


def test_a_ca_key_of_another_engine_is_refused(settings: Settings) -> None:
    pki.ensure(settings)
    settings.data_path("pki", "ca.key").write_bytes(settings.data_path("pki", "apiserver.key").read_bytes())

    with pytest.raises(
        EngineError, match=r"ca\.key does not belong to ca\.crt: bring both back from one backup \(`trimtab restore`\)"
    ):
        pki.ensure(settings)


def test_the_kubeconfig_is_read_by_the_client_and_heals(settings: Settings) -> None:
    pki.ensure(settings)

    path = access.write_kubeconfig(settings)

    assert path.stat().st_mode & 0o777 == 0o600
    read = read_kubeconfig(path)
    assert read.server == "https://127.0.0.1:6443"
    assert read.current_token() == settings.data_path("pki", "admin.token").read_text()
    assert yaml.safe_load(path.read_text())["current-context"] == "trimtab-0a1b2c"
    path.write_text("{corrupt")
    access.write_kubeconfig(settings)
    assert read_kubeconfig(path).server == "https://127.0.0.1:6443"


def test_a_kubeconfig_without_keys_says_what_makes_them(settings: Settings) -> None:
    with pytest.raises(EngineError, match=r"pki/ca\.crt is missing: run `trimtab --data .* start`, which makes it"):
        access.admin_kubeconfig(settings)
