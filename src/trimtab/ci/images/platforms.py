"""Images for several processors: an index that names a manifest for each, in the store.

{platform: manifest} -> `indexed` -> index        what a step has made
reference, platforms -> `fetched` -> index        what a registry has, of it only what is wanted
index -> `listed` -> {platform: manifest}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trimtab.content import ContentStore, NoSuchImage, RegistryClient, oci, parse_digest, parse_reference

KEPT = "trimtab.local/ci/platforms"
"""The name under which indexes are in the store, lest they be collected."""


def indexed(store: ContentStore, made: Mapping[str, str]) -> str:
    """The digest of an index of these manifests, in the order of their platforms; equal manifests make an equal index."""
    manifests = [
        oci.Descriptor(
            media_type=oci.MANIFEST,
            digest=digest,
            size=store.size(parse_digest(digest)),
            platform=oci.parse_platform(platform),
        )
        for platform, digest in sorted(made.items())
    ]
    index = oci.put_document(store, oci.Index(schema_version=2, media_type=oci.INDEX, manifests=manifests))
    store.tag(f"{KEPT}@{index.digest}", parse_digest(index.digest))
    return index.digest


def listed(store: ContentStore, index: str) -> dict[str, str]:
    """By platform the manifests of an index."""
    document = oci.read_any(store, parse_digest(index))
    assert isinstance(document, oci.Index)
    return {str(one.platform): one.digest for one in document.manifests}


async def fetched(store: ContentStore, name: str, platforms: Sequence[str], tell: Callable[[str], None]) -> str:
    """An index of an image of a registry for these platforms; what is here already is not fetched. name: with its digest.

    Raises NoSuchImage for a platform that it is not for, and what a pull raises.
    """
    reference = parse_reference(name)
    found = {}
    async with RegistryClient(store) as client:
        for text in platforms:
            wanted = oci.parse_platform(text)
            known = store.resolve(f"{reference.tagged}#{wanted}")
            if known is None or not store.has(known):
                tell(f"fetching {reference.repository} for {text}")
                known = await client.pull(reference, platform=wanted, tag=False)
                config = oci.read_config(store, oci.image_manifest(store, known, wanted)[1])
                if config.architecture != wanted.architecture:
                    raise NoSuchImage(f"{name} has no image for {text}, only for {config.os}/{config.architecture}")
                store.tag(f"{reference.tagged}#{wanted}", known)
            found[text] = known
    return indexed(store, found)
