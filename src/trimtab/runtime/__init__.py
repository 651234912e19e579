"""Component, reconcilers, queues, effects, journal, leases, simulated time, the contract kit."""

from trimtab.runtime.component import (
    Admission,
    Command,
    Component,
    Denied,
    Desired,
    FieldWrite,
    Need,
    Owned,
    Posts,
    Reconciler,
    Requeue,
    Service,
    Store,
    View,
    Wait,
    Writes,
    reconciler,
)
from trimtab.runtime.context import Context, Undeclared

__all__ = [
    "Admission",
    "Command",
    "Component",
    "Context",
    "Denied",
    "Desired",
    "FieldWrite",
    "Need",
    "Owned",
    "Posts",
    "Reconciler",
    "Requeue",
    "Service",
    "Store",
    "Undeclared",
    "View",
    "Wait",
    "Writes",
    "reconciler",
]
