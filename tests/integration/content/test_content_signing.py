"""Images signed at a real registry: by us, with others' signatures kept, read by cosign where it is; and whatever is forged is refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from image_samples import sample_image
from registries import answering, docker_registry
from trimtab.content import (
    ContentStore,
    Credentials,
    Digest,
    RegistryClient,
    oci,
    parse_digest,
    parse_reference,
    signing,
)
from trimtab.content.errors import BadKey, NotSigned
from trimtab.content.provenance import PREDICATE, Material, statement
from trimtab.content.reference import Reference
from trimtab.content.signing import PublicKeys, SigningKey

COSIGN = shutil.which("cosign")


class World:
    """A registry, a store, an image in both."""

    def __init__(self, store: ContentStore, client: RegistryClient, image: Reference) -> None:
        self.store = store
        self.client = client
        self.image = image
        assert image.digest is not None
        self.digest: Digest = image.digest

    async def verify(self, *keys: SigningKey) -> None:
        await signing.verify(self.client, self.store, self.image, PublicKeys([key.public for key in keys]))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = ContentStore(tmp_path / "content")
    with docker_registry(tmp_path / "registry") as host:
        await answering(host)
        async with RegistryClient(store, credentials=Credentials()) as client:
            digest = sample_image(store)
            await client.push(digest, f"{host}/shop/app:1")
            yield World(store, client, parse_reference(f"{host}/shop/app@{digest}"))


def key() -> SigningKey:
    return SigningKey(SigningKey.new())


async def test_only_who_signed_is_believed(world: World) -> None:
    ours, other = key(), key()
    with pytest.raises(NotSigned, match=r"app@sha256:[0-9a-f]+: signed by nobody"):
        await world.verify(ours)

    first = await signing.sign(world.client, world.store, world.image, ours)
    await world.verify(ours)
    await world.verify(other, ours)
    with pytest.raises(NotSigned, match="signed by none of the trusted keys"):
        await world.verify(other)

    assert await signing.sign(world.client, world.store, world.image, ours) == first
    await signing.sign(world.client, world.store, world.image, other)
    await world.verify(ours)
    await world.verify(other)


async def test_a_signature_of_another_image_is_none_of_this_one(world: World) -> None:
    ours = key()
    await signing.sign(world.client, world.store, world.image, ours)
    second = sample_image(world.store)
    await world.client.push(second, Reference(world.image.registry, world.image.repository, "2"))
    at = Reference(world.image.registry, world.image.repository, signing.signature_tag(world.digest))
    signatures = parse_digest((await world.client.resolve(at)).digest)

    await world.client.push(
        signatures,
        Reference(world.image.registry, world.image.repository, signing.signature_tag(second)),
        referrers=False,
    )

    moved = World(world.store, world.client, Reference(world.image.registry, world.image.repository, "", second))
    with pytest.raises(NotSigned):
        await moved.verify(ours)


async def test_a_changed_payload_is_not_signed(world: World) -> None:
    ours = key()
    honest = signing.payload(world.image.name, world.digest)
    forged = honest.replace(b'"optional":null', b'"optional":{"a":"b"}')
    layer = oci.Descriptor(
        media_type=signing.SIMPLE_SIGNING,
        digest=world.store.put(forged),
        size=len(forged),
        annotations={signing.SIGNATURE: ours.sign(honest)},
    )
    at = Reference(world.image.registry, world.image.repository, signing.signature_tag(world.digest))
    await signing._put(world.client, world.store, at, [layer])

    with pytest.raises(NotSigned):
        await world.verify(ours)


def provenance(world: World, run: str = "run-1") -> bytes:
    at = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    return statement(
        world.image.name,
        world.digest,
        builder="https://trimtab.dev/ci",
        run=run,
        step="app_image",
        parameters={"push": True},
        materials=[Material("git+https://example.test/shop@abc", {"gitCommit": "abc"})],
        started=at,
        finished=at,
    )


async def test_statements_about_an_image(world: World) -> None:
    ours, other = key(), key()
    await signing.attest(world.client, world.store, world.image, provenance(world), ours)
    await signing.attest(world.client, world.store, world.image, provenance(world, "run-2"), ours)
    await signing.attest(world.client, world.store, world.image, provenance(world, "run-3"), other)

    said = await signing.statements(world.client, world.store, world.image, PublicKeys([ours.public]))

    assert [one["predicate"]["runDetails"]["metadata"]["invocationId"] for one in said] == ["run-2"]
    assert said[0]["predicateType"] == PREDICATE
    both = await signing.statements(world.client, world.store, world.image, PublicKeys([ours.public, other.public]))
    assert len(both) == 2


async def test_an_index_of_several_platforms_is_signed_as_one(world: World) -> None:
    image = oci.read_any(world.store, world.digest)
    assert isinstance(image, oci.Manifest)
    one = oci.Descriptor(
        media_type=oci.MANIFEST,
        digest=world.digest,
        size=world.store.size(world.digest),
        platform=oci.Platform(architecture="amd64"),
    )
    index = oci.Index(schema_version=2, media_type=oci.INDEX, manifests=[one])
    digest = parse_digest(oci.put_document(world.store, index).digest)
    at = Reference(world.image.registry, world.image.repository, "many")
    await world.client.push(digest, at)
    ours = key()

    await signing.sign(world.client, world.store, at, ours)

    await signing.verify(world.client, world.store, at, PublicKeys([ours.public]))


def test_an_image_that_no_registry_has_is_signed_where_it_is_kept(tmp_path: Path) -> None:
    store, ours, other = ContentStore(tmp_path / "content"), key(), key()
    digest = sample_image(store)
    store.tag("trimtab.local/shop:latest", digest)
    image = Reference("trimtab.local", "shop", "", digest)
    assert not signing.kept(store, image, PublicKeys([ours.public]))

    signing.sign_kept(store, image, ours)
    signing.sign_kept(store, image, ours)
    signing.sign_kept(store, image, other)

    assert signing.kept(store, image, PublicKeys([ours.public]))
    assert not signing.kept(store, image, PublicKeys([key().public]))
    assert not signing.kept(
        store, Reference("trimtab.local", "shop", "", sample_image(store)), PublicKeys([ours.public])
    )
    beside = store.referrers(digest)
    assert len(beside) == 3, "the bill of materials, and a signature of each key"
    store.gc(grace_s=0.0)
    assert signing.kept(store, image, PublicKeys([ours.public])), "the image is kept, and so is its signature"
    store.untag("trimtab.local/shop:latest")
    store.gc(grace_s=0.0)
    assert not any(store.has(one) for one in beside)


@pytest.mark.parametrize("pem", ["", "nonsense", SigningKey(SigningKey.new()).public])
def test_what_is_no_private_key(pem: str) -> None:
    with pytest.raises(BadKey, match="it is no private key in PEM without a password"):
        SigningKey(pem)


def test_what_is_no_public_key() -> None:
    with pytest.raises(BadKey, match="public key 2 is none in PEM"):
        PublicKeys([key().public, "nonsense"])


@pytest.mark.skipif(COSIGN is None, reason="there is no cosign on the PATH")
async def test_cosign_believes_it_and_is_believed(world: World, tmp_path: Path) -> None:
    ours = SigningKey.new()
    (tmp_path / "own.key").write_text(ours)
    (tmp_path / "own.pub").write_text(SigningKey(ours).public)

    def cosign(*args: str) -> str:
        env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "COSIGN_PASSWORD": "", "COSIGN_YES": "true"}
        done = subprocess.run([COSIGN or "", *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    name = str(world.image)
    await signing.sign(world.client, world.store, world.image, SigningKey(ours))
    await signing.attest(world.client, world.store, world.image, provenance(world), SigningKey(ours))
    plain = ("--allow-http-registry", "--insecure-ignore-tlog", "--key")

    assert (
        json.loads(cosign("verify", *plain, "own.pub", name))[0]["critical"]["image"]["docker-manifest-digest"]
        == world.digest
    )
    said = json.loads(cosign("verify-attestation", *plain, "own.pub", "--type", "slsaprovenance1", name))
    assert (
        json.loads(base64.b64decode(said["payload"]))["predicate"]["buildDefinition"]["externalParameters"]["step"]
        == "app_image"
    )

    cosign("generate-key-pair", "--output-key-prefix", "theirs")
    cosign(
        "sign",
        "--allow-http-registry",
        "--tlog-upload=false",
        "--new-bundle-format=false",
        "--use-signing-config=false",
        "--key",
        "theirs.key",
        name,
    )
    theirs = PublicKeys([(tmp_path / "theirs.pub").read_text()])
    await signing.verify(world.client, world.store, world.image, theirs)
    await world.verify(SigningKey(ours))
