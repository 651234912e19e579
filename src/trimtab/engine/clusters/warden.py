"""The warden of a `create`: a small process that waits until a lease ends, then has what nobody wants any more removed.

    create --spawn--> warden --waits (pidfds, no polling)--> `trimtab cluster reap`

It sleeps in the kernel until one of the owners ends or the next lease runs out, and ends itself once there is nothing left to
wait for. Should it be killed too, the next `create` or `reap` does its work. Only the standard library.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time

from trimtab.engine.clusters.leases import Lease, from_json
from trimtab.engine.procfs import Identity, identity, pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_POLL_S_MAX = 86_400.0
"""poll(2) takes milliseconds as a C int; a longer lease is simply looked at once a day."""


def spawn(home: str, names: Sequence[str]) -> Identity:
    """Starts a warden over these clusters, whose records must be there already."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    boot = f"import sys; sys.path.insert(0, {source!r}); from trimtab.engine.clusters.warden import main; main()"
    argv = [sys.executable, "-I", "-S", "-c", boot, home, *names]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    process.returncode = 0  # it outlives us: nobody waits for it here
    found = identity(process.pid)
    assert found is not None
    return found


def leases_of(home: str, names: Sequence[str]) -> dict[str, Lease]:
    """The leases that can end by themselves, of those of these clusters that are still there."""
    found = {}
    for name in names:
        try:
            with open(os.path.join(home, name, "cluster.json"), encoding="utf-8") as file:
                lease = from_json(json.load(file)["lease"])
        except (OSError, ValueError, KeyError):
            continue
        if lease.ends:
            found[name] = lease
    return found


def watch(home: str, names: Sequence[str]) -> None:
    """Returns when there is nothing left to wait for."""
    while leases := leases_of(home, names):
        if any(lease.is_over() for lease in leases.values()):
            argv = [sys.executable, "-I", "-m", "trimtab.cli", "cluster", "--clusters", home, "reap"]
            subprocess.run(argv, env=os.environ | {"TRIMTAB_ITSELF": "1"}, check=False, start_new_session=True)
            names = [name for name, lease in leases.items() if not lease.is_over()]
            continue
        _wait_for_one(list(leases.values()))


def _wait_for_one(leases: Sequence[Lease]) -> None:
    """Until an owner ends or a lease runs out."""
    poll = select.poll()
    handles = []
    for lease in leases:
        if lease.owner is not None and (handle := pidfd(lease.owner)) is not None:
            handles.append(handle)
            poll.register(handle, select.POLLIN)
        elif lease.owner is not None:
            break  # ended just now
    else:
        ends = [lease.until_s - time.time() for lease in leases if lease.until_s is not None]
        poll.poll(max(0.0, min([*ends, _POLL_S_MAX])) * 1000 + 1)
    for handle in handles:
        os.close(handle)


def main() -> None:
    watch(sys.argv[1], sys.argv[2:])
