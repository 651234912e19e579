"""The bill of materials: every Debian package and wheel of an image, as CycloneDX 1.6 JSON.

It is made from what was put in, not guessed from the result, and holds no time and no random number, so that it is as
reproducible as the image. It is attached as an OCI referrer, and the image's annotation names its digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from trimtab import __version__
from trimtab.content.apt import DISTRO, Deb
from trimtab.content.requirements import Wheel

SBOM = "application/vnd.cyclonedx+json"


def bill_of_materials(
    name: str, debs: Sequence[Deb], wheels: Sequence[Wheel], licenses: Mapping[str, str], base: str | None
) -> bytes:
    """The document for an image of this name. `base`: the reference with digest of the image below, if any."""
    components = [_deb(one) for one in debs] + [_wheel(one, licenses.get(one.name, "")) for one in wheels]
    if base is not None:
        components.insert(0, {"type": "container", "bom-ref": f"base:{base}", "name": base})
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": "image", "name": name},
            "tools": {"components": [{"type": "application", "name": "trimtab", "version": __version__}]},
        },
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": [one["bom-ref"] for one in components]}],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def _deb(one: Deb) -> dict[str, Any]:
    purl = f"pkg:deb/debian/{quote(one.name, safe='')}@{quote(one.version, safe='')}?arch={one.architecture}&distro={DISTRO}"
    component = {
        "type": "library",
        "bom-ref": purl,
        "name": one.name,
        "version": one.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": one.digest.removeprefix("sha256:")}],
    }
    if one.source:
        component["properties"] = [{"name": "trimtab:debian:source", "value": one.source}]
    return component


def _wheel(one: Wheel, license: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{one.name}@{quote(one.version, safe='')}"
    component = {
        "type": "library",
        "bom-ref": purl,
        "name": one.name,
        "version": one.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": one.digest.removeprefix("sha256:")}],
    }
    if license:
        component["licenses"] = [{"license": {"name": license}}]
    return component
