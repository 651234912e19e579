"""The registry client and server, against a registry that others wrote and against each other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from image_samples import sample_image, sample_index
from registries import (
    PASSWORD,
    USER,
    answering,
    docker_registry,
    noting_logins,
    served,
    with_blobs_elsewhere,
    with_tokens,
)
from trimtab.content import (
    ContentStore,
    Corrupt,
    Credentials,
    Login,
    NoSuchBlob,
    NoSuchImage,
    RegistryClient,
    Unauthorized,
    Unreachable,
    digest_of,
    oci,
    parse_digest,
    registry_app,
)

NO_LOGIN = Credentials()


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


@pytest.fixture
def other(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "other")


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[str]:
    with docker_registry(tmp_path / "registry") as host:
        await answering(host)
        yield host


@pytest.fixture
async def private_registry(tmp_path: Path) -> AsyncIterator[str]:
    with docker_registry(tmp_path / "private", login=True) as host:
        await answering(host)
        yield host


@pytest.mark.engine
async def test_an_image_goes_to_docker_registry_and_back(
    store: ContentStore, other: ContentStore, registry: str
) -> None:
    digest = sample_image(store, size_bytes=3_000_000)
    steps: list[tuple[int, int]] = []
    async with RegistryClient(store, credentials=NO_LOGIN) as client:
        await client.push(digest, f"{registry}/shop/web:v1", progress=lambda done, total: steps.append((done, total)))
        assert steps[-1][0] == steps[-1][1] > 3_000_000
        assert (await client.resolve(f"{registry}/shop/web:v1")).digest == digest
    async with RegistryClient(other, credentials=NO_LOGIN) as client:
        assert await client.pull(f"{registry}/shop/web:v1") == digest
        assert await client.pull(f"{registry}/shop/web@{digest}") == digest
        bills = await client.resolve(f"{registry}/shop/web:{digest.replace(':', '-')}")
    assert other.resolve(f"{registry}/shop/web:v1") == digest
    assert oci.closure(other, digest) == oci.closure(store, digest)
    for one in oci.closure(other, digest):
        other.verify(parse_digest(one.digest))
    assert bills.media_type == oci.INDEX


@pytest.mark.engine
async def test_only_what_is_missing_is_sent_and_sisters_lend(
    store: ContentStore, registry: str, tmp_path: Path
) -> None:
    digest = sample_image(store, size_bytes=500_000)
    async with RegistryClient(store, credentials=NO_LOGIN) as client:
        await client.push(digest, f"{registry}/one:v1")
        store.tag(f"{registry}/one:v1", digest)
        _, manifest = oci.image_manifest(store, digest)
        data = tmp_path / "registry" / "data"
        size_before = sum(path.stat().st_size for path in data.rglob("data"))
        await client.push(digest, f"{registry}/one:v2")
        await client.push(digest, f"{registry}/two:v1")
        assert sum(path.stat().st_size for path in data.rglob("data")) == size_before
        assert await client._mount(_reference(f"{registry}/three:v1"), "one", manifest.layers[1].digest)
        assert not await client._mount(_reference(f"{registry}/three:v1"), "nowhere", manifest.layers[0].digest)


def _reference(text: str) -> Any:
    from trimtab.content import parse_reference

    return parse_reference(text)


@pytest.mark.engine
async def test_an_image_of_several_platforms_is_pushed_whole_and_pulled_in_part(
    store: ContentStore, other: ContentStore, registry: str
) -> None:
    one, two = sample_image(store), sample_image(store)
    async with RegistryClient(store, credentials=NO_LOGIN) as client:
        await client.push(sample_index(store, ("amd64", one), ("arm64", two)), f"{registry}/both:1")
    async with RegistryClient(other, credentials=NO_LOGIN) as client:
        assert await client.pull(f"{registry}/both:1", platform=oci.parse_platform("linux/arm64")) == two
        assert not other.has(one)
        with pytest.raises(
            NoSuchImage, match=r"both:1 has no image for linux/s390x, only for linux/amd64, linux/arm64"
        ):
            await client.pull(f"{registry}/both:1", platform=oci.parse_platform("linux/s390x"))


@pytest.mark.engine
async def test_a_password_registry_lets_in_who_is_in_dockers_config(
    store: ContentStore, private_registry: str, tmp_path: Path
) -> None:
    import base64

    digest = sample_image(store)
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {private_registry: {"auth": auth}}}))
    async with RegistryClient(store, credentials=Credentials.load(config)) as client:
        await client.push(digest, f"{private_registry}/x:1")
        assert await client.pull(f"{private_registry}/x:1") == digest
    async with RegistryClient(store, credentials=NO_LOGIN) as client:
        with pytest.raises(Unauthorized) as refused:
            await client.pull(f"{private_registry}/x:1")
        assert str(refused.value) == (
            f"reading {private_registry}/x:1: {private_registry} wants a login, and docker's config.json has none for it; "
            f"run `docker login {private_registry}` or add it to auths"
        )
    wrong = Credentials(logins={private_registry: Login(USER, "wrong")})
    async with RegistryClient(store, credentials=wrong) as client:
        with pytest.raises(
            Unauthorized, match=rf"pushing to .*/x: .* refuses the login of {USER} in docker's config.json"
        ):
            await client.push(sample_image(store), f"{private_registry}/x:2")


async def test_a_token_registry_is_asked_for_tokens_once_a_scope(store: ContentStore, other: ContentStore) -> None:
    digest = sample_image(store, "trimtab.local/shop/web:v1")
    seen: list[str] = []
    async with served(with_tokens(registry_app(store), seen)) as host:
        good = Credentials(logins={host: Login(USER, PASSWORD)})
        async with RegistryClient(other, credentials=good) as client:
            assert await client.pull(f"{host}/shop/web:v1") == digest
        assert 1 <= len(seen) <= 3  # blobs are fetched at once, so that a few may ask before the first is answered
        assert set(seen) == {"GET repository:shop/web:pull"}
        async with RegistryClient(other, credentials=NO_LOGIN) as client:
            with pytest.raises(Unauthorized, match=r"refuses a request without login for shop/web; run `docker login"):
                await client.pull(f"{host}/shop/web:v1")


async def test_a_login_is_not_sent_to_where_blobs_are_redirected(store: ContentStore, other: ContentStore) -> None:
    digest = sample_image(store, "trimtab.local/x:v1")
    leaked: list[str] = []
    async with (
        served(noting_logins(registry_app(store), leaked)) as elsewhere,
        served(with_tokens(with_blobs_elsewhere(registry_app(store), elsewhere, leaked), [])) as host,
        RegistryClient(other, credentials=Credentials(logins={host: Login(USER, PASSWORD)})) as client,
    ):
        assert await client.pull(f"{host}/x:v1") == digest
    assert leaked == []


async def test_wrong_bytes_are_refused_and_not_kept(store: ContentStore, other: ContentStore) -> None:
    digest = sample_image(store, "trimtab.local/x:v1")
    _, manifest = oci.image_manifest(store, digest)
    layer = parse_digest(manifest.layers[1].digest)
    data = store.path(layer).read_bytes()
    async with served(registry_app(store)) as host, RegistryClient(other, credentials=NO_LOGIN) as client:
        store.path(layer).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(
            Corrupt, match=rf"{host} sent a wrong blob for {host}/x:v1: expected {layer}, received sha256"
        ):
            await client.pull(f"{host}/x:v1")
        store.path(layer).write_bytes(data + b"more")
        with pytest.raises(Corrupt, match=rf"{host} sent more than the {len(data)} bytes of {layer}; nothing was kept"):
            await client.pull(f"{host}/x:v1")
        store.path(layer).write_bytes(data)
        assert not other.has(layer)
        assert other.resolve(f"{host}/x:v1") is None
        assert await client.pull(f"{host}/x:v1") == digest
        store.path(digest).write_bytes(store.path(digest).read_bytes() + b" ")
        with pytest.raises(Unreachable, match=r"answers 500 \(the blob .* is damaged"):
            await client.pull(f"{host}/x@{digest}")


async def test_what_is_not_there_is_said_in_one_line(store: ContentStore) -> None:
    async with served(registry_app(store)) as host, RegistryClient(store, credentials=NO_LOGIN) as client:
        with pytest.raises(NoSuchImage) as missing:
            await client.pull(f"{host}/nope:1")
        assert str(missing.value) == f"there is no image {host}/nope:1; check the name and the tag"
        with pytest.raises(NoSuchBlob):
            await client.push(digest_of(b"absent"), f"{host}/x:1")
        with pytest.raises(Unreachable, match=r"pushing to .*/x: .* answers 405 \(this registry is read-only"):
            await client.push(sample_image(store), f"{host}/x:1")
    async with RegistryClient(store, credentials=NO_LOGIN) as client:
        with pytest.raises(Unreachable) as silent:
            await client.pull("127.0.0.1:1/x:1")
        assert str(silent.value) == "cannot reach the registry 127.0.0.1:1: connection refused"
        with pytest.raises(Unreachable, match=r"cannot reach the registry registry\.invalid: its name is not known"):
            await client.pull("registry.invalid/x:1")


async def test_the_server_serves_what_containerd_asks(store: ContentStore) -> None:
    digest = sample_image(store, "trimtab.local/shop/web:v1", size_bytes=10_000)
    store.tag("docker.io/library/python:3", digest)
    _, manifest = oci.image_manifest(store, digest)
    layer = parse_digest(manifest.layers[1].digest)
    async with served(registry_app(store)) as host, aiohttp.ClientSession(f"http://{host}") as session:

        async def ask(method: str, path: str, **headers: str) -> tuple[int, bytes, Any]:
            async with session.request(method, path, headers=headers) as response:
                return response.status, await response.read(), response.headers

        assert (await ask("GET", "/v2/"))[:2] == (200, b"{}")
        status, body, headers = await ask("HEAD", "/v2/shop/web/manifests/v1?ns=trimtab.local")
        assert (status, body, headers["docker-content-digest"]) == (200, b"", digest)
        assert headers["content-type"] == oci.MANIFEST
        assert int(headers["content-length"]) == store.size(digest)
        assert (await ask("GET", f"/v2/shop/web/manifests/{digest}"))[1] == store.read(digest)
        assert (await ask("GET", "/v2/library/python/manifests/3?ns=docker.io"))[0] == 200
        assert (await ask("GET", "/v2/library/python/manifests/3"))[0] == 404
        assert json.loads((await ask("GET", "/v2/shop/web/tags/list"))[1]) == {"name": "shop/web", "tags": ["v1"]}
        data = store.path(layer).read_bytes()
        assert (await ask("GET", f"/v2/shop/web/blobs/{layer}"))[1] == data
        status, body, headers = await ask("GET", f"/v2/x/blobs/{layer}", Range="bytes=100-199")
        assert (status, body) == (206, data[100:200])
        assert headers["content-range"] == f"bytes 100-199/{len(data)}"
        assert (await ask("GET", f"/v2/x/blobs/{layer}", Range="bytes=9000-"))[1] == data[9000:]
        assert (await ask("GET", f"/v2/x/blobs/{layer}", Range=f"bytes={len(data)}-"))[0] == 416
        status, body, _ = await ask("GET", f"/v2/x/referrers/{digest}?artifactType=application/vnd.cyclonedx%2Bjson")
        assert [one["artifactType"] for one in json.loads(body)["manifests"]] == ["application/vnd.cyclonedx+json"]
        assert json.loads((await ask("GET", f"/v2/x/referrers/{digest}?artifactType=other"))[1])["manifests"] == []
        assert (await ask("GET", "/v2/x/blobs/sha256:1"))[0] == 400
        assert (await ask("GET", f"/v2/x/blobs/{digest_of(b'absent')}"))[0] == 404
        assert (await ask("GET", "/v2/../../etc/passwd"))[0] == 404
        assert (await ask("POST", "/v2/x/blobs/uploads/"))[0] == 405


def test_dockers_config_is_read_in_its_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        '#!/bin/sh\nread server\ncase $server in hub.example) echo \'{"Username":"u","Secret":"p"}\';;\n'
        "*) echo 'credentials not found in native keychain'; exit 1;; esac\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "auths": {
                    "https://index.docker.io/v1/": {"auth": "dTpw"},
                    "token.example": {"identitytoken": "t"},
                    "bad.example": {"auth": "%%"},
                },
                "credHelpers": {"gone.example": "absent"},
                "credsStore": "test",
            }
        )
    )
    credentials = Credentials.load(config)

    def login(registry: str) -> Login | None:
        return asyncio.run(credentials.login(registry))

    assert login("docker.io") == Login("u", "p")
    assert login("token.example") == Login(token="t")
    assert login("hub.example") == Login("u", "p")
    assert login("unknown.example") is None
    with pytest.raises(
        Unauthorized, match=r"the login for bad\.example in docker's config\.json is damaged; log in again"
    ):
        login("bad.example")
    with pytest.raises(Unauthorized, match="wants docker-credential-absent, which is not installed"):
        login("gone.example")
    config.write_text("{")
    with pytest.raises(Unauthorized, match=r"cannot read the registry logins in .*; repair or remove it"):
        Credentials.load(config)
