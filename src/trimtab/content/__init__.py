"""Content-addressed blobs, OCI images and registries, the image builder.

In reading order: `store` (blobs, tags, gc), `oci` (manifests and configs), `layout` (images in files), `registry` (pull and
push), `registry_server` (serve to containerd), `spec` (what an image should be), `builder` (making it), `ready_made`
(PostgreSQL, pause). What is not named here is the package's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trimtab.content.digest import Digest, digest_of, parse_digest
from trimtab.content.errors import (
    BadReference,
    BadSpec,
    BuildFailed,
    ContentError,
    Corrupt,
    DiskFull,
    NoSuchBlob,
    NoSuchImage,
    Unauthorized,
    Unreachable,
)
from trimtab.content.reference import Reference, parse_reference
from trimtab.content.spec import ImageSpec
from trimtab.content.store import ContentStore

if TYPE_CHECKING:
    from trimtab.content.builder import BuiltImage, BuiltLayer, Step, build
    from trimtab.content.credentials import Credentials, Login
    from trimtab.content.ready_made import pause_image, postgres_image, tools_image
    from trimtab.content.registry import RegistryClient
    from trimtab.content.registry_server import registry_app

__all__ = [
    "BadReference",
    "BadSpec",
    "BuildFailed",
    "BuiltImage",
    "BuiltLayer",
    "ContentError",
    "ContentStore",
    "Corrupt",
    "Credentials",
    "Digest",
    "DiskFull",
    "ImageSpec",
    "Login",
    "NoSuchBlob",
    "NoSuchImage",
    "Reference",
    "RegistryClient",
    "Step",
    "Unauthorized",
    "Unreachable",
    "build",
    "digest_of",
    "parse_digest",
    "parse_reference",
    "pause_image",
    "postgres_image",
    "registry_app",
    "tools_image",
]

# Loaded when first used: a process that only declares images, or only serves them, does not carry the rest in memory.
_LATER = {
    "BuiltImage": "builder",
    "BuiltLayer": "builder",
    "Credentials": "credentials",
    "Login": "credentials",
    "RegistryClient": "registry",
    "Step": "builder",
    "build": "builder",
    "pause_image": "ready_made",
    "postgres_image": "ready_made",
    "registry_app": "registry_server",
    "tools_image": "ready_made",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
