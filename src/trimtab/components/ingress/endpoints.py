"""The life of an endpoint at the proxy, as a pure function: what should serve, what the files say, what Envoy says.

Per cluster and address there are three views. *Wanted* comes from the API: serve, drain (its pod is being deleted or
left the service), or absent (its containers are not ready, or it never was there). *Written* is what the endpoint file
says now; it also holds when a drain began, so that a controller that starts anew goes on where the last one stopped.
*Observed* is what Envoy's own admin interface reports. `step` compares them and says what to write next:

    absent -> written healthy -> Envoy lists it healthy            (now the pod may count as attached)
           -> written draining -> Envoy lists it draining, and it is idle -> written absent
           -> Envoy no longer lists it                             (now the pod may be told to stop)

Nothing moves on by time alone except a drain that has used up its limit. An endpoint that is wanted no more because its
containers failed skips the drain: new requests must not reach it for one moment longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

SETTLED_S = 0.05
"""Envoy's main thread, which answers the admin interface, hands a change to its workers asynchronously; a worker that is
late may still choose a draining endpoint. Idle therefore counts only once Envoy has reported the drain for so long."""

Address = str
"""`10.244.0.7:8080`."""


class Want(Enum):
    """ANNOUNCE: should serve as soon as its pod's condition says that it may be receiving requests; never in a file."""

    ANNOUNCE = "announce"
    SERVE = "serve"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Wanted:
    """drain_limit_s: how long a drain of this endpoint may take; after that it is removed with requests still active.
    pod: `namespace/name/uid` of the pod behind the address, "" where there is none."""

    want: Want
    drain_limit_s: float
    pod: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What the endpoint file says. draining_since: Unix seconds at which its drain began; None while it serves."""

    draining_since: float | None = None
    pod: str = ""

    @property
    def draining(self) -> bool:
        return self.draining_since is not None


@dataclass(frozen=True, slots=True)
class Observed:
    """What Envoy reports of a host. draining_for_s: since when it has been seen as draining; None while it serves."""

    draining_for_s: float | None
    active: int
    """Requests and upgraded connections in flight."""


class Phase(Enum):
    """Where an endpoint is on its way; `GONE` also for one that never was there."""

    ATTACHING = "attaching"
    UP = "up"
    DRAINING = "draining"
    LEAVING = "leaving"
    GONE = "gone"


@dataclass(frozen=True)
class Step:
    """write: the whole endpoint file of the cluster as it should be now. phases: of every address that is in any view.
    cut: addresses removed with requests still active, because their drain limit was used up."""

    write: dict[Address, Written]
    phases: dict[Address, Phase]
    cut: dict[Address, int]

    @property
    def moving(self) -> bool:
        """True while something waits for Envoy: look again soon."""
        return any(phase not in (Phase.UP, Phase.GONE) for phase in self.phases.values())


def step(
    wanted: Mapping[Address, Wanted],
    written: Mapping[Address, Written],
    observed: Mapping[Address, Observed] | None,
    now: float,
) -> Step:
    """One look at one cluster. `observed` is None while Envoy does not answer: then only limits move things on.

    An address that is written but not wanted at all is removed at once; whoever wants a drain says `Want.DRAIN`.
    """
    write: dict[Address, Written] = {}
    phases: dict[Address, Phase] = {}
    cut: dict[Address, int] = {}
    for address in sorted({*wanted, *written, *(observed or ())}):
        want = wanted.get(address)
        seen = observed.get(address) if observed is not None else None
        if want is None:
            phases[address] = _leaving(observed, seen)
        elif want.want is Want.SERVE:
            write[address] = Written(None, want.pod)
            up = address in written and not written[address].draining and seen and seen.draining_for_s is None
            phases[address] = Phase.UP if up else Phase.ATTACHING
        elif address not in written:
            phases[address] = _leaving(observed, seen)
        else:
            before = written[address]
            since = before.draining_since if before.draining_since is not None else now
            late = now - since >= want.drain_limit_s
            if late or (before.draining and _idle(observed, seen)):
                phases[address] = _leaving(observed, seen)
                if late and (seen is None or seen.active) and observed is not None:
                    cut[address] = seen.active if seen else 0
            else:
                write[address] = Written(since, want.pod)
                phases[address] = Phase.DRAINING
    return Step(write, phases, {address: active for address, active in cut.items() if active})


def _idle(observed: Mapping[Address, Observed] | None, seen: Observed | None) -> bool:
    """Envoy answers, and either has dropped the host already or has known the drain long enough and counts nothing."""
    if observed is None:
        return False
    if seen is None:
        return True
    return seen.draining_for_s is not None and seen.draining_for_s >= SETTLED_S and seen.active == 0


def _leaving(observed: Mapping[Address, Observed] | None, seen: Observed | None) -> Phase:
    """Out of the file; gone once Envoy answers and no longer lists it."""
    return Phase.GONE if observed is not None and seen is None else Phase.LEAVING
