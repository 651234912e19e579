"""Makes the image of a step that runs nothing: the image it starts from, the files that are added, how it is run.

    base (manifest in the store) + trees, merged as a step would see them -> content's builder -> an OCI image layout, as a tree

For several platforms it is made for each, and what the layout names is an index of them.

The builder is that of all of Trimtab's images: the same files make the same image, bit for bit, wherever and whenever.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.index import CacheError
from trimtab.ci.definition.graph import IMAGE
from trimtab.ci.images.awaiting import done
from trimtab.ci.runs.ports import EngineFault, Job, Outcome, Stop

if TYPE_CHECKING:
    from trimtab.content import ContentStore, ImageSpec

JSON = dict[str, Any]

MACHINES = {"linux/amd64": 62, "linux/arm64": 183}
"""What ELF calls the processors (EM_X86_64, EM_AARCH64)."""
BASE = "trimtab.local/ci/base"
"""The name under which the builder finds the image to start from."""


class ImageMaker:
    """An `Executor` of image steps. state: the directory of `trimtab ci`."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._blobs = Blobs(str(state))

    def execute(self, job: Job, write: Callable[[bytes], None], stop: Stop) -> Outcome:
        """Makes an image; its only output is its layout. Raises `EngineFault`."""
        from trimtab.content import ContentError

        began = time.monotonic()
        job.directory.mkdir(parents=True)
        try:
            files = self._merged(job)
            platforms = job.action.get("platforms", [])
            if foreign := _foreign(job.directory / "files", platforms):
                return Outcome("exit", 1, {}, time.monotonic() - began, said=foreign)
            made = done(self._build(job, files, lambda said: write(f"{said}\n".encode())), stop)
            if made is None:
                return Outcome(stop.reason or "cancelled", 1, {}, time.monotonic() - began)
            tree = self._laid_out(job, made)
            write(f"{made}\n".encode())
        except ContentError as err:
            return Outcome("exit", 1, {}, time.monotonic() - began, said=str(err))
        except (Lost, CacheError) as err:
            raise EngineFault(str(err)) from None
        except OSError as err:
            raise EngineFault(f"cannot write in {job.directory}: {err.strerror}; free some space") from None
        finally:
            shutil.rmtree(job.directory, ignore_errors=True)
        return Outcome("exit", 0, {IMAGE: tree}, time.monotonic() - began)

    def _merged(self, job: Job) -> dict[str, str]:
        """Lays the trees over each other as links; what stands at the top, by its path in the image."""
        root = job.directory / "files"
        root.mkdir()
        for laid in job.inputs:
            _lay(Path(self._blobs.materialise(laid.tree)), root / laid.to.lstrip("/"))
        return {f"/{one.name}": str(one.relative_to(self._state)) for one in sorted(root.iterdir())}

    async def _build(self, job: Job, files: dict[str, str], tell: Callable[[str], None]) -> str:
        from trimtab.content import build

        store = self._store()
        told: set[str] = set()

        def progress(step: Any) -> None:
            if step.name not in told:
                told.add(step.name)
                tell(step.name)

        platforms = job.action.get("platforms", [])
        if not platforms:
            return (await build(_spec(job, store, files, job.image), store, progress, context=self._state)).digest

        from trimtab.ci.images.platforms import indexed, listed

        below = listed(store, job.image)
        made = {}
        for one in platforms:
            tell(f"for {one}")
            told.clear()
            made[one] = (
                await build(_spec(job, store, files, below[one], one), store, progress, context=self._state)
            ).digest
        return indexed(store, made)

    def _laid_out(self, job: Job, digest: str) -> str:
        from trimtab.content import parse_digest
        from trimtab.content.layout import export_directory

        layout = job.directory / "layout"
        export_directory(self._store(), parse_digest(digest), "", layout)
        return self._blobs.capture(str(layout), take=True)[0]

    def _store(self) -> ContentStore:
        from trimtab.content import ContentStore

        return ContentStore(self._state)


def _foreign(files: Path, platforms: Sequence[str]) -> str:
    """One line about a program among the files that one of the platforms cannot run, or ""."""
    machines = {MACHINES[one]: one for one in platforms}
    if not machines:
        return ""
    for directory, _, names in os.walk(files):
        for name in names:
            path = Path(directory, name)
            if path.is_symlink():
                continue
            with path.open("rb") as file:
                head = file.read(20)
            if head[:4] != b"\x7fELF" or len(head) < 20:
                continue
            machine = int.from_bytes(head[18:20], "big" if head[5] == 2 else "little")
            unfit = [one for number, one in machines.items() if number != machine]
            if unfit:
                return (
                    f"/{path.relative_to(files)} is a program for one processor, and {unfit[0]} cannot run it; "
                    "make an image of its own for each platform, or add only what runs on all"
                )
    return ""


def _spec(job: Job, store: ContentStore, files: dict[str, str], image: str, platform: str | None = None) -> ImageSpec:
    from trimtab.content import ImageSpec, parse_digest, parse_reference

    base = parse_reference(f"{BASE}@{image}")
    store.tag(base.tagged, parse_digest(image))
    action = job.action
    name = "".join(c if c.isascii() and (c.islower() or c.isdigit()) else "-" for c in job.step.split("[")[0].lower())
    cwd = action.get("cwd", "")
    own = f"-{platform.rpartition('/')[2]}" if platform else ""
    return ImageSpec(
        name="ci/" + (name.strip("-") or "image") + own,
        from_=str(base),
        files=files,
        env=dict(action.get("env", {})),
        user=action.get("user") or None,
        workdir=cwd if cwd not in ("", "/") else None,
        entrypoint=action.get("entrypoint") or None,
        cmd=action.get("cmd") or None,
        platform=platform,
    )


def _lay(source: Path, target: Path) -> None:
    """Hard links to everything below `source`, over what is at `target`."""
    target.mkdir(parents=True, exist_ok=True)
    with os.scandir(source) as entries:
        for entry in entries:
            place = target / entry.name
            directory = entry.is_dir(follow_symlinks=False)
            if place.is_symlink() or (place.exists() and not (directory and place.is_dir())):
                shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
            if directory:
                _lay(Path(entry.path), place)
            elif entry.is_symlink():
                place.symlink_to(os.readlink(entry.path))
            else:
                os.link(entry.path, place)
