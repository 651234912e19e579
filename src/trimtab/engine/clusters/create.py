"""Making throw-away clusters: places for all of them, then each is started by the `trimtab` command, several at a time.

    reap --> reserve (lease: this process) --> warden --> start, start, start ... --> manifests --> kubeconfigs --> the lease asked for

All or none: when one does not come up, those made beside it go again. While it works the lease is this process's own, so
whatever ends it, the warden removes what it had begun.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.confinement import calls
from trimtab.engine import accounts, datadir, lifecycle, privileges, programs
from trimtab.engine.clusters import copies, images, leases, places, remove, warden
from trimtab.engine.clusters.places import Cluster
from trimtab.engine.clusters.variants import Variant
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What `create` was asked for. `count` of each variant."""

    count: int = 1
    variants: tuple[Variant, ...] = (Variant(),)
    name: str | None = None
    nodes: int | None = None
    """Of each cluster whose variant does not say."""
    like: str | None = None
    """A frozen cluster that they begin as copies of."""
    jobs: int = remove.JOBS


def create(home: Path, wanted: Wanted, lease: leases.Lease, say: Say) -> list[Cluster]:
    """Makes these clusters and returns once each serves. `lease`: how long they are wanted from then on.

    Raises:
        EngineError: one did not come up, with its own line; none is left.
    """
    lifecycle.require_root("trimtab cluster create")
    try:
        remove.reap(home, say)
    except EngineError as err:  # what others have left must not be in the way of new ones
        say(str(err))
    like = _frozen(home, wanted.like) if wanted.like else None
    each = [variant for variant in wanted.variants for _ in range(wanted.count)]
    mine = leases.of_process(os.getpid())
    assert mine is not None
    prefixes = [(wanted.name or one.name or "cluster", one.name, one.chosen()) for one in each]
    made = places.reserve(home, prefixes, mine, numbered=len(each) > 1 or wanted.name is None)
    try:
        watcher = warden.spawn(str(home), [one.name for one in made])
        for one in made:
            one.warden = [watcher.pid, watcher.start]
            one.save()
        asyncio.run(_bring_up(home, wanted, list(zip(made, each, strict=True)), like, say))
    except BaseException:
        try:
            remove.remove(home, made, lambda line: None)
        except EngineError as err:
            say(str(err))
        raise
    for one in made:
        one.state, one.lease = "ready", lease
        one.save()
    return made


def _frozen(home: Path, name: str) -> Cluster:
    found = places.get(home, name)
    if found.state != "frozen":
        raise EngineError(f"cluster {name!r} is not frozen: run `trimtab cluster freeze {name}` first")
    return found


async def _bring_up(
    home: Path, wanted: Wanted, pairs: Sequence[tuple[Cluster, Variant]], like: Cluster | None, say: Say
) -> None:
    turn = asyncio.Semaphore(wanted.jobs)

    async def one(cluster: Cluster, variant: Variant) -> None:
        async with turn:
            try:
                await asyncio.to_thread(_furnish, home, cluster, variant, like)
            except OSError as err:
                raise datadir.disk_error(cluster.data, err) from None
            options = variant.start_options()
            if wanted.nodes and not variant.nodes and variant.node:
                options += ["--nodes", str(wanted.nodes)]
            await _command(cluster, say, "start", *options)
            for path in variant.manifests:
                await _command(cluster, say, "apply", "-f", str(path))
            places.write_kubeconfig(cluster)

    async with asyncio.TaskGroup() as tasks:
        for cluster, variant in pairs:
            tasks.create_task(one(cluster, variant))


def _furnish(home: Path, cluster: Cluster, variant: Variant, like: Cluster | None) -> None:
    """Puts into a new data directory what its engine is to find there."""
    if variant.upgrade_from is not None:
        copies.take_over(home, cluster, variant.upgrade_from)
    settings = cluster.settings()
    accounts.ensure_user(settings.user)
    if variant.issuer is not None:
        _give_issuer(settings, variant.issuer)
    images.give(home, settings)
    if like is not None:
        copies.clone(like.settings(), settings)


def _give_issuer(settings: Settings, issuer: tuple[Path, Path]) -> None:
    uid, gid = privileges.ids_of(settings.user)
    folder = settings.data_path("pki")
    folder.mkdir(mode=0o750)
    os.chown(folder, uid, gid)
    for source, name, mode in zip(issuer, ("ca.crt", "ca.key"), (0o644, 0o600), strict=True):
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(source.read_bytes())
            os.fchown(file.fileno(), uid, gid)


async def _command(cluster: Cluster, say: Say, *arguments: str) -> None:
    """Runs a command of the cluster's engine; it ends with this process. Its output is told, line by line.

    Raises:
        EngineError: it failed; its last line.
    """
    process = await asyncio.create_subprocess_exec(
        *programs.itself().command(cluster.data, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {programs.ITSELF: "1"},
        preexec_fn=calls.die_with_parent,
    )
    assert process.stdout is not None
    last = "?"
    try:
        async for raw in process.stdout:
            if line := raw.decode(errors="replace").strip():
                last = line.removeprefix("trimtab: ")
                say(f"{cluster.name}: {last}")
        status = await process.wait()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if status != 0:
        raise EngineError(f"cluster {cluster.name} was not made: {last}")
