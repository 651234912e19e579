"""Names of a provider's kinds and fields in the API: `linode_lke_cluster` is LkeCluster, `k8s_version` is k8sVersion.

A field's name is turned one way only; back it is looked up in the schema. Two fields that would get one name keep apart: the later
one is named as the provider names it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from trimtab.components.infrastructure.protocol.schema import Attribute, Block

GROUP_SUFFIX = "tf.trimtab.dev"
VERSION = "v1"
SECRET_REF = "SecretRef"


def camel(name: str) -> str:
    """`ssh_key_ids` -> `sshKeyIds`."""
    first, *rest = [part for part in name.split("_") if part] or [name]
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def kind_name(provider: str, resource: str) -> str:
    """`LkeCluster` of the resource `linode_lke_cluster` of the provider `linode`."""
    prefix = f"{provider.replace('-', '_')}_"
    short = resource.removeprefix(prefix) or resource
    name = camel(short)
    return name[:1].upper() + name[1:]


def plural(kind: str) -> str:
    """In lower case, as the API has it: `lkeclusters`, `policies`, `boxes`."""
    word = kind.lower()
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


def group(provider: str) -> str:
    """The API group of a provider's kinds."""
    return f"{provider.replace('_', '-')}.{GROUP_SUFFIX}"


def api_names(names: Iterable[str]) -> dict[str, str]:
    """The provider's name of each field -> ours, one to one."""
    out: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names, key=lambda n: (n != camel(n), n)):
        mine = camel(name)
        out[name] = mine if mine not in taken else name
        taken.add(out[name])
    return out


@functools.lru_cache(maxsize=4096)
def _names(names: tuple[str, ...]) -> dict[str, str]:
    return api_names(names)


def of_block(block: Block) -> Mapping[str, str]:
    """Names of a block's fields and nested blocks."""
    return _names((*block.attributes, *block.blocks))


def of_attributes(attributes: Mapping[str, Attribute]) -> Mapping[str, str]:
    """Names of a nested attribute's fields."""
    return _names(tuple(attributes))


def of_object(names: Iterable[str]) -> Mapping[str, str]:
    """Names of an object type's fields."""
    return _names(tuple(names))
