"""Subresources that something beside the server answers: who is let in, and what is passed on."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from api_in_process import Api, running_api
from trimtab.server import ServerSettings

TOKEN = "t" * 40
THINGS = "/apis/example.com/v1/namespaces/default/things"
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"kind": "Thing", "plural": "things"},
        "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    },
}


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Api, str, list[str]]]:
    """An API with a thing that has an endpoint `git`, the thing's uid, and the requests that came there."""
    (folder / "admin.token").write_text(TOKEN)
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    there = await asyncio.start_unix_server(answer, folder / "there.sock")
    settings = ServerSettings(
        admin_token_file=folder / "admin.token", endpoints={("example.com", "things", "git"): folder / "there.sock"}
    )
    async with running_api(settings=settings) as api:
        (await api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", DEFINITION)).ok()
        await api.eventually(THINGS, lambda answer: answer.status == 200)
        thing = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "one"}}
        made = (await api.post(THINGS, thing)).ok()
        yield api, made["metadata"]["uid"], asked
    there.close()
    await there.wait_closed()


def basic(token: str) -> str:
    return "Basic " + base64.b64encode(f"anna:{token}".encode()).decode()


async def test_the_request_is_passed_on_without_credentials(tmp_path: Path) -> None:
    async with served(tmp_path) as (api, uid, asked):
        admin = api.with_headers(authorization=f"Bearer {TOKEN}")
        answer = await admin.get(f"{THINGS}/one/git/info/refs?service=git-upload-pack", x_trimtab_user="somebody else")

        assert (answer.status, answer.body) == (200, b"hi")
        lines = asked[0].split("\r\n")
        assert lines[0] == f"GET /{uid}/git/info/refs?service=git-upload-pack HTTP/1.1"
        assert [line for line in lines if line.startswith("x-trimtab")] == [
            "x-trimtab-user: system:admin",
            "x-trimtab-object: default/one",
        ]
        assert TOKEN not in asked[0]


async def test_git_is_asked_for_a_password_which_is_a_token(tmp_path: Path) -> None:
    async with served(tmp_path) as (api, _, asked):
        nobody = await api.with_headers().get(f"{THINGS}/one/git/info/refs")
        wrong = await api.with_headers(authorization=basic("guessed")).get(f"{THINGS}/one/git/info/refs")
        right = await api.with_headers(authorization=basic(TOKEN)).get(f"{THINGS}/one/git/info/refs")

        for refused in (nobody, wrong):
            assert refused.status == 401
            assert refused.headers["www-authenticate"].startswith('Basic realm="Trimtab')
        assert (right.status, len(asked)) == (200, 1)


async def test_a_password_is_good_for_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path) as (api, _, _asked):
        answer = await api.with_headers(authorization=basic(TOKEN)).get(f"{THINGS}/one")

        assert (answer.status, "www-authenticate" in answer.headers) == (401, False)


async def test_rights_are_asked_for_and_objects_looked_up(tmp_path: Path) -> None:
    async with served(tmp_path) as (api, _, asked):
        bob = api.with_headers(trusted=True, impersonate_user="bob", impersonate_group="none")
        denied = await bob.post(f"{THINGS}/one/git/git-receive-pack", None)
        missing = await api.get(f"{THINGS}/two/git/info/refs")
        other = await api.get(f"{THINGS}/one/log")

        assert denied.status == 403
        assert 'cannot create resource "things/git" in API group "example.com"' in denied.message
        assert (missing.status, missing.message) == (404, 'things.example.com "two" not found')
        assert (other.status, asked) == (404, [])
