"""How a node guards its memory, disk and process ids: defaults, and what a KubeletConfiguration changes of them.

`trimtab start --node-config FILE` takes the fields of Kubernetes' own `KubeletConfiguration` that are about pressure, with their
meaning; any other field is refused by name. Where the kubelet's default is a percentage of the disk, ours is bounded: a tenth
of two terabytes is not scarcity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.api.quantity import parse_quantity, whole

GIB = 1 << 30
MIB = 1 << 20
SIGNALS = (
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
)
"""What can run out, in the kubelet's words."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Amount:
    """A share of the whole, an amount, or the lesser of both."""

    share: float | None = None
    bound: int | None = None

    def of(self, capacity: int) -> int:
        found = [int(self.share * capacity)] if self.share is not None else []
        return min([*found, *([self.bound] if self.bound is not None else [])], default=0)

    def __str__(self) -> str:
        parts = [] if self.share is None else [f"{self.share * 100:g}%"]
        return " or ".join([*parts, *([] if self.bound is None else [str(self.bound)])])


@dataclass(frozen=True)
class Threshold:
    """Less than `least` of a signal is pressure. grace_s: for how long it must last before pods go (soft); 0: at once."""

    signal: str
    least: Amount
    grace_s: float = 0.0


DEFAULT_HARD = (
    Threshold("memory.available", Amount(bound=100 * MIB)),
    Threshold("nodefs.available", Amount(0.05, 5 * GIB)),
    Threshold("nodefs.inodesFree", Amount(0.05)),
    Threshold("pid.available", Amount(0.1)),
)


@dataclass(frozen=True)
class NodeConfig:
    """See the module. Times in seconds."""

    thresholds: tuple[Threshold, ...] = DEFAULT_HARD
    reclaim: Mapping[str, Amount] = field(default_factory=dict)
    """By signal: how much beyond the threshold is freed once it was crossed, so that it is not crossed again at once."""
    transition_s: float = 300.0
    """For how long a condition stays after its signal has recovered, so that it does not flap."""
    soft_grace_s_max: float = 0.0
    """What a pod gets at most to end when a soft threshold asks for it."""
    image_high: Amount = Amount(0.15, 15 * GIB)
    """Less free than this: unused images go ..."""
    image_low: Amount = Amount(0.20, 20 * GIB)
    """... until this much is free."""
    image_age_s: float = 120.0
    """Younger images stay: their pod may just be coming."""
    pids_max: int = 4096
    """Processes and threads of one pod."""
    log_bytes_max: int = 10 * MIB
    log_files_max: int = 2
    """Files of a container's log, the one that is written included."""


class BadNodeConfig(ValueError):
    """One line: which field, and what it should be."""


def read(path: Path) -> dict[str, Any]:
    """A file with a KubeletConfiguration, checked.

    Raises:
        BadNodeConfig: the file, or the field in it, and what is wrong.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except OSError as err:
        raise BadNodeConfig(f"{path}: {err.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise BadNodeConfig(f"{path}: this is no YAML: {' '.join(str(err).split())}") from None
    if not isinstance(found, dict) or found.get("kind") != "KubeletConfiguration":
        raise BadNodeConfig(f"{path}: this is no KubeletConfiguration (kubelet.config.k8s.io/v1beta1)")
    try:
        parse(found)
    except BadNodeConfig as err:
        raise BadNodeConfig(f"{path}: {err}") from None
    return found


def parse(given: Mapping[str, Any]) -> NodeConfig:
    """The settings of a node. Raises `BadNodeConfig`."""
    values: dict[str, Any] = {}
    hard = {threshold.signal: threshold for threshold in DEFAULT_HARD}
    soft: list[Threshold] = []
    for name, value in given.items():
        match name:
            case "apiVersion" | "kind":
                pass
            case "evictionHard":
                for signal, least in _amounts(name, value).items():
                    hard[signal] = Threshold(signal, least)
            case "evictionSoft":
                graces = given.get("evictionSoftGracePeriod") or {}
                for signal, least in _amounts(name, value).items():
                    if signal not in graces:
                        raise BadNodeConfig(f"evictionSoftGracePeriod: {signal} is missing: how long may it last?")
                    grace = seconds(f"evictionSoftGracePeriod.{signal}", graces[signal])
                    soft.append(Threshold(signal, least, grace))
            case "evictionSoftGracePeriod":
                unknown = set(value or {}) - set(given.get("evictionSoft") or {})
                if unknown:
                    raise BadNodeConfig(f"{name}: evictionSoft has no {', '.join(sorted(unknown))}")
            case "evictionMinimumReclaim":
                values["reclaim"] = _amounts(name, value)
            case "evictionPressureTransitionPeriod":
                values["transition_s"] = seconds(name, value)
            case "evictionMaxPodGracePeriod":
                values["soft_grace_s_max"] = float(_number(name, value, 0, 86_400))
            case "imageGCHighThresholdPercent":
                values["image_high"] = Amount(1 - _number(name, value, 0, 100) / 100)
            case "imageGCLowThresholdPercent":
                values["image_low"] = Amount(1 - _number(name, value, 0, 100) / 100)
            case "imageMinimumGCAge":
                values["image_age_s"] = seconds(name, value)
            case "podPidsLimit":
                values["pids_max"] = _number(name, value, 16, 4_194_304)
            case "containerLogMaxSize":
                values["log_bytes_max"] = _bytes(name, value)
            case "containerLogMaxFiles":
                values["log_files_max"] = _number(name, value, 2, 100)
            case _:
                raise BadNodeConfig(f"{name}: nothing acts on this field; leave it out")
    config = NodeConfig(thresholds=(*hard.values(), *soft), **values)
    if config.image_low.of(10_000) < config.image_high.of(10_000):
        raise BadNodeConfig("imageGCLowThresholdPercent: must not be above imageGCHighThresholdPercent")
    return config


def _amounts(name: str, value: Any) -> dict[str, Amount]:
    if not isinstance(value, Mapping):
        raise BadNodeConfig(f"{name}: must name signals, for example memory.available: 100Mi")
    return {signal: _amount(f"{name}.{signal}", signal, least) for signal, least in value.items()}


def _amount(field_: str, signal: str, value: Any) -> Amount:
    if signal not in SIGNALS:
        raise BadNodeConfig(f"{field_}: unknown signal; there are {', '.join(SIGNALS)}")
    text = str(value)
    try:
        if text.endswith("%"):
            share = float(parse_quantity(text[:-1])) / 100
            if not 0 <= share <= 1:
                raise BadNodeConfig(f"{field_}: {text} must be from 0% to 100%")
            return Amount(share)
        return Amount(bound=_bytes(field_, value))
    except ValueError as err:
        if isinstance(err, BadNodeConfig):
            raise
        raise BadNodeConfig(f"{field_}: {err}") from None


def _bytes(name: str, value: Any) -> int:
    try:
        amount = whole(str(value))
    except ValueError as err:
        raise BadNodeConfig(f"{name}: {err}") from None
    if amount < 0:
        raise BadNodeConfig(f"{name}: {value} must not be negative")
    return amount


def _number(name: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadNodeConfig(f"{name}: {value} must be a whole number from {least} to {most}")
    return value


def seconds(name: str, value: Any) -> float:
    """A duration as Go writes it (`1m30s`). Raises `BadNodeConfig`."""
    text = str(value)
    found = _DURATION.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        raise BadNodeConfig(f"{name}: {text} is no duration; write one like 1m30s")
    return sum(float(number) * _UNITS_S[unit] for number, unit in found)
