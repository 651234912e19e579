"""How many pods each ReplicaSet of a Deployment should have next: the arithmetic of a rollout, without any I/O.

A rolling update walks in steps. Each step looks at what is there now and gives targets that keep two promises however
the pods behave: at most `replicas + surge` pods are asked for, and a pod that serves is taken away only while at least
`replicas - unavailable` others serve. A step needs no memory of the one before, so it does not matter who else scaled
what, how often it is repeated, or how old the numbers are, as long as they are not too good:

* a ReplicaSet never has more available pods than it was asked for, since it deletes the unready first;
* it may still have more pods than it is asked for now: those that it reports, and until it has reported on its latest
  size, those that it was asked for before (its *peak*). All of them take up room.

The rules for what may be taken away are those of Kubernetes' deployment controller (`rolling.go`). Unlike it, a change of
size in mid-rollout needs no bookkeeping in annotations: when growing, the old version gets its share of the new room
as long as it must carry the availability; when shrinking, unready new pods go before serving old ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

DEFAULT_SHARE = "25%"


@dataclass(frozen=True)
class Scale:
    """One ReplicaSet: pods asked for, and as reported: pods there (those being deleted not counted), pods available.

    `peak` is the most that it may have made, when it has not reported on its latest size yet; else 0.
    """

    name: str
    replicas: int
    present: int
    available: int
    peak: int = 0

    @property
    def room(self) -> int:
        """The number of pods that it may have."""
        return max(self.replicas, self.present, self.peak)

    def peak_after(self, target: int) -> int:
        """The peak to remember with a new target; 0 when there is none to remember."""
        return self.room if target < self.replicas or self.peak else 0

    @property
    def serving(self) -> int:
        """Available pods that certainly remain at the present target."""
        return min(self.available, self.replicas)


@dataclass(frozen=True)
class Bounds:
    """A Deployment's size and strategy in whole pods. `surge` and `unavailable` are never both 0."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def most(self) -> int:
        """The number of pods that may be asked for in total."""
        return self.replicas + self.surge if self.replicas else 0

    @property
    def fewest(self) -> int:
        """The number of pods that must stay available."""
        return max(0, self.replicas - self.unavailable)


def bounds(replicas: int, surge: int | str | None, unavailable: int | str | None) -> Bounds:
    """Resolves percentages: surge is rounded up, unavailable down; if both come to 0, one may be unavailable.

    Raises:
        ValueError: neither a number nor a percentage.
    """
    up = resolve(DEFAULT_SHARE if surge is None else surge, replicas, up=True)
    down = resolve(DEFAULT_SHARE if unavailable is None else unavailable, replicas, up=False)
    if up == 0 and down == 0:
        down = 1
    return Bounds(replicas, up, down)


def resolve(share: int | str, of: int, *, up: bool) -> int:
    """`3` is 3; `"25%"` is a quarter of `of`, rounded up or down.

    Raises:
        ValueError: neither a number nor a percentage.
    """
    if isinstance(share, int):
        return share
    if not share.endswith("%") or not share[:-1].isdigit():
        raise ValueError(f'"{share}" is neither a number nor a percentage such as 25%')
    exact = Fraction(int(share[:-1]) * of, 100)
    return ceil(exact) if up else floor(exact)


def rolling(size: Bounds, new: Scale, old: Sequence[Scale]) -> dict[str, int]:
    """The next targets of a rolling update by ReplicaSet name; `old` oldest first."""
    targets = {scale.name: scale.replicas for scale in (*old, new)}
    room = size.most - sum(scale.room for scale in (*old, new))
    if room > 0:
        room -= _carry(size, new, old, targets, room)
    targets[new.name] = min(size.replicas, new.replicas + max(0, room))
    _retire(size, new, old, targets)
    surplus = sum(targets.values()) - size.most
    if surplus > 0:
        serving = min(new.serving, targets[new.name])
        targets[new.name] = max(serving, targets[new.name] - surplus)
    return targets


def _carry(size: Bounds, new: Scale, old: Sequence[Scale], targets: dict[str, int], room: int) -> int:
    """Lets the largest old ReplicaSet grow when old and available new pods are too few; returns by how many.

    That is so only after the Deployment was scaled up in mid-rollout: if the new version is broken, the old one must
    still carry the load. Its share of the room is rounded to the nearest pod, as Kubernetes does.
    """
    carriers = [scale for scale in old if scale.replicas > 0]
    short = size.fewest - sum(scale.replicas for scale in old) - new.serving
    if not carriers or short <= 0:
        return 0
    old_size = sum(scale.replicas for scale in carriers)
    share = max(1, floor(Fraction(room * old_size, old_size + new.replicas) + Fraction(1, 2)))
    grown = min(short, share, room)
    largest = max(carriers, key=lambda scale: scale.replicas)
    targets[largest.name] += grown
    return grown


def _retire(size: Bounds, new: Scale, old: Sequence[Scale], targets: dict[str, int]) -> None:
    """Scales old ReplicaSets down, as far as availability allows: pods that do not serve first, then the oldest."""
    new_target = targets[new.name]
    new_serving = min(new.serving, new_target)
    spare = sum(targets[scale.name] for scale in old) + new_serving - size.fewest
    for scale in old:
        idle = targets[scale.name] - min(scale.serving, targets[scale.name])
        taken = min(idle, max(0, spare))
        targets[scale.name] -= taken
        spare -= taken
    spare = sum(min(scale.serving, targets[scale.name]) for scale in old) + new_serving - size.fewest
    for scale in old:
        taken = min(targets[scale.name], max(0, spare))
        targets[scale.name] -= taken
        spare -= taken


def recreate(size: Bounds, new: Scale, old: Sequence[Scale], old_pods: int) -> dict[str, int]:
    """Targets of the Recreate strategy: none of the old, then, once no old pod is left at all, all of the new."""
    targets = {scale.name: 0 for scale in old}
    gone = old_pods == 0 and all(scale.replicas == 0 and scale.present == 0 for scale in old)
    targets[new.name] = size.replicas if gone else min(new.replicas, size.replicas)
    return targets


def paused(size: Bounds, scales: Sequence[Scale]) -> dict[str, int]:
    """Targets while paused: nothing moves between versions; a change of size is shared out by size. Newest last."""
    targets = {scale.name: scale.replicas for scale in scales}
    running = [scale for scale in scales if scale.replicas > 0]
    if not scales:
        return targets
    if len(running) <= 1:
        targets[(running or list(scales)[-1:])[0].name] = size.replicas
        return targets
    total = sum(targets.values())
    goal = min(max(total, size.replicas), size.most)
    if goal != total:
        targets.update(_apportion(goal, running))
    return targets


def _apportion(goal: int, scales: Sequence[Scale]) -> dict[str, int]:
    """Shares `goal` in proportion to present sizes, by largest remainder; larger and newer first among equals."""
    total = sum(scale.replicas for scale in scales)
    exact = {scale.name: Fraction(goal * scale.replicas, total) for scale in scales}
    shares = {name: floor(share) for name, share in exact.items()}
    newest_first = list(scales)[::-1]
    newest_first.sort(key=lambda s: (shares[s.name] - exact[s.name], -s.replicas))
    for scale in newest_first[: goal - sum(shares.values())]:
        shares[scale.name] += 1
    return shares
