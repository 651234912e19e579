"""Sends an image to a registry, by digest, signed and with a statement of how it came to be. Once for each image: its key is a step's.

an image step's layout -> the store -> the registry -> signature, provenance -> the reference, as a file for other steps
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.index import CacheError
from trimtab.ci.images.awaiting import done
from trimtab.ci.runs.ports import EngineFault, Job, Outcome, Stop

if TYPE_CHECKING:
    from trimtab.content import ContentStore, Reference

OUTPUT = "reference"
"""The output of publishing: a file of this name with `HOST/NAME@sha256:...` in it."""
AUTH, SIGN = "AUTH", "SIGN"
"""The secrets of a publishing step: `user:password` at the registry, and a private key in PEM."""
BUILDER = "https://trimtab.dev/ci"
ENGINE = "trimtab.local"
"""The registry name of an engine's own images. The engine that runs a pipeline takes them from its results."""
ENGINE_RUNS = "TRIMTAB_CI_ENGINE"
"""Set where an engine runs the pipeline."""


@dataclass(frozen=True)
class Origin:
    """Of which run an image is. images: by name the digests that its steps started from; commit: of the project, "" if unknown."""

    run: str
    pipeline: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""


class Publisher:
    """An `Executor` of publishing steps."""

    def __init__(self, state: Path, origin: Origin) -> None:
        self._state = state
        self._origin = origin
        self._blobs = Blobs(str(state))

    def execute(self, job: Job, write: Callable[[bytes], None], stop: Stop) -> Outcome:
        """Publishes the image in the job's only input. Raises `EngineFault`."""
        from trimtab.content import ContentError, ContentStore

        began = time.monotonic()
        job.directory.mkdir(parents=True)
        try:
            layout = Path(self._blobs.materialise(job.inputs[0].tree))
            work = self._publish(job, ContentStore(self._state), layout, lambda said: write(f"{said}\n".encode()))
            reference = done(work, stop)
            if reference is None:
                return Outcome(stop.reason or "cancelled", 1, {}, time.monotonic() - began)
            file = job.directory / OUTPUT
            file.write_text(f"{reference}\n")
            tree = self._blobs.capture(str(file))[0]
        except ContentError as err:
            return Outcome("exit", 1, {}, time.monotonic() - began, said=str(err))
        except (Lost, CacheError) as err:
            raise EngineFault(str(err)) from None
        finally:
            shutil.rmtree(job.directory, ignore_errors=True)
        return Outcome("exit", 0, {OUTPUT: tree}, time.monotonic() - began)

    async def _publish(self, job: Job, store: ContentStore, layout: Path, tell: Callable[[str], None]) -> str:
        from trimtab.content import Credentials, Login, Reference, RegistryClient, parse_reference
        from trimtab.content.layout import import_directory

        began = datetime.now(UTC)
        push = job.action["push"]
        (digest,) = import_directory(store, layout).values()
        to = parse_reference(push["reference"])
        if to.registry == ENGINE:
            return _for_the_engine(Reference(to.registry, to.repository, "", digest))
        credentials = Credentials.load()
        if AUTH in job.secrets:
            user, _, password = job.secrets[AUTH].partition(":")
            credentials = Credentials(logins={to.registry: Login(user, password)})
        async with RegistryClient(store, credentials=credentials) as client:
            exact = Reference(to.registry, to.repository, "", digest)
            await client.push(digest, exact)
            tell(f"pushed {exact}")
            if push["signed"]:
                await self._sign(client, store, exact, job, began)
                tell("signed, with its provenance")
            for tag in push["tags"]:  # last: whoever sees the tag can check the signature
                await client.push(digest, Reference(to.registry, to.repository, tag), referrers=False)
                tell(f"tagged {tag}")
        return str(exact)

    async def _sign(self, client: Any, store: ContentStore, image: Reference, job: Job, began: datetime) -> None:
        from trimtab.content import provenance, signing

        key = signing.SigningKey(job.secrets[SIGN])
        origin = self._origin
        materials = [_material(name, digest) for name, digest in sorted(origin.images.items())]
        if origin.commit:
            materials.append(provenance.Material(f"git+commit:{origin.commit}", {"gitCommit": origin.commit}))
        assert image.digest is not None
        said = provenance.statement(
            image.name,
            image.digest,
            builder=BUILDER,
            run=origin.run,
            step=job.step,
            parameters={"pipeline": origin.pipeline, **origin.parameters},
            materials=materials,
            started=began,
            finished=datetime.now(UTC),
        )
        await signing.sign(client, store, image, key)
        await signing.attest(client, store, image, said, key)


def reference_of(blobs: Blobs, outputs: Mapping[str, str]) -> str:
    """`HOST/NAME@sha256:...`, as a publishing step has left it. Raises `EngineFault`."""
    try:
        return (Path(blobs.materialise(outputs[OUTPUT])) / OUTPUT).read_text().strip()
    except (Lost, CacheError) as err:
        raise EngineFault(str(err)) from None


def _for_the_engine(image: Reference) -> str:
    """Raises `ContentError` where no engine runs the pipeline."""
    from trimtab.content import ContentError

    if ENGINE_RUNS not in os.environ:
        raise ContentError(
            f"{image.name} is of the engine that runs the pipeline, and this run is nobody's: push to a Pipeline of an engine, or "
            "publish to a registry"
        )
    return str(image)


def _material(name: str, digest: str) -> Any:
    from trimtab.content.provenance import Material

    kind = "deb+" if name.startswith("debian:") else "oci://"
    return Material(kind + re.sub(r"@sha256:.*", "", name), {"sha256": digest.removeprefix("sha256:")})
