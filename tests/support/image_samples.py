"""Small images made without any network, for tests of stores and registries."""

from __future__ import annotations

import os

from trimtab.content import ContentStore, Digest, oci, parse_digest
from trimtab.content.builder import attach
from trimtab.content.tarwriter import LayerWriter


def sample_image(store: ContentStore, tag: str = "", size_bytes: int = 3000, text: str = "hello") -> Digest:
    """An image of two layers, one of them of incompressible bytes, with a bill of materials."""
    layers = []
    for name, data in (("greeting", text.encode()), ("noise", os.urandom(size_bytes))):
        with store.ingest() as ingest:
            writer = LayerWriter(ingest)
            writer.file(name, data)
            layers.append(writer.finish())
    config = oci.Config(
        architecture=oci.host_platform().architecture,
        os="linux",
        rootfs=oci.RootFs(type="layers", diff_ids=[one.diff_id for one in layers]),
    )
    manifest = oci.Manifest(
        schema_version=2,
        media_type=oci.MANIFEST,
        config=oci.put_document(store, config),
        layers=[oci.Descriptor(media_type=oci.LAYER, digest=one.digest, size=one.size) for one in layers],
    )
    image = oci.put_document(store, manifest)
    attach(store, image, "application/vnd.cyclonedx+json", store.put(b'{"bomFormat":"CycloneDX"}'))
    digest = parse_digest(image.digest)
    if tag:
        store.tag(tag, digest)
    return digest


def sample_index(store: ContentStore, *manifests: tuple[str, Digest]) -> Digest:
    """An index of (architecture, manifest)."""
    listed = [
        oci.Descriptor(
            media_type=oci.MANIFEST,
            digest=digest,
            size=store.size(digest),
            platform=oci.Platform(architecture=architecture),
        )
        for architecture, digest in manifests
    ]
    made = oci.put_document(store, oci.Index(schema_version=2, media_type=oci.INDEX, manifests=listed))
    return parse_digest(made.digest)
