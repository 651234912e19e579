"""Volumes of pods: from the spec to directories on this node that are mounted into containers.

    DATA/node/pods/UID/volumes/NAME     emptyDir, ConfigMaps and facts about the pod (on disk)
    RUN/pods/UID/NAME                   Secrets and projected volumes (the run directory is memory where /run is)
    a path of the node                  hostPath and local persistent volumes, by PVC -> PV
    DATA/node/attached/NAME             volumes that move between nodes, mounted for as long as a pod here uses them
    DATA/node/pods/UID/attached         which of those a pod uses

`Volumes.prepare` is called whenever a pod is looked at: what stands is left alone, ConfigMaps and Secrets are replaced
atomically when they changed. Nothing is ever written through a link that a container could have made.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from trimtab.api.core import ConfigMap, HostPathVolume, Pod, Secret, Volume
from trimtab.api.quantity import whole
from trimtab.api.storage import VolumeAttachment, attachment_name
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.node.environment import ConfigProblem, Lookup
from trimtab.components.node.network import run
from trimtab.components.node.projected import Projector, configured_files
from trimtab.components.node.projection import project, safe_path
from trimtab.runtime.settings import Settings

EMPTY_DIR_MODE = 0o777


class VolumeProblem(RuntimeError):
    """A volume cannot be set up (yet); the text names it and says why. The reason is FailedMount."""


class VolumeWaits(VolumeProblem):
    """A volume is on its way (being attached): nothing is wrong yet, and the pod is looked at again when that changes."""


class BlockVolumes(Protocol):
    """Volumes that are attached to this node and have to be mounted here."""

    driver: str
    """Whose volumes they are (`spec.csi.driver`)."""

    async def stage(self, handle: str, attachment: str, *, read_only: bool) -> Path:
        """Mounts one, by the attachment with that uid. Idempotent. Raises RuntimeError: it cannot be mounted (now)."""

    async def unstage(self, handle: str) -> None:
        """Unmounts one. Idempotent. Raises RuntimeError: somebody on the node works in it."""

    def staged_at(self, handle: str) -> Path | None:
        """Where it is mounted, if it is."""


@dataclass(frozen=True)
class HostVolume:
    """Where a volume is on the node."""

    path: Path
    read_only: bool = False
    renew_at: datetime | None = None
    """When its content has to be looked at again although nothing changed: a token grows old."""


class Volumes:
    """All volumes of one node."""

    def __init__(self, settings: Settings, projector: Projector, block: BlockVolumes | None = None) -> None:
        """block: without them no pod can have a volume that moves between nodes."""
        self._projector = projector
        self._block = block
        self._node = settings.node_name
        self._pods = settings.data_path("node", "pods")
        self._secrets = settings.run_path("pods")
        self._local = settings.data_path("node", "volumes")

    def pod_directory(self, uid: str) -> Path:
        """What the agent keeps on disk about one pod: volumes, logs, hosts file."""
        return self._pods / uid

    async def prepare(self, pod: Pod, get: Lookup) -> dict[str, HostVolume]:
        """Makes every volume of `pod` so; returns them by name. Idempotent.

        Raises:
            VolumeProblem: the first one that cannot be set up.
        """
        out = {}
        for volume in pod.spec.volumes:
            try:
                out[volume.name] = await self._one(pod, volume, get)
            except ConfigProblem as err:
                raise VolumeProblem(f"volume {volume.name}: {err}") from None
            except OSError as err:
                raise VolumeProblem(f"volume {volume.name}: {err.strerror}: {err.filename}") from None
        return out

    async def _one(self, pod: Pod, volume: Volume, get: Lookup) -> HostVolume:
        fs_group = pod.spec.security_context.fs_group if pod.spec.security_context is not None else None
        uid, name = pod.metadata.uid, volume.name
        if volume.empty_dir is not None:
            path = self._pods / uid / "volumes" / name
            await self._empty_dir(path, volume, memory_limit(pod), fs_group)
            return HostVolume(path)
        if volume.config_map is not None:
            source = volume.config_map
            found = await get(ConfigMap, source.name, pod.namespace)
            if found is None and not source.optional:
                raise ConfigProblem(f'configmap "{source.name}" not found')
            files = configured_files(found, source.items, source.default_mode, optional=bool(source.optional))
            path = self._pods / uid / "volumes" / name
            project(path, files, fs_group)
            return HostVolume(path, read_only=True)
        if volume.secret is not None:
            wanted = volume.secret
            secret = await get(Secret, wanted.secret_name, pod.namespace)
            if secret is None and not wanted.optional:
                raise ConfigProblem(f'secret "{wanted.secret_name}" not found')
            files = configured_files(secret, wanted.items, wanted.default_mode, optional=bool(wanted.optional))
            path = self._secrets / uid / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            project(path, files, fs_group)
            return HostVolume(path, read_only=True)
        if volume.downward_api is not None:
            path = self._pods / uid / "volumes" / name
            project(
                path, self._projector.facts(pod, volume.downward_api.items, volume.downward_api.default_mode), fs_group
            )
            return HostVolume(path, read_only=True)
        if volume.projected is not None:
            path = self._secrets / uid / name
            files, renew_at = await self._projector.files(pod, volume.projected, get, path)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            project(path, files, fs_group)
            return HostVolume(path, read_only=True, renew_at=renew_at)
        if volume.host_path is not None:
            return HostVolume(host_path(volume.host_path))
        if volume.persistent_volume_claim is not None:
            claim = volume.persistent_volume_claim
            return await self._claimed(pod, claim.claim_name, bool(claim.read_only), fs_group, get)
        raise ConfigProblem(
            "its type is not supported; use emptyDir, configMap, secret, projected, hostPath or a claim"
        )

    async def _empty_dir(self, path: Path, volume: Volume, memory_max: int | None, fs_group: int | None) -> None:
        if path.is_dir():
            return
        path.mkdir(parents=True)
        assert volume.empty_dir is not None
        if volume.empty_dir.medium == "Memory":
            limits = [whole(volume.empty_dir.size_limit)] if volume.empty_dir.size_limit else []
            limits += [memory_max] if memory_max is not None else []
            size = f",size={min(limits)}" if limits else ""
            await run("mount", "-t", "tmpfs", "-o", f"mode=0777,nosuid,nodev{size}", "tmpfs", str(path))
        path.chmod(EMPTY_DIR_MODE)
        if fs_group is not None:
            os.chown(path, -1, fs_group)
            path.chmod(EMPTY_DIR_MODE | stat.S_ISGID)

    async def _claimed(self, pod: Pod, name: str, read_only: bool, fs_group: int | None, get: Lookup) -> HostVolume:
        claim = await get(PersistentVolumeClaim, name, pod.namespace)
        if claim is None:
            raise ConfigProblem(f'persistentvolumeclaim "{name}" not found')
        if not claim.spec.volume_name or claim.status.phase != "Bound":
            raise ConfigProblem(f'persistentvolumeclaim "{name}" is not bound to a volume yet')
        volume = await get(PersistentVolume, claim.spec.volume_name)
        if volume is None:
            raise ConfigProblem(f'persistentvolumeclaim "{name}" is bound to {claim.spec.volume_name}, which is gone')
        bound = volume.spec.claim_ref
        if bound is not None and bound.uid not in ("", claim.metadata.uid):
            raise ConfigProblem(f"persistentvolume {volume.name} belongs to another claim")
        if volume.spec.csi is not None:
            path, only_read = await self._attached(pod, volume, get)
            if fs_group is not None and not (read_only or only_read):
                await self._give(pod, name, path, fs_group)
            return HostVolume(path, read_only or only_read)
        if volume.spec.local is not None:
            path = Path(volume.spec.local.path)
        elif volume.spec.host_path is not None:
            path = host_path(volume.spec.host_path)
        else:
            raise ConfigProblem(
                f"persistentvolume {volume.name}: its type is not supported; use local, hostPath or a class of {self._block.driver if self._block else 'this engine'}"
            )
        if not path.is_dir():
            if not path.is_relative_to(self._local):
                raise ConfigProblem(f"persistentvolume {volume.name}: there is no directory {path} on this node")
            path.mkdir(parents=True)
            path.chmod(EMPTY_DIR_MODE)
        if fs_group is not None and not read_only:
            await self._give(pod, name, path, fs_group)
        return HostVolume(path, read_only)

    async def _give(self, pod: Pod, claim: str, path: Path, gid: int) -> None:
        """Lets the pod's group write in a volume, once in the pod's life: what the pod sets up later is left as it is."""
        done = self._pods / pod.metadata.uid / "given" / claim
        if done.exists():
            return
        security = pod.spec.security_context
        policy = security.fs_group_change_policy if security is not None else None
        await asyncio.to_thread(give_to_group, path, gid, always=policy != "OnRootMismatch")
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()

    async def _attached(self, pod: Pod, volume: PersistentVolume, get: Lookup) -> tuple[Path, bool]:
        """Mounts a volume that is attached to this node; returns where, and whether it may only be read."""
        source = volume.spec.csi
        assert source is not None
        if self._block is None or source.driver != self._block.driver:
            raise ConfigProblem(f"persistentvolume {volume.name}: there is no driver {source.driver} here")
        only_read = set(volume.spec.access_modes) == {"ReadOnlyMany"}
        if "ReadWriteOncePod" in volume.spec.access_modes and self._users_beside(
            pod.metadata.uid, source.volume_handle
        ):
            raise ConfigProblem(f"persistentvolume {volume.name}: another pod here still uses it (ReadWriteOncePod)")
        if (path := self._block.staged_at(source.volume_handle)) is not None:
            self._note_use(pod.metadata.uid, source.volume_handle)
            return path, only_read
        attachment = await get(VolumeAttachment, attachment_name(volume.name, source.driver, self._node))
        if attachment is None or not attachment.status.attached or attachment.metadata.deletion_timestamp is not None:
            said = attachment.status.attach_error if attachment is not None else None
            why = f": {said.message}" if said is not None and said.message else ""
            raise VolumeWaits(f"waiting for volume {volume.name} to be attached to {self._node}{why}")
        self._note_use(pod.metadata.uid, source.volume_handle)
        try:
            path = await self._block.stage(source.volume_handle, attachment.metadata.uid, read_only=only_read)
        except RuntimeError as err:
            raise ConfigProblem(f"persistentvolume {volume.name}: {err}") from None
        return path, only_read

    def _used_by(self, uid: str) -> list[str]:
        try:
            used: list[str] = json.loads((self._pods / uid / "attached").read_text())
            return used
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _users_beside(self, uid: str, handle: str) -> bool:
        """Whether another pod here uses an attached volume."""
        if not self._pods.is_dir():
            return False
        return any(handle in self._used_by(entry.name) for entry in os.scandir(self._pods) if entry.name != uid)

    def _note_use(self, uid: str, handle: str) -> None:
        """Before it is mounted: whatever happens then, the pod's end unmounts it."""
        used = self._used_by(uid)
        if handle not in used:
            (self._pods / uid).mkdir(parents=True, exist_ok=True)
            new = self._pods / uid / "attached.new"
            new.write_text(json.dumps([*used, handle]))
            new.rename(self._pods / uid / "attached")

    async def release(self, uid: str) -> None:
        """Unmounts the attached volumes that no other pod here uses. The pod's containers have ended. Idempotent.

        Raises:
            VolumeProblem: somebody on the node works in one.
        """
        used = self._used_by(uid)
        if not used or self._block is None:
            return
        for handle in used:
            if not self._users_beside(uid, handle):
                try:
                    await self._block.unstage(handle)
                except RuntimeError as err:
                    raise VolumeProblem(f"volume {handle}: {err}") from None
        (self._pods / uid / "attached").unlink(missing_ok=True)

    async def remove(self, uid: str) -> None:
        """Removes what was made for the pod; data of hostPath and persistent volumes stays. Idempotent.

        Raises:
            VolumeProblem: an attached volume cannot be unmounted.
        """
        await self.release(uid)
        for base in (self._pods / uid, self._secrets / uid):
            for mount in mounts_below(base):
                await run("umount", "--lazy", str(mount))
            if base.exists():
                await asyncio.to_thread(shutil.rmtree, base, ignore_errors=True)


def memory_limit(pod: Pod) -> int | None:
    """The memory that a pod's containers may have together, or None when one of them has no limit."""
    limits = [c.resources.limits.get("memory") if c.resources is not None else None for c in pod.spec.containers]
    found = [whole(limit) for limit in limits if limit is not None]
    return sum(found) if len(found) == len(limits) else None


_EXPECTED = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


def host_path(volume: HostPathVolume) -> Path:
    """The path of a hostPath volume, made where its type asks for that.

    Raises:
        ConfigProblem: what is there is not what the type says.
    """
    path, kind = Path(volume.path), volume.type or ""
    if not path.is_absolute() or ".." in path.parts:
        raise ConfigProblem(f"the host path {volume.path!r} must be absolute and without ..")
    if kind in ("", "DirectoryOrCreate") and not path.exists():
        path.mkdir(parents=True, mode=0o755)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    if kind in _EXPECTED:
        check, words = _EXPECTED[kind]
        if not path.exists() or not check(path.stat().st_mode):
            raise ConfigProblem(f"{volume.path} on this node is not {words}, as the hostPath's type {kind} says")
    return path


def give_to_group(path: Path, gid: int, *, always: bool) -> None:
    """Lets a group write everywhere below `path`; without `always`, unless its top shows that this was done before."""
    top = path.lstat()
    if not always and top.st_gid == gid and top.st_mode & stat.S_ISGID:
        return
    for directory, _, files in os.walk(path, topdown=False):
        for name in files:
            entry = os.path.join(directory, name)
            info = os.lstat(entry)
            if not stat.S_ISLNK(info.st_mode):
                os.chown(entry, -1, gid, follow_symlinks=False)
                os.chmod(entry, stat.S_IMODE(info.st_mode) | 0o660)
        mode = stat.S_IMODE(os.lstat(directory).st_mode)
        os.chown(directory, -1, gid, follow_symlinks=False)
        os.chmod(directory, mode | 0o770 | stat.S_ISGID)


def sub_path(volume: HostVolume, relative: str) -> Path:
    """The file or directory below a volume that a `subPath` names; made as a directory when it does not exist.

    Raises:
        ConfigProblem: it leads out of the volume, by `..` or by a link.
    """
    if not safe_path(relative):
        raise ConfigProblem(f"subPath {relative!r} must stay within the volume")
    wanted = volume.path / relative
    root = volume.path.resolve()
    resolved = wanted.resolve()
    if not resolved.is_relative_to(root):
        raise ConfigProblem(f"subPath {relative!r} is a link that leads out of the volume")
    if not resolved.exists():
        resolved.mkdir(parents=True)
        resolved.chmod(EMPTY_DIR_MODE if not volume.read_only else 0o755)
    return resolved


def mounts_below(base: Path) -> list[Path]:
    """Mount points at or below `base`, deepest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if Path(point).is_relative_to(base):
            found.append(Path(point))
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
