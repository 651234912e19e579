"""The shape of a kind's special rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Protocol

from trimtab.api import JSON
from trimtab.server.allocation import ServiceAllocator
from trimtab.server.clock import Clock
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind


class Surroundings(Protocol):
    """What rules may look at besides the object."""

    clock: Clock
    services: ServiceAllocator

    def wrote(
        self,
        kind: Kind,
        verb: str,
        obj: JSON,
        old: JSON | None = None,
        *,
        manager: str = "",
        subresource: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """A change was committed. annotations: what webhooks want to have noted of it."""

    def default_of(self, collection: str, annotation: str) -> str:
        """The name of the object that is annotated as the default of its kind; empty when there is none."""

    def priority_class(self, name: str) -> JSON | None:
        """The PriorityClass of that name; of the empty name the one that is the default for all pods, if any."""

    def runtime_class(self, name: str) -> JSON | None:
        """The RuntimeClass of that name."""

    @property
    def identities(self) -> bool:
        """Whether pods are given tokens: where there is a CA by which they know the server."""

    def service_account(self, namespace: str, name: str) -> JSON | None:
        """A ServiceAccount."""

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """A namespace's labels; none where there is no such namespace."""

    def pods_of(self, namespace: str) -> Iterator[JSON]:
        """The pods of a namespace."""

    def limit_ranges(self, namespace: str) -> list[JSON]:
        """The LimitRanges of a namespace."""

    def quotas(self, namespace: str) -> list[JSON]:
        """The ResourceQuotas of a namespace."""

    def counted(self, quota: JSON) -> dict[str, Decimal]:
        """What a ResourceQuota counts now, under each name that it limits."""

    def name_holder(self, group: str, name: str) -> str | None:
        """The CRD that serves a plural, singular, kind or short name in a group."""


class Strategy:
    """No special rules. The steps run in this order."""

    def receive(self, kind: Kind, new: JSON) -> None:
        """Completes, in place, what was read, as its decoding and defaulting do: what follows from the object alone. The
        client owns these fields."""

    def admit(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> None:
        """Fills in, in place, what the cluster gives such an object: what admission plugins do. Runs again after webhooks have
        changed the object. Raises `StatusError` to refuse it."""

    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        """Fills in, in place, what the server decides; what is wrong with what it was asked. `old` is None on creation."""
        return []

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        """What is wrong with an object that its schema has accepted."""
        return []

    def part_problems(self, around: Surroundings, kind: Kind, subresource: str, new: JSON, old: JSON) -> list[Cause]:
        """As `problems`, for a write through a subresource that changes a part of the object."""
        return self.problems(around, kind, new, old)

    def status_problems(self, kind: Kind, new: JSON) -> list[Cause]:
        """What is wrong with a status that is written."""
        return []

    def complete(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> None:
        """Fills in, in place, what follows from a valid object."""

    def settled(self, around: Surroundings, key: str) -> None:
        """The write is over, whatever came of it."""
