"""The image of a step's container: the one it starts from, and one more layer with a static busybox, for whatever image it is.

manifest in the store --> the same layers + /.trimtab/busybox --> manifest, by its digest always the same
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from trimtab.ci.runs.ports import EngineFault
from trimtab.components.pipelines.pods.script import HOME, TOOL
from trimtab.content import ContentError, ContentStore, oci, parse_digest
from trimtab.content.digest import Digest
from trimtab.content.tarwriter import Layer, LayerWriter

BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class StepImage:
    """digest: of the manifest with the tools. platform: what its programs run on. runtime: how the image itself says it is run."""

    digest: Digest
    platform: oci.Platform
    runtime: oci.Runtime


def step_image(store: ContentStore, digest: str) -> StepImage:
    """The image of this digest with the tools, in the store; "" is an image without files. Raises `EngineFault`."""
    try:
        base, config = _base(store, digest)
        layer = _tools(store)
        added = oci.Descriptor(media_type=oci.LAYER, digest=layer.digest, size=layer.size)
        described = oci.put_document(
            store,
            msgspec.structs.replace(
                config,
                history=[],
                rootfs=oci.RootFs(type="layers", diff_ids=[*config.rootfs.diff_ids, layer.diff_id]),
            ),
        )
        manifest = oci.Manifest(
            schema_version=2, media_type=oci.MANIFEST, config=described, layers=[*oci.as_oci_layers(base), added]
        )
        made = oci.put_document(store, manifest)
    except ContentError as err:
        raise EngineFault(f"the image {digest[:19]} cannot be used: {err}") from None
    platform = oci.Platform(architecture=config.architecture, os=config.os, variant=config.variant)
    return StepImage(parse_digest(made.digest), platform, config.config)


def _base(store: ContentStore, digest: str) -> tuple[list[oci.Descriptor], oci.Config]:
    if not digest:
        here = oci.host_platform()
        nothing = oci.RootFs(type="layers", diff_ids=[])
        return [], oci.Config(architecture=here.architecture, os=here.os, rootfs=nothing)
    _, manifest = oci.image_manifest(store, parse_digest(digest))
    return list(manifest.layers), oci.read_config(store, manifest)


def _tools(store: ContentStore) -> Layer:
    """The layer; the same bytes for the same busybox. Raises `EngineFault` where there is none."""
    try:
        program = BUSYBOX.read_bytes()
    except OSError:
        raise EngineFault(f"{BUSYBOX} is not there, which a pod's step needs; install busybox-static") from None
    if b"ld-linux" in program[:4096]:
        raise EngineFault(f"{BUSYBOX} needs libraries that a pod's image may not have; install busybox-static")
    with store.ingest() as ingest:
        layer = LayerWriter(ingest)
        layer.directory(HOME)
        layer.file(TOOL, program, mode=0o755)
        return layer.finish()
