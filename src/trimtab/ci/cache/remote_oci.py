"""Named objects in an OCI registry: each is an artifact of one layer, under a tag made of its name.

The connection, logins and tokens are those of `trimtab.content`, which is asynchronous: a loop in a thread of its own serves all.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urljoin

from trimtab.ci.cache.remote import RemoteError
from trimtab.ci.runs.ports import EngineFault
from trimtab.content import ContentError, Credentials, Reference, parse_reference
from trimtab.content.connection import Connection

ANSWER_S = 20.0
CHUNK_BYTES = 1 << 18
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.trimtab.ci.cache.v1"
EMPTY = b"{}"
T = TypeVar("T")


class Registry:
    """Objects as artifacts of a repository: `oci://REGISTRY/REPOSITORY`."""

    def __init__(self, address: str) -> None:
        self.name = address
        try:
            self._reference: Reference = parse_reference(address.removeprefix("oci://"))
        except ContentError as err:
            raise EngineFault(f"TRIMTAB_CI_CACHE: {err}") from None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cache-registry", daemon=True)
        self._thread.start()
        self._connection: Connection = self._wait(self._connect(), ANSWER_S)

    async def _connect(self) -> Connection:
        return Connection(Credentials.load(), frozenset())

    def get(self, name: str, write: Callable[[bytes], object]) -> bool:
        """Gives the bytes of an object to `write`; False for one that is not there."""
        return self._wait(self._get(name, write), None)

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return self._wait(self._manifest(name), ANSWER_S) is not None

    def put(self, name: str, body: BinaryIO, size_bytes: int, sha256: str) -> None:
        """Writes an object."""
        self._wait(self._put(name, body, size_bytes, sha256), None)

    def close(self) -> None:
        """Ends the connection and its thread."""
        self._wait(self._connection.close(), ANSWER_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, T], limit_s: float | None) -> T:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result(limit_s)
        except ContentError as err:
            raise RemoteError(str(err)) from None
        except TimeoutError:
            future.cancel()
            raise RemoteError(f"it does not answer within {ANSWER_S:.0f} s") from None

    async def _manifest(self, name: str) -> dict[str, Any] | None:
        path = f"/v2/{self._reference.repository}/manifests/{_tag(name)}"
        async with self._connection.request(
            "GET", self._reference, path, self._scope("pull"), headers={"accept": MANIFEST}
        ) as answer:
            if answer.status == 404:
                return None
            await self._connection.check(answer, self._reference, f"reading {name}")
            try:
                found = json.loads(await answer.read())
            except ValueError:
                return None
            return found if isinstance(found, dict) else None

    async def _get(self, name: str, write: Callable[[bytes], object]) -> bool:
        manifest = await self._manifest(name)
        try:
            digest = manifest["layers"][0]["digest"] if manifest is not None else None
        except (KeyError, IndexError, TypeError):
            digest = None
        if not isinstance(digest, str):
            return False
        path = f"/v2/{self._reference.repository}/blobs/{quote(digest)}"
        async with self._connection.request("GET", self._reference, path, self._scope("pull")) as answer:
            if answer.status == 404:
                return False
            await self._connection.check(answer, self._reference, f"reading {name}")
            async with asyncio.timeout(ANSWER_S) as limit:
                async for chunk in self._connection.body(answer, self._reference):
                    write(chunk)
                    limit.reschedule(self._loop.time() + ANSWER_S)
        return True

    async def _put(self, name: str, body: BinaryIO, size_bytes: int, sha256: str) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            body.seek(0)
            while chunk := body.read(CHUNK_BYTES):
                yield chunk

        async def empty() -> AsyncIterator[bytes]:
            yield EMPTY

        empty_sha256 = hashlib.sha256(EMPTY).hexdigest()
        await self._blob(empty, len(EMPTY), empty_sha256)
        await self._blob(chunks, size_bytes, sha256)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{empty_sha256}", "size": 2},
            "layers": [{"mediaType": ARTIFACT, "digest": f"sha256:{sha256}", "size": size_bytes}],
        }
        data = json.dumps(manifest).encode()

        async def document() -> AsyncIterator[bytes]:
            yield data

        path = f"/v2/{self._reference.repository}/manifests/{_tag(name)}"
        headers = {"content-type": MANIFEST, "content-length": str(len(data))}
        async with self._connection.request(
            "PUT", self._reference, path, self._scope("pull,push"), headers=headers, body=document
        ) as answer:
            await self._connection.check(answer, self._reference, f"writing {name}")

    async def _blob(self, body: Callable[[], AsyncIterator[bytes]], size_bytes: int, sha256: str) -> None:
        scope = self._scope("pull,push")
        base = f"/v2/{self._reference.repository}/blobs"
        async with self._connection.request("HEAD", self._reference, f"{base}/sha256:{sha256}", scope) as answer:
            if answer.status == 200:
                return
        async with self._connection.request("POST", self._reference, f"{base}/uploads/", scope) as answer:
            await self._connection.check(answer, self._reference, "writing to the cache")
            location = urljoin(str(answer.url), answer.headers.get("location", ""))
        where = f"{location}{'&' if '?' in location else '?'}digest=sha256%3A{sha256}"
        headers = {"content-type": "application/octet-stream", "content-length": str(size_bytes)}
        async with self._connection.request("PUT", self._reference, where, scope, headers=headers, body=body) as answer:
            await self._connection.check(answer, self._reference, "writing to the cache")

    def _scope(self, actions: str) -> str:
        return f"repository:{self._reference.repository}:{actions}"


def _tag(name: str) -> str:
    """`pr/7/r/KEY` -> `pr-7-r-KEY`."""
    return name.replace("/", "-")
