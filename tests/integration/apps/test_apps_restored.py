"""A real app with PostgreSQL is backed up to an S3 store for a recipient elsewhere, its machine is lost, and it serves again."""

from __future__ import annotations

import base64
import json
import os
from http.client import HTTPConnection
from pathlib import Path

import pyrage
import pytest

from engine_at_rest import S3_SERVER, s3_server
from engine_under_test import EngineUnderTest, engine, wait_for

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not S3_SERVER.exists(), reason="there is no S3 server here: make setup-test"),
]

EXAMPLE = Path(__file__).parents[3] / "examples" / "shipnotes"
HOST = "shipnotes.localhost"
PLACE = "s3://vault/engines/shop"


def add_note(running: EngineUnderTest, title: str) -> None:
    secret = running.json("get", "secret", "shipnotes-secret-shipnotes-token")
    token = base64.b64decode(secret["data"]["value"]).decode()
    answer = running.get(
        HOST,
        "/notes",
        method="POST",
        body=json.dumps({"version": "9.9", "title": title}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    assert answer.status == 201, answer.text


def test_an_app_with_its_database_survives_its_machine(tmp_path: Path) -> None:
    owner = pyrage.x25519.Identity.generate()
    key = tmp_path / "key"
    key.write_text(f"{owner}\n")
    with s3_server() as address:
        connection = HTTPConnection(address.removeprefix("http://"))
        connection.request("PUT", "/vault", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=a/x/us-east-1/s3/x"})
        assert connection.getresponse().status == 200
        connection.close()
        access = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        environment = {**os.environ, **access}

        with engine(tmp_path / "data") as first:
            first.run("up", str(EXAMPLE), timeout_s=400)
            first.wait_serving(HOST)
            add_note(first, "Before the backup")
            first.run("backup", PLACE, "--recipient", str(owner.to_public()), timeout_s=300, env=environment)
            add_note(first, "After the backup")
            assert not (first.data / "backup" / "identity.txt").exists()
            authority = (first.data / "pki" / "ca.crt").read_text()

        second = EngineUnderTest(tmp_path / "new", first.api_port, first.http_port, first.https_port, first.web_port)
        try:
            stranger = tmp_path / "stranger"
            stranger.write_text(f"{pyrage.x25519.Identity.generate()}\n")
            refused = second.run("restore", PLACE, "--key", str(stranger), check=False, env=environment)
            assert refused.returncode == 1
            assert "cannot be opened with this key" in refused.stderr
            assert not second.data.exists()

            second.run("restore", PLACE, "--key", str(key), timeout_s=300, env=environment)
            second.start()

            assert (second.data / "pki" / "ca.crt").read_text() == authority
            page = wait_for(lambda: second.serves(HOST, "/?q=backup"), 120, "the app to serve").text
            assert "Before the backup" in page
            assert "After the backup" not in page
            add_note(second, "On the new machine")
            assert "On the new machine" in second.get(HOST, "/?q=machine").text
        finally:
            second.remove()
