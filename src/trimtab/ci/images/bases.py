"""Images that steps start from: resolved for the lock, and brought into the store when a step has to run.

    Base -> `resolve` -> digest in trimtab.lock         once; asks the registry, or builds of Debian packages
    Base, digest -> `bring` -> manifest in the store    when a step runs; fetches or builds what is not there

All of it is `content`'s work, which is asynchronous: each call here is a loop of its own, and blocks.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.ci.definition.values import Base
from trimtab.ci.runs.ports import EngineFault

if TYPE_CHECKING:
    from trimtab.content import ContentStore, ImageSpec

READY_MADE = "trimtab.local/postgres:"
"""`trimtab.local/postgres:15` is built here of Debian's packages, where no registry is reached."""
SHELL = ("coreutils", "dash", "findutils", "grep", "sed")
"""In every image of Debian packages: what `run("...")` needs, and the everyday programs."""

Tell = Callable[[str], None]


class Images:
    """The images of one run; each is brought once, whoever asks first. state: the directory of `trimtab ci`."""

    def __init__(self, state: Path, tell: Tell = lambda said: None) -> None:
        self._state = state
        self._tell = tell
        self._lock = threading.Lock()
        self._each: dict[str, threading.Lock] = {}
        self._here: dict[str, str] = {}

    def resolve(self, wanted: Iterable[Base]) -> dict[str, str]:
        """By name the digest of each, as it is now. Raises `EngineFault`."""
        found = {}
        for base in wanted:
            self._tell(f"resolving {base}")
            found[str(base)] = self._guarded(base, partial(self._resolved, base))
        return found

    def bring(self, base: Base, digest: str, *, whole: bool = False) -> str:
        """The digest of a manifest in the store, for this machine's platform; `whole`: of an index of those for all platforms
        of the base. Raises `EngineFault`."""
        if not base.platforms:
            return self._bring_one(base, digest)
        index = self._guarded(base, lambda: self._every(base, digest))
        return index if whole else self._guarded(base, lambda: self._own(base, index))

    def _bring_one(self, base: Base, digest: str) -> str:
        name = str(base)
        with self._lock:
            each = self._each.setdefault(name, threading.Lock())
        with each:
            if name not in self._here:
                self._here[name] = self._known(base, digest) or self._guarded(base, lambda: self._brought(base, digest))
            return self._here[name]

    def _known(self, base: Base, digest: str) -> str:
        """The digest, when the image was built here and is there still: nothing has to be loaded to see that."""
        here = (self._state / "blobs" / "sha256" / digest.removeprefix("sha256:")).exists()
        return digest if here and (base.reference is None or base.reference.startswith(READY_MADE)) else ""

    def _guarded(self, base: Base, call: Callable[[], str]) -> str:
        from trimtab.content import ContentError

        try:
            return call()
        except ContentError as err:
            raise EngineFault(f"image {base}: {err}") from None

    def _resolved(self, base: Base) -> str:
        import asyncio

        return asyncio.run(self._resolve(base))

    def _every(self, base: Base, digest: str) -> str:
        """The digest of an index in the store of what there is for each platform."""
        import asyncio

        from trimtab.ci.images import platforms

        with self._lock:
            each = self._each.setdefault(str(base), threading.Lock())
        with each:
            spec = spec_of(base)
            if spec is None:
                name = f"{(base.reference or '').partition('@')[0]}@{digest}"
                return asyncio.run(platforms.fetched(self._store(), name, base.platforms, self._tell))
            if (self._state / "blobs" / "sha256" / digest.removeprefix("sha256:")).exists():
                return digest
            return self._expected(base, asyncio.run(self._build_all(base, spec, refresh=False)), digest)

    def _own(self, base: Base, index: str) -> str:
        from trimtab.content import oci, parse_digest

        return oci.image_manifest(self._store(), parse_digest(index))[0].digest

    async def _build_all(self, base: Base, spec: ImageSpec, *, refresh: bool) -> str:
        """An index of the image for each platform."""
        import msgspec

        from trimtab.ci.images import platforms

        made = {}
        for one in base.platforms:
            name = f"{spec.name}-{one.rpartition('/')[2]}"
            part = msgspec.structs.replace(spec, name=name, platform=one)
            made[one] = await self._build(base, part, refresh=refresh)
        return platforms.indexed(self._store(), made)

    def _expected(self, base: Base, built: str, digest: str) -> str:
        if built != digest:
            raise EngineFault(
                f"image {base}: trimtab.lock says {digest[:19]}, Debian's packages of today make {built[:19]};"
                " `trimtab ci lock` takes them over"
            )
        return digest

    async def _resolve(self, base: Base) -> str:
        spec = spec_of(base)
        if spec is not None and base.platforms:
            return await self._build_all(base, spec, refresh=True)
        if spec is not None:
            return await self._build(base, spec, refresh=True)
        from trimtab.content import RegistryClient

        assert base.reference is not None
        async with RegistryClient(self._store()) as client:
            return (await client.resolve(base.reference)).digest

    def _brought(self, base: Base, digest: str) -> str:
        spec = spec_of(base)
        if spec is None:
            return self._fetched(base, digest)
        import asyncio

        self._tell(f"building {base}")
        return self._expected(base, asyncio.run(self._build(base, spec, refresh=False)), digest)

    def _fetched(self, base: Base, digest: str) -> str:
        import asyncio

        from trimtab.content import parse_reference

        store = self._store()
        reference = parse_reference(f"{(base.reference or '').partition('@')[0]}@{digest}")
        if (known := store.resolve(reference.tagged)) is not None and store.has(known):
            return known
        self._tell(f"fetching {base}")

        async def pull() -> str:
            from trimtab.content import RegistryClient

            async with RegistryClient(store) as client:
                return await client.pull(reference)

        return asyncio.run(pull())

    async def _build(self, base: Base, spec: ImageSpec, *, refresh: bool) -> str:
        from trimtab.content import build

        told: set[str] = set()

        def tell(name: str) -> None:
            if name not in told:
                told.add(name)
                self._tell(f"{base}: {name}")

        made = await build(spec, self._store(), lambda step: tell(step.name), context=self._state, refresh=refresh)
        return made.digest

    def _store(self) -> ContentStore:
        from trimtab.content import ContentStore

        return ContentStore(self._state)


def spec_of(base: Base) -> ImageSpec | None:
    """What to build for a base; None for one that a registry has. Raises `ContentError` (BadSpec)."""
    if base.reference is not None and not base.reference.startswith(READY_MADE):
        return None
    from trimtab.content import ImageSpec, postgres_image

    if base.reference is not None:
        return postgres_image(base.reference.removeprefix(READY_MADE))
    name = "ci/" + hashlib.sha256(str(base).encode()).hexdigest()[:16]
    return ImageSpec(
        name=name,
        debian=sorted({*SHELL, *base.debian}),
        python=list(base.python) if base.python else None,
        user="root",
    )
