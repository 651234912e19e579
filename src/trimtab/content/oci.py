"""OCI images as typed documents: descriptor -> manifest -> config and layers, and the index that lists several manifests.

The field names and media types are those of the OCI image specification 1.1 (and of Docker's schema 2, which registries
still serve and containerd reads alike). Documents are encoded in one canonical form, so that the same image always has
the same digest.
"""

from __future__ import annotations

import platform as host
from collections.abc import Sequence

import msgspec

from trimtab.content.digest import Digest, parse_digest
from trimtab.content.errors import Corrupt, NoSuchBlob, NoSuchImage
from trimtab.content.store import ContentStore

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
INDEXES = (INDEX, DOCKER_INDEX)

_AS_OCI = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class Platform(_Document, frozen=True, kw_only=True):
    """What a manifest runs on, in Go's words: linux/amd64."""

    architecture: str
    os: str = msgspec.field(default="linux", name="os")
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(_Document, frozen=True, kw_only=True):
    """A typed pointer to a blob."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(_Document, frozen=True, kw_only=True):
    """One image for one platform, or, with `artifact_type`, anything else that consists of blobs."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: list[Descriptor]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(_Document, frozen=True, kw_only=True):
    """Several manifests: of one image for several platforms, of a layout, or of a manifest's referrers."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    manifests: list[Descriptor]
    annotations: dict[str, str] = {}


class Runtime(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """How a container of the image is run, unless the pod says otherwise."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] = {}
    env: list[str] = []
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, dict[str, str]] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    diff_ids: list[str]


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a layer came to be; for people."""

    created: str = ""
    created_by: str = ""
    comment: str = ""
    empty_layer: bool = False


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The image's configuration: its platform, how to run it, and the digests of its unpacked layers."""

    created: str = ""
    architecture: str
    os: str
    variant: str = ""
    config: Runtime = Runtime()
    rootfs: RootFs
    history: list[History] = []


# What msgspec knows of a type it builds at the first use, and two threads that do so at once crash the interpreter. Here it is
# built under the import's lock.
for _kind in (Manifest, Index, Config):
    msgspec.json.Decoder(_kind)


def host_platform() -> Platform:
    """Linux on this machine's processor."""
    machine = host.machine()
    return Platform(architecture=_MACHINES.get(machine, machine))


def parse_platform(text: str) -> Platform:
    """`linux/arm64` or `linux/arm/v7`."""
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    return Platform(os=system, architecture=architecture, variant=variant)


def encode(document: msgspec.Struct) -> bytes:
    """The canonical bytes: fields as declared, maps sorted."""
    return msgspec.json.encode(document, order="deterministic")


def put_document(store: ContentStore, document: Manifest | Index | Config, media_type: str = "") -> Descriptor:
    """Keeps a document and returns the pointer to it. A manifest with a subject becomes that subject's referrer."""
    data = encode(document)
    digest = store.put(data)
    if isinstance(document, Manifest) and document.subject is not None:
        store.add_referrer(parse_digest(document.subject.digest), digest)
    if not media_type:
        media_type = CONFIG if isinstance(document, Config) else document.media_type
    return Descriptor(media_type=media_type, digest=digest, size=len(data))


def read_any(store: ContentStore, digest: Digest) -> Manifest | Index:
    """The manifest or index with this digest. Raises NoSuchBlob, Corrupt."""
    return decode_any(store.read(digest), str(digest))


def decode_any(data: bytes, where: str) -> Manifest | Index:
    """These bytes as a manifest or an index, whichever they are."""
    try:
        document = msgspec.json.decode(data)
        if isinstance(document, dict) and "manifests" in document:
            return msgspec.convert(_without_nulls(document), Index)
        return msgspec.convert(_without_nulls(document), Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"{where} is not an image manifest: {error}") from None


def read_config(store: ContentStore, manifest: Manifest) -> Config:
    """The configuration of an image. Raises NoSuchBlob, Corrupt."""
    digest = parse_digest(manifest.config.digest)
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(store.read(digest))), Config)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"{digest} is not an image configuration: {error}") from None


def _without_nulls(value: object) -> object:
    """Docker writes null where OCI leaves a field out."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def choose(index: Index, platform: Platform, where: str) -> Descriptor:
    """The manifest for this platform. Raises NoSuchImage naming those there are."""
    offered: list[str] = []
    for descriptor in index.manifests:
        one = descriptor.platform
        if one is None and len(index.manifests) == 1:
            return descriptor
        if one is None:
            continue
        if one.os == platform.os and one.architecture == platform.architecture and _variant_fits(one, platform):
            return descriptor
        if one.os != "unknown":
            offered.append(str(one))
    raise NoSuchImage(f"{where} has no image for {platform}, only for {', '.join(sorted(set(offered))) or 'none'}")


def _variant_fits(offered: Platform, wanted: Platform) -> bool:
    return not wanted.variant or not offered.variant or offered.variant == wanted.variant


def image_manifest(
    store: ContentStore, digest: Digest, platform: Platform | None = None
) -> tuple[Descriptor, Manifest]:
    """The manifest to run for this digest, through an index if it is one."""
    document = read_any(store, digest)
    if isinstance(document, Index):
        chosen = choose(document, platform or host_platform(), str(digest))
        return image_manifest(store, parse_digest(chosen.digest), platform)
    size = store.size(digest)
    return Descriptor(media_type=document.media_type or MANIFEST, digest=digest, size=size), document


def closure(store: ContentStore, digest: Digest) -> list[Descriptor]:
    """Everything an image consists of, blobs before the documents that name them, `digest` itself last.

    Manifests of an index that are not here (other platforms) are left out. Raises NoSuchBlob for a missing blob.
    """
    document = read_any(store, digest)
    found: dict[str, Descriptor] = {}
    if isinstance(document, Index):
        for child in document.manifests:
            if store.has(parse_digest(child.digest)):
                found.update((one.digest, one) for one in closure(store, parse_digest(child.digest)))
        media_type = document.media_type or INDEX
    else:
        for blob in (*document.layers, document.config):
            if not store.has(parse_digest(blob.digest)):
                raise NoSuchBlob(f"{digest} needs {blob.digest}, which is not in {store.directory}; pull it again")
            found[blob.digest] = blob
        media_type = document.media_type or MANIFEST
    found[digest] = Descriptor(media_type=media_type, digest=digest, size=store.size(digest))
    return list(found.values())


def as_oci_layers(layers: Sequence[Descriptor]) -> list[Descriptor]:
    """The same layers under OCI's media types, so that an OCI manifest may hold them."""
    return [
        Descriptor(media_type=_AS_OCI.get(layer.media_type, layer.media_type), digest=layer.digest, size=layer.size)
        for layer in layers
    ]
