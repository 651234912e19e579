"""A registry's client: images in (pull) and out (push), every byte checked against its digest.

Pull walks from the reference through index and manifest to config and layers, fetching a few blobs at once straight into
the store. Push goes the other way: what the registry has already is left out, what it has in a sister repository is
mounted, the rest is uploaded; documents follow their blobs, and bills of materials follow the image they speak of.

The protocol is the OCI distribution specification 1.1; `connection` knows how to log in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Self
from urllib.parse import quote, urljoin

import aiohttp

from trimtab.content import oci
from trimtab.content.connection import Connection
from trimtab.content.credentials import Credentials
from trimtab.content.digest import Digest, digest_of, parse_digest
from trimtab.content.errors import ContentError, Corrupt, NoSuchImage
from trimtab.content.reference import Reference, parse_reference
from trimtab.content.store import CHUNK_BYTES, DOCUMENT_BYTES_MAX, ContentStore
from trimtab.content.together import together

BLOBS_AT_ONCE = 4  # enough to fill a line; more only makes registries answer 429
_ACCEPTED = ", ".join((*oci.INDEXES, *oci.MANIFESTS))
_SOURCES_MAX = 3  # sister repositories tried for a mount

Progress = Callable[[int, int], None]
"""Bytes done, bytes in all."""


class RegistryClient:
    """Use as `async with RegistryClient(store) as client`. Without credentials, docker's config.json is read.

    Registries on loopback, and those in `plain_http` (`host:port`), are spoken to without TLS.
    """

    def __init__(
        self,
        store: ContentStore,
        *,
        credentials: Credentials | None = None,
        plain_http: frozenset[str] = frozenset(),
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._plain_http = plain_http
        self._connection: Connection | None = None
        self._slots = asyncio.Semaphore(BLOBS_AT_ONCE)

    async def __aenter__(self) -> Self:
        credentials = self._credentials if self._credentials is not None else Credentials.load()
        self._connection = Connection(credentials, self._plain_http)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._connection is not None
        await self._connection.close()
        self._connection = None

    async def pull(
        self,
        reference: Reference | str,
        *,
        platform: oci.Platform | None = None,
        progress: Progress | None = None,
        tag: bool = True,
    ) -> Digest:
        """Brings an image into the store, tags it by its reference (`tag`), and returns the digest of its manifest.

        From an image for several platforms only the one for `platform` (this machine's) is fetched. Raises NoSuchImage,
        Unauthorized, Unreachable, Corrupt; what was fetched until then stays for the next try.
        """
        wanted = parse_reference(reference) if isinstance(reference, str) else reference
        async with self._store.lock("in-use", shared=True):
            digest, data = await self._document(wanted, wanted.digest or wanted.tag)
            document = oci.decode_any(data, str(wanted))
            if isinstance(document, oci.Index):
                chosen = oci.choose(document, platform or oci.host_platform(), str(wanted))
                digest, data = await self._document(wanted, parse_digest(chosen.digest))
                document = oci.decode_any(data, str(wanted))
            if not isinstance(document, oci.Manifest):
                raise Corrupt(f"{wanted}: an index inside of an index is not an image")
            await self._fetch_all(wanted, [*document.layers, document.config], progress or (lambda done, total: None))
            self._store.put(data, expect=digest)
            if tag:
                self._store.tag(wanted.tagged, digest)
        return digest

    async def resolve(self, reference: Reference | str) -> oci.Descriptor:
        """What the reference means at its registry now: digest, size and kind of its manifest or index."""
        wanted = parse_reference(reference) if isinstance(reference, str) else reference
        digest, data = await self._document(wanted, wanted.digest or wanted.tag)
        document = oci.decode_any(data, str(wanted))
        return oci.Descriptor(media_type=document.media_type or oci.MANIFEST, digest=digest, size=len(data))

    async def push(
        self, digest: Digest, target: Reference | str, *, progress: Progress | None = None, referrers: bool = True
    ) -> Digest:
        """Sends an image of the store, with its bills of materials, to `target`; returns its digest.

        Blobs that are there already are not sent again. Raises Unauthorized, Unreachable, NoSuchBlob.
        """
        to = parse_reference(target) if isinstance(target, str) else target
        async with self._store.lock("in-use", shared=True):
            blobs, documents = self._parts(digest)
            total = sum(one.size for one in blobs)
            done = 0

            async def send(one: oci.Descriptor) -> None:
                nonlocal done
                async with self._slots:
                    await self._send_blob(to, one)
                done += one.size
                if progress is not None:
                    progress(done, total)

            await together(send(one) for one in blobs)
            for one in documents:
                last = one.digest == digest
                await self._put_document(to, one, to.tag if last and to.tag else one.digest)
            if referrers:
                for document in documents:
                    await self._push_referrers(to, document)
        return digest

    # Pulling

    async def _document(self, reference: Reference, which: str) -> tuple[Digest, bytes]:
        """A manifest or index by tag or digest, verified, not yet stored."""
        path = f"/v2/{reference.repository}/manifests/{which}"
        async with self._connected.request(
            "GET", reference, path, f"repository:{reference.repository}:pull", headers={"accept": _ACCEPTED}
        ) as response:
            if response.status == 404:
                raise NoSuchImage(f"there is no image {reference}; check the name and the tag")
            await self._connected.check(response, reference, f"reading {reference}")
            data = await _limited(response, DOCUMENT_BYTES_MAX, str(reference))
        digest = digest_of(data)
        announced = response.headers.get("docker-content-digest", "")
        expected = which if ":" in which else announced
        if expected.startswith("sha256:") and expected != digest:
            raise Corrupt(f"{reference.registry} sent {digest} for {reference.repository}@{expected}; nothing was kept")
        return digest, data

    async def _fetch_all(self, reference: Reference, blobs: list[oci.Descriptor], progress: Progress) -> None:
        distinct = list({one.digest: one for one in blobs}.values())
        total = sum(one.size for one in distinct)
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        async def fetch(one: oci.Descriptor) -> None:
            async with self._slots:
                digest = parse_digest(one.digest)
                if self._store.has(digest) and self._store.size(digest) == one.size:
                    add(one.size)
                else:
                    await self._fetch(reference, digest, one.size, add)

        await together(fetch(one) for one in distinct)

    async def _fetch(self, reference: Reference, digest: Digest, size: int, add: Callable[[int], None]) -> None:
        path = f"/v2/{reference.repository}/blobs/{digest}"
        scope = f"repository:{reference.repository}:pull"
        async with self._connected.request("GET", reference, path, scope) as response:
            if response.status == 404:
                raise NoSuchImage(f"{reference} names the blob {digest}, which its registry does not have")
            await self._connected.check(response, reference, f"reading a blob of {reference}")
            with self._store.ingest() as ingest:
                async for chunk in self._connected.body(response, reference):
                    if ingest.size_bytes + len(chunk) > size:
                        raise Corrupt(
                            f"{reference.registry} sent more than the {size} bytes of {digest}; nothing was kept"
                        )
                    ingest.write(chunk)
                    add(len(chunk))
                try:
                    await asyncio.to_thread(ingest.commit, digest)
                except Corrupt as error:
                    raise Corrupt(f"{reference.registry} sent a wrong blob for {reference}: {error}") from None

    # Pushing

    def _parts(self, digest: Digest) -> tuple[list[oci.Descriptor], list[oci.Descriptor]]:
        """The blobs of an image, and its documents in the order in which a registry accepts them."""
        parts = oci.closure(self._store, digest)
        documents = [one for one in parts if one.media_type in (*oci.MANIFESTS, *oci.INDEXES)]
        blobs = [one for one in parts if one not in documents]
        return blobs, documents

    async def _send_blob(self, to: Reference, blob: oci.Descriptor) -> None:
        scope = f"repository:{to.repository}:pull,push"
        path = f"/v2/{to.repository}/blobs/{blob.digest}"
        async with self._connected.request("HEAD", to, path, scope) as response:
            if response.status == 200:
                return
            if response.status != 404:
                await self._connected.check(response, to, f"pushing to {to.name}")
        for source in self._sources(to, blob.digest):
            if await self._mount(to, source, blob.digest):
                return
        async with self._connected.request("POST", to, f"/v2/{to.repository}/blobs/uploads/", scope) as response:
            await self._connected.check(response, to, f"pushing to {to.name}")
            location = urljoin(str(response.url), response.headers.get("location", ""))
        where = f"{location}{'&' if '?' in location else '?'}digest={quote(blob.digest, safe='')}"

        async def body() -> AsyncIterator[bytes]:
            with self._store.open(parse_digest(blob.digest)) as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield chunk

        headers = {"content-type": "application/octet-stream", "content-length": str(blob.size)}
        async with self._connected.request("PUT", to, where, scope, headers=headers, body=body) as response:
            await self._connected.check(response, to, f"pushing to {to.name}")

    def _sources(self, to: Reference, digest: str) -> list[str]:
        """Repositories of the same registry from which this store once pulled or into which it pushed an image."""
        found: list[str] = []
        for name, manifest in self._store.tags(f"{to.registry}/").items():
            repository = name[len(to.registry) + 1 :].partition("@")[0].rpartition(":")[0]
            if not repository or repository == to.repository or repository in found or not self._store.has(manifest):
                continue
            document = oci.read_any(self._store, manifest)
            if isinstance(document, oci.Manifest) and any(one.digest == digest for one in document.layers):
                found.append(repository)
        return found[:_SOURCES_MAX]

    async def _mount(self, to: Reference, source: str, digest: str) -> bool:
        path = f"/v2/{to.repository}/blobs/uploads/?mount={quote(digest, safe='')}&from={quote(source, safe='')}"
        scope = f"repository:{to.repository}:pull,push repository:{source}:pull"
        async with self._connected.request("POST", to, path, scope) as response:
            if response.status == 202:
                location = urljoin(str(response.url), response.headers.get("location", ""))
                async with self._connected.request("DELETE", to, location, scope):
                    return False
            return response.status == 201

    async def _put_document(self, to: Reference, one: oci.Descriptor, which: str) -> bool:
        """Whether the registry says that it noticed the document's subject."""
        data = self._store.read(parse_digest(one.digest))
        return await self._put(to, data, one.media_type, which)

    async def _put(self, to: Reference, data: bytes, media_type: str, which: str) -> bool:
        path = f"/v2/{to.repository}/manifests/{which}"

        async def body() -> AsyncIterator[bytes]:
            yield data

        headers = {"content-type": media_type, "content-length": str(len(data))}
        scope = f"repository:{to.repository}:pull,push"
        async with self._connected.request("PUT", to, path, scope, headers=headers, body=body) as response:
            await self._connected.check(response, to, f"pushing to {to.name}")
            return "oci-subject" in response.headers

    async def _push_referrers(self, to: Reference, image: oci.Descriptor) -> None:
        """What speaks of the image; for a registry that keeps no list of it, under the tag that the specification names."""
        listed: list[oci.Descriptor] = []
        for referrer in self._store.referrers(parse_digest(image.digest)):
            if not self._store.has(referrer):
                continue
            blobs, documents = self._parts(referrer)
            for blob in blobs:
                await self._send_blob(to, blob)
            document = oci.read_any(self._store, referrer)
            noticed = await self._put_document(to, documents[-1], referrer)
            if not noticed and isinstance(document, oci.Manifest):
                listed.append(
                    oci.Descriptor(
                        media_type=oci.MANIFEST,
                        digest=referrer,
                        size=self._store.size(referrer),
                        artifact_type=document.artifact_type,
                    )
                )
        if listed:
            await self._list_by_tag(to, image.digest.replace(":", "-"), listed)

    async def _list_by_tag(self, to: Reference, tag: str, listed: list[oci.Descriptor]) -> None:
        known: list[oci.Descriptor] = []
        try:
            _, data = await self._document(Reference(to.registry, to.repository, tag), tag)
            document = oci.decode_any(data, tag)
            known = document.manifests if isinstance(document, oci.Index) else []
        except NoSuchImage:
            known = []
        merged = {one.digest: one for one in [*known, *listed]}
        index = oci.Index(schema_version=2, media_type=oci.INDEX, manifests=[merged[name] for name in sorted(merged)])
        await self._put(to, oci.encode(index), oci.INDEX, tag)

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise ContentError("a RegistryClient is used inside of `async with`")
        return self._connection


async def _limited(response: aiohttp.ClientResponse, limit_bytes: int, what: str) -> bytes:
    data = await response.content.read(limit_bytes + 1)
    while len(data) <= limit_bytes and (more := await response.content.read(limit_bytes + 1 - len(data))):
        data += more
    if len(data) > limit_bytes:
        raise Corrupt(f"the manifest of {what} is larger than {limit_bytes} bytes")
    return data
