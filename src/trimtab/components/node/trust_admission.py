"""What of a ClusterImagePolicy this node does not follow: refused when it is written, since a policy that seems to protect and does not
is worse than none. Pure.
"""

from __future__ import annotations

import re
from typing import Any

from trimtab.api import JSON
from trimtab.runtime import Denied

GLOB = re.compile(r"[a-zA-Z0-9_:/*.@-]+")
SPEC_FIELDS = {
    "policy": "rules over signatures and statements are not supported; leave it out",
    "match": "a policy is about every pod here; leave it out",
}
AUTHORITY_FIELDS = {
    "keyless": "certificates of a public authority are not supported; give a public key as key.data",
    "static": "it is not supported; give a public key as key.data",
    "source": "signatures are looked for beside the image alone; leave it out",
    "attestations": "statements are not judged, only signatures; leave it out",
    "rfc3161timestamp": "time stamps are not supported; leave it out",
}
KEY_FIELDS = {
    "secretRef": "a key in a Secret is not supported; a public key is no secret, give it as data",
    "kms": "keys of a key service are not supported; give the public key as data",
}


def check_image_policy(new: JSON, old: JSON | None) -> list[str]:
    """An admission check of ClusterImagePolicies.

    Raises:
        Denied: naming the field and the fix.
    """
    spec: dict[str, Any] = new.get("spec") or {}
    _unsupported("spec", spec, SPEC_FIELDS)
    for number, pattern in enumerate(spec.get("images") or ()):
        if not GLOB.fullmatch(glob := pattern.get("glob", "")):
            raise Denied(f"spec.images[{number}].glob", f"{glob!r} is none: letters, digits, `-_.:/@`, `*` and `**`")
    authorities = spec.get("authorities") or ()
    if not authorities:
        raise Denied(
            "spec.authorities", "nobody is named whose signature counts; give one with a public key as key.data"
        )
    for number, authority in enumerate(authorities):
        _check_authority(f"spec.authorities[{number}]", authority)
    return []


def _check_authority(path: str, authority: dict[str, Any]) -> None:
    _unsupported(path, authority, AUTHORITY_FIELDS)
    if authority.get("ctlog"):
        raise Denied(f"{path}.ctlog", "transparency logs are not supported; leave it out, or write {}")
    if authority.get("signatureFormat") not in (None, "", "legacy"):
        raise Denied(f"{path}.signatureFormat", 'only "legacy" is supported: signatures under the tag sha256-HEX.sig')
    key = authority.get("key") or {}
    _unsupported(f"{path}.key", key, KEY_FIELDS)
    if key.get("hashAlgorithm") not in (None, "", "sha256"):
        raise Denied(f"{path}.key.hashAlgorithm", f'{key["hashAlgorithm"]} is not supported; use "sha256"')
    if not key.get("data"):
        raise Denied(f"{path}.key.data", "give a public key in PEM, such as `trimtab ci key` prints")

    from trimtab.content.errors import BadKey
    from trimtab.content.signing import PublicKeys

    try:
        PublicKeys([key["data"]])
    except BadKey as err:
        raise Denied(f"{path}.key.data", f"{err}; `trimtab ci key` makes a pair") from None


def _unsupported(path: str, given: dict[str, Any], fields: dict[str, str]) -> None:
    for name, fix in fields.items():
        if given.get(name) is not None:
            raise Denied(f"{path}.{name}", fix)
