"""ClusterImagePolicy: whose signature an image must carry to run here. The kind is sigstore's (policy.sigstore.dev/v1beta1), of which
the node follows globs, public keys and the mode; what it does not follow is a field all the same, so that it can be refused
(`trust_admission.py`) instead of being dropped in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from trimtab.api import Model, Resource, resource


class ImagePattern(Model):
    glob: Annotated[str, Meta(min_length=1)]
    """`*` stands for anything but a slash, `**` for anything: `registry.example/shop/**`."""


class KeyRef(Model):
    data: str = ""
    """A public key in PEM: ECDSA."""
    hash_algorithm: str = ""
    """`sha256`, or nothing."""
    secret_ref: Any = None
    """Not supported."""
    kms: Any = None
    """Not supported."""


class Authority(Model):
    name: str = ""
    key: KeyRef | None = None
    """The key whose signature counts."""
    ctlog: Any = None
    """`{}`: no transparency log is asked; none ever is."""
    keyless: Any = None
    """Not supported."""
    static: Any = None
    """Not supported."""
    source: Any = None
    """Not supported."""
    attestations: Any = None
    """Not supported."""
    rfc3161timestamp: Any = None
    """Not supported."""
    signature_format: str = ""
    """`legacy`, or nothing: signatures beside the image, under the tag `sha256-HEX.sig`."""


class ClusterImagePolicySpec(Model):
    images: Annotated[list[ImagePattern], Meta(min_length=1)]
    """The images that it is about."""
    authorities: list[Authority] = []
    """Any one of them must have signed."""
    mode: Literal["", "enforce", "warn"] = ""
    """`warn` lets an image run that nobody of them signed, with an Event; else it does not run."""
    policy: Any = None
    """Not supported."""
    match: Any = None
    """Not supported."""


@resource("policy.sigstore.dev/v1beta1", "clusterimagepolicies", namespaced=False, short_names=("cip",), status=False)
class ClusterImagePolicy(Resource):
    """Which images run only if somebody has signed them. All policies that match an image must be satisfied."""

    spec: ClusterImagePolicySpec = field(
        default_factory=lambda: ClusterImagePolicySpec(images=[ImagePattern(glob="**")])
    )
