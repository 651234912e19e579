"""Names of generated objects: the same inputs give the same name, so that doing a thing twice creates it once.

A pod of a ReplicaSet or Job has a *slot*, a number. Its name is the owner's name and a suffix of five characters, which
looks random but is the slot, permuted by the owner's uid. A create whose answer was lost is therefore repeated under the
same name and finds its first result, instead of creating one pod too many. `slot_of` is the inverse: a new pod takes a
slot above all that are in use, so a name is hardly ever used twice.

The alphabet is Kubernetes' "safe" one (apimachinery's `util/rand`): no vowels, so no words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from trimtab.api.core import PodTemplateSpec

POD_TEMPLATE_HASH = "pod-template-hash"

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5
_SLOTS: int = len(_ALPHABET) ** _SUFFIX_LENGTH
_STRIDE = 8_675_309
"""Coprime to 27**5 (not divisible by 3), so that stepping by it visits every suffix once; far from small, so that
neighbouring slots look unrelated."""
_STRIDE_INVERSE: int = pow(_STRIDE, -1, _SLOTS)
_BASE_LENGTH_MAX = 57
"""With `-` and the suffix a name stays within the 63 characters of a DNS label, since pods use it as their host name."""


def _offset(uid: str) -> int:
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") % _SLOTS


def slot_name(base: str, uid: str, slot: int) -> str:
    """The name of an owner's pod number `slot`."""
    number = (slot * _STRIDE + _offset(uid)) % _SLOTS
    suffix = ""
    for _ in range(_SUFFIX_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        suffix = _ALPHABET[digit] + suffix
    return f"{base[:_BASE_LENGTH_MAX]}-{suffix}"


def slot_of(base: str, uid: str, name: str) -> int | None:
    """The slot that `slot_name` would give this name for, or None when it was not made by `slot_name` for this owner."""
    suffix = name.removeprefix(f"{base[:_BASE_LENGTH_MAX]}-")
    if len(suffix) != _SUFFIX_LENGTH or suffix == name:
        return None
    number = 0
    for char in suffix:
        digit = _ALPHABET.find(char)
        if digit < 0:
            return None
        number = number * len(_ALPHABET) + digit
    return (number - _offset(uid)) * _STRIDE_INVERSE % _SLOTS


def free_names(base: str, uid: str, taken: Iterable[str]) -> Iterator[str]:
    """Names for new pods, in order: of the slots above the highest one taken.

    A name that is taken but was not made here (somebody's own pod) counts for nothing unless it would clash.
    """
    names = set(taken)
    slots = [slot for slot in (slot_of(base, uid, name) for name in names) if slot is not None]
    plausible = [slot for slot in slots if slot < _SLOTS // 2]
    slot = max(plausible, default=-1) + 1
    while True:
        name = slot_name(base, uid, slot)
        if name not in names:
            yield name
        slot += 1


def safe_hash(data: bytes, length: int = 10) -> str:
    """A hash of `data` in the safe alphabet."""
    number = int.from_bytes(hashlib.sha256(data).digest(), "big")
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def canonical(template: PodTemplateSpec) -> bytes:
    """The bytes that two equal templates share: keys sorted, defaults and the template-hash label left out."""
    meta = template.metadata
    body = {
        "labels": {key: value for key, value in meta.labels.items() if key != POD_TEMPLATE_HASH},
        "annotations": meta.annotations,
        "spec": without_defaults(msgspec.to_builtins(template.spec)),
    }
    return msgspec.json.encode(body, order="sorted")


def same_template(a: PodTemplateSpec, b: PodTemplateSpec) -> bool:
    """True when pods of either template would be the same, up to the template-hash label."""
    return canonical(a) == canonical(b)


def template_hash(template: PodTemplateSpec, salt: int = 0) -> str:
    """The value of the label `pod-template-hash`. `salt` tells apart two templates whose hashes collide."""
    return safe_hash(canonical(template) + (str(salt).encode() if salt else b""))


_DEFAULTS: dict[str, object] = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "terminationGracePeriodSeconds": 30,
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "protocol": "TCP",
    "securityContext": {},
    "resources": {},
    "periodSeconds": 10,
    "timeoutSeconds": 1,
    "successThreshold": 1,
    "failureThreshold": 3,
    "scheme": "HTTP",
    "path": "/",
}
"""What a server fills in. Left out of comparisons, so that a server of another release, which fills in more or less,
makes no template look new: that would replace every pod in an upgrade."""


def without_defaults(value: object, key: str = "") -> object:
    """`value` without the fields that hold just what the API server fills in by itself; `key` names what it is in."""
    if isinstance(value, dict):
        if key in _MAPS_OF_THE_USER:
            return value
        pruned = {name: without_defaults(item, name) for name, item in value.items()}
        return {name: item for name, item in pruned.items() if _DEFAULTS.get(name, _NOTHING) != item}
    if isinstance(value, list):
        return [without_defaults(item) for item in value]
    return value


_NOTHING = object()
_MAPS_OF_THE_USER = frozenset({"nodeSelector", "limits", "requests", "labels", "annotations"})
"""Their keys are data, not fields."""
