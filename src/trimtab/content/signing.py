"""Signatures of images and statements about them, as cosign makes and reads them.

    sign      a payload that names the digest -> its signature -> an artifact under the tag sha256-<hex>.sig beside the image
    attest    a statement (provenance.py) in an envelope of its own -> the same under sha256-<hex>.att
    verify    whether one of these keys has signed that digest
    sign_kept an image that no registry has: the same artifact as its referrer in the store, with which it is forgotten

A key is an ECDSA key on P-256 in PEM, as `cosign import-key-pair` and `cosign verify --key` take it. What is signed is the
digest of an image's manifest, or of an index of several; so nothing else needs to be trusted, neither registry nor tag.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.content import oci
from trimtab.content.digest import Digest, hex_of, parse_digest
from trimtab.content.errors import BadKey, ContentError, Corrupt, NotSigned
from trimtab.content.reference import Reference
from trimtab.content.store import ContentStore

if TYPE_CHECKING:
    from trimtab.content.registry import RegistryClient

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
SIGNATURES = "application/vnd.dev.cosign.artifact.sig.v1+json"
"""The type of an artifact of signatures that is an image's referrer."""
PREDICATE_TYPE = "predicateType"
STATEMENT_TYPE = "application/vnd.in-toto+json"
_PAYLOAD_TYPE = "cosign container image signature"


class Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """A signed statement (DSSE). payload, sig: base64."""

    payload_type: str
    payload: str
    signatures: list[dict[str, str]]


class SigningKey:
    """A private key. Never printed; keep its PEM in a file of secrets."""

    def __init__(self, pem: str) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError):
            raise BadKey("it is no private key in PEM without a password") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise BadKey("it is no ECDSA key on P-256; `trimtab ci key` makes one")
        self._key = key

    @staticmethod
    def new() -> str:
        """A new private key in PEM (PKCS 8)."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = ec.generate_private_key(ec.SECP256R1())
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def public(self) -> str:
        """The public half in PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, data: bytes) -> str:
        """The signature (ECDSA with SHA-256, DER) in base64."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return base64.b64encode(self._key.sign(data, ec.ECDSA(hashes.SHA256()))).decode()


class PublicKeys:
    """The keys that somebody trusts, each in PEM. Raises `BadKey` for what is none."""

    def __init__(self, pems: Sequence[str]) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        self._keys: list[Any] = []
        for number, pem in enumerate(pems, 1):
            try:
                key = load_pem_public_key(pem.encode())
            except ValueError:
                raise BadKey(f"public key {number} is none in PEM") from None
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise BadKey(f"public key {number} is no ECDSA key")
            self._keys.append(key)

    def signed(self, data: bytes, signature: str) -> bool:
        """Whether one of them made this signature (base64)."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            raw = base64.b64decode(signature, validate=True)
        except binascii.Error:
            return False
        for key in self._keys:
            try:
                key.verify(raw, data, ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                continue
            return True
        return False


def signature_tag(digest: Digest) -> str:
    """Under which tag an image's signatures are."""
    return f"sha256-{hex_of(digest)}.sig"


def attestation_tag(digest: Digest) -> str:
    """Under which tag statements about an image are."""
    return f"sha256-{hex_of(digest)}.att"


def payload(name: str, digest: Digest) -> bytes:
    """What is signed: that this digest is an image, under this name when it was signed."""
    return msgspec.json.encode(
        {
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": _PAYLOAD_TYPE,
            },
            "optional": None,
        }
    )


async def sign(client: RegistryClient, store: ContentStore, image: Reference, key: SigningKey) -> Digest:
    """Signs an image that is at its registry; returns the digest of what its signatures are in.

    Signatures of others stay; one that this key made already is not made again. Raises what a pull and a push raise.
    """
    digest = image.digest or parse_digest((await client.resolve(image)).digest)
    data = payload(image.name, digest)
    at = _signatures(image, digest)
    before = await _layers(client, store, at)
    own = PublicKeys([key.public])
    if any(own.signed(data, one.annotations.get(SIGNATURE, "")) for one in before):
        return parse_digest((await client.resolve(at)).digest)
    blob = store.put(data)
    layer = oci.Descriptor(
        media_type=SIMPLE_SIGNING, digest=blob, size=len(data), annotations={SIGNATURE: key.sign(data)}
    )
    return await _put(client, store, at, [*before, layer])


async def attest(
    client: RegistryClient, store: ContentStore, image: Reference, statement: bytes, key: SigningKey
) -> Digest:
    """Puts a signed statement about an image beside it; one about the same thing by the same key is replaced by it."""
    digest = image.digest or parse_digest((await client.resolve(image)).digest)
    kind = str(msgspec.json.decode(statement)["predicateType"])
    signed = Envelope(
        STATEMENT_TYPE,
        base64.b64encode(statement).decode(),
        [{"keyid": "", "sig": key.sign(_authenticated(statement))}],
    )
    data = msgspec.json.encode(signed)
    at = Reference(image.registry, image.repository, attestation_tag(digest))
    own = PublicKeys([key.public])
    kept = [
        one
        for one in await _layers(client, store, at)
        if one.annotations.get(PREDICATE_TYPE) != kind or _statement(store, one, own) is None
    ]
    layer = oci.Descriptor(
        media_type=ENVELOPE,
        digest=store.put(data),
        size=len(data),
        annotations={SIGNATURE: "", PREDICATE_TYPE: kind},
    )
    return await _put(client, store, at, [*kept, layer])


async def verify(client: RegistryClient, store: ContentStore, image: Reference, keys: PublicKeys) -> None:
    """Whether one of these keys has signed the image.

    Raises:
        NotSigned: none has. And what a pull raises.
    """
    digest = image.digest or parse_digest((await client.resolve(image)).digest)
    layers = await _layers(client, store, _signatures(image, digest))
    if not _vouched(store, layers, digest, keys):
        who = "nobody" if not layers else "none of the trusted keys"
        raise NotSigned(f"{image.name}@{digest}: signed by {who}")


def sign_kept(store: ContentStore, image: Reference, key: SigningKey) -> None:
    """Signs an image that is in the store, which is named by its digest. What this key has signed is not signed again.

    Raises:
        ContentError: the image is not there, or cannot be read.
    """
    assert image.digest is not None
    if kept(store, image, PublicKeys([key.public])):
        return
    data = payload(image.name, image.digest)
    layer = oci.Descriptor(
        media_type=SIMPLE_SIGNING, digest=store.put(data), size=len(data), annotations={SIGNATURE: key.sign(data)}
    )
    signed = oci.read_any(store, image.digest)
    subject = oci.Descriptor(media_type=signed.media_type, digest=image.digest, size=store.size(image.digest))
    oci.put_document(store, _artifact(store, [layer], subject))


def kept(store: ContentStore, image: Reference, keys: PublicKeys) -> bool:
    """Whether the store alone shows that one of these keys has signed the image, which is named by its digest: what `verify`
    brought once stays there, so that no registry has to be asked twice; and what was made here is signed here."""
    if image.digest is None:
        return False
    with suppress(ContentError):
        found = store.resolve(_signatures(image, image.digest).tagged)
        if found is not None and _signed_in(store, found, image.digest, keys):
            return True
    return any(_signed_in(store, one, image.digest, keys) for one in store.referrers(image.digest))


def _signed_in(store: ContentStore, artifact: Digest, image: Digest, keys: PublicKeys) -> bool:
    """Whether a manifest has a signature of the image by one of the keys."""
    try:
        manifest = oci.read_any(store, artifact)
        return isinstance(manifest, oci.Manifest) and _vouched(store, manifest.layers, image, keys)
    except ContentError:
        return False  # damaged, or half of it collected: the registry has it whole


def _signatures(image: Reference, digest: Digest) -> Reference:
    return Reference(image.registry, image.repository, signature_tag(digest))


def _vouched(store: ContentStore, layers: Sequence[oci.Descriptor], digest: Digest, keys: PublicKeys) -> bool:
    """Whether one of the layers is a signature of this digest by one of the keys."""
    for layer in layers:
        if layer.media_type != SIMPLE_SIGNING:
            continue  # of another kind, such as a list of packages
        data = store.read(parse_digest(layer.digest))
        if keys.signed(data, layer.annotations.get(SIGNATURE, "")) and _names(data) == digest:
            return True
    return False


async def statements(
    client: RegistryClient, store: ContentStore, image: Reference, keys: PublicKeys
) -> list[dict[str, Any]]:
    """What these keys have stated about the image."""
    digest = image.digest or parse_digest((await client.resolve(image)).digest)
    at = Reference(image.registry, image.repository, attestation_tag(digest))
    found = (_statement(store, layer, keys) for layer in await _layers(client, store, at))
    hex = hex_of(digest)
    return [one for one in found if one and any(s["digest"].get("sha256") == hex for s in one["subject"])]


async def _layers(client: RegistryClient, store: ContentStore, at: Reference) -> list[oci.Descriptor]:
    """What is there under a tag already; its blobs are in the store."""
    from trimtab.content.errors import NoSuchImage

    try:
        found = oci.read_any(store, await client.pull(at))
    except NoSuchImage:
        return []
    if not isinstance(found, oci.Manifest):
        raise Corrupt(f"{at}: an index, where signatures are expected")
    return list(found.layers)


async def _put(client: RegistryClient, store: ContentStore, at: Reference, layers: Sequence[oci.Descriptor]) -> Digest:
    manifest = _artifact(store, layers)
    digest = parse_digest(oci.put_document(store, manifest).digest)
    return await client.push(digest, at, referrers=False)


def _artifact(
    store: ContentStore, layers: Sequence[oci.Descriptor], subject: oci.Descriptor | None = None
) -> oci.Manifest:
    config = oci.Config(
        architecture="",
        os="",
        rootfs=oci.RootFs(type="layers", diff_ids=[layer.digest for layer in layers]),
    )
    return oci.Manifest(
        schema_version=2,
        media_type=oci.MANIFEST,
        artifact_type=SIGNATURES if subject is not None else "",
        config=oci.put_document(store, config),
        layers=list(layers),
        subject=subject,
    )


def _names(data: bytes) -> str:
    try:
        critical = msgspec.json.decode(data)["critical"]
        return str(critical["image"]["docker-manifest-digest"]) if critical["type"] == _PAYLOAD_TYPE else ""
    except (msgspec.MsgspecError, KeyError, TypeError):
        return ""


def _statement(store: ContentStore, layer: oci.Descriptor, keys: PublicKeys) -> dict[str, Any] | None:
    """What an envelope says, if one of the keys signed it."""
    try:
        envelope = msgspec.json.decode(store.read(parse_digest(layer.digest)), type=Envelope)
        said = base64.b64decode(envelope.payload, validate=True)
        if envelope.payload_type != STATEMENT_TYPE:
            return None
        if not any(keys.signed(_authenticated(said), one.get("sig", "")) for one in envelope.signatures):
            return None
        statement: dict[str, Any] = msgspec.json.decode(said)
    except (msgspec.MsgspecError, binascii.Error):
        return None
    return statement if isinstance(statement.get("subject"), list) else None


def _authenticated(statement: bytes) -> bytes:
    """What is signed of a statement: its kind and itself, each with its length (DSSE's pre-authentication encoding)."""
    kind = STATEMENT_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement)
