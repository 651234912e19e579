"""Building an image: spec in, digest out, and nothing of this machine or this minute in between.

    from / Debian base  ->  further Debian packages  ->  Python packages  ->  the user's files
         resolve, fetch        resolve, fetch             resolve, fetch        walk, hash
              |                     |                          |                    |
          one layer             one layer                  one layer            one layer      each cached by its inputs

Each layer is keyed by the hash of all that goes in; a key seen before costs a look-up. So an unchanged build reads the
user's files, looks up four records, composes the manifest, which is the same, and is done. What was resolved once stays
resolved, without network, until `refresh`. No step needs root: layers are written as tars, nothing is unpacked as root.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import msgspec

from trimtab.content import apt, oci
from trimtab.content.accounts import Accounts, Identity, with_user
from trimtab.content.apt import Deb
from trimtab.content.base import Ground, load_base
from trimtab.content.credentials import Credentials
from trimtab.content.digest import Digest, parse_digest
from trimtab.content.errors import BadSpec
from trimtab.content.files import files_layer
from trimtab.content.packages import packages_layer
from trimtab.content.requirements import Wheel, read_requirements, resolve_wheels
from trimtab.content.sbom import SBOM, bill_of_materials
from trimtab.content.spec import LOCAL_REGISTRY, ImageSpec
from trimtab.content.store import ContentStore
from trimtab.content.tarwriter import Layer
from trimtab.content.together import together
from trimtab.content.wheels import DEBIAN_PYTHON, PythonHome, wheels_layer

# A Debian Python without shell: the interpreter, its standard library, certificates, names of services, time zones, and
# the C++ library that manylinux wheels expect of every system (PEP 600).
PYTHON_BASE = (
    "base-files",
    "base-passwd",
    "ca-certificates",
    "libstdc++6",
    "netbase",
    "python3-minimal",
    "python3.11",
    "tzdata",
)
PYTHON_BASE_OMIT = ("openssl", "readline-common", "libtirpc-common")
DEBIAN_BASE = ("base-files", "base-passwd")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEFAULT_USER = "app"
_CREATED = "1980-01-01T00:00:00Z"  # the time of all files in layers; an image made of the same parts is the same image
_SBOM_ANNOTATION = "dev.trimtab.sbom"


class Step(msgspec.Struct, frozen=True):
    """Progress: which step of which image, how far (0 to 1, or unknown), and what exactly."""

    image: str
    name: str
    fraction: float | None = None
    detail: str = ""


class BuiltLayer(msgspec.Struct, frozen=True):
    """A layer of a built image, for people."""

    name: str
    digest: str
    size: int
    cached: bool


class BuiltImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a build came to. `ref` is what a pod names; `sbom` the digest of its bill of materials."""

    digest: Digest
    ref: str
    sbom: Digest | None
    layers: list[BuiltLayer]
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of all layers, compressed."""
        return sum(layer.size for layer in self.layers)


Progress = Callable[[Step], None]


async def build(
    spec: ImageSpec,
    store: ContentStore,
    progress: Progress | None = None,
    *,
    context: Path | str = ".",
    refresh: bool = False,
    credentials: Credentials | None = None,
) -> BuiltImage:
    """Builds the image, tags it `trimtab.local/NAME:latest`, and returns it. Same inputs, same digest, bit for bit.

    `context` is the project directory that `files` and requirement files are relative to. `refresh` resolves packages
    and the base image anew. Two builds of one name wait for each other. Raises BadSpec, BuildFailed and the registry
    errors, each one line; the old image stays tagged.
    """
    started = time.monotonic()
    spec.check()
    context = Path(context)
    report = progress or (lambda step: None)
    async with store.lock("in-use", shared=True), store.lock(f"build-{spec.name}"):
        if spec.dockerfile is not None:
            from trimtab.content.dockerfile import build_dockerfile

            def tell(detail: str, fraction: float | None) -> None:
                report(Step(spec.name, "dockerfile", fraction, detail))

            digest, made = await build_dockerfile(spec, store, context, tell)
            sbom: Digest | None = None
            layers = [BuiltLayer("dockerfile", one.digest, one.size, False) for one in made]
        else:
            digest, sbom, layers = await _Build(spec, store, context, report, refresh, credentials).run()
        store.tag_build(f"{LOCAL_REGISTRY}/{spec.name}", digest)
    seconds = time.monotonic() - started
    report(Step(spec.name, "built", 1.0, digest))
    return BuiltImage(
        digest=digest, ref=f"{LOCAL_REGISTRY}/{spec.name}@{digest}", sbom=sbom, layers=layers, seconds=seconds
    )


class _Build:
    """One build under its lock. `_ground` is what the layers so far amount to."""

    def __init__(
        self,
        spec: ImageSpec,
        store: ContentStore,
        context: Path,
        report: Progress,
        refresh: bool,
        credentials: Credentials | None,
    ) -> None:
        self._spec = spec
        self._store = store
        self._context = context
        self._report = report
        self._refresh = refresh
        self._credentials = credentials
        self._platform = oci.parse_platform(spec.platform) if spec.platform else oci.host_platform()
        self._ground = Ground()
        self._layers: list[BuiltLayer] = []
        self._debs: dict[str, Deb] = {}
        self._wheels: list[Wheel] = []
        self._licenses: dict[str, str] = {}

    async def run(self) -> tuple[Digest, Digest, list[BuiltLayer]]:
        spec = self._spec
        # What the user wrote is checked before anything is fetched.
        requirements = (
            read_requirements(spec.python, self._context, wheels_only=spec.wheels_only)
            if spec.python is not None
            else []
        )
        for source in spec.files.values():
            if not (self._context / source).exists():
                raise BadSpec(f"image {spec.name}: files: there is no {source!r} in {self._context}")
        if spec.from_ is not None:
            await self._base(spec.from_)
        home = self._ground.python if spec.from_ is not None else DEBIAN_PYTHON
        if requirements and home is None:
            raise BadSpec(
                f"image {spec.name}: python: {spec.from_} has no Python that packages could be put into; "
                "build on an image that has one, or leave `from` out"
            )
        # The network for wheels, while the processor unpacks packages.
        work: list[Coroutine[None, None, None]] = [self._debian()]
        if requirements and home is not None:
            work.append(self._resolve_wheels(requirements, home))
        await together(work)
        if requirements and home is not None:
            await self._install_wheels(home)
        identity = await self._files()
        return self._compose(identity)

    async def _base(self, reference: str) -> None:
        self._ground = await load_base(
            self._store,
            reference,
            self._platform,
            refresh=self._refresh,
            credentials=self._credentials,
            progress=self._teller("base image"),
        )
        self._layers.append(
            BuiltLayer("base image", self._ground.reference, sum(one.size for one in self._ground.layers), True)
        )

    async def _debian(self) -> None:
        """The base that this kind of image starts from, then the packages asked for."""
        spec = self._spec
        omit = list(spec.omit)
        if spec.from_ is None and spec.python is not None:
            await self._packages("python base", list(PYTHON_BASE), list(PYTHON_BASE_OMIT))
            self._ground.python = DEBIAN_PYTHON
            omit += PYTHON_BASE_OMIT
        if not spec.debian:
            return
        if spec.from_ is not None and not self._ground.status:
            raise BadSpec(f"image {spec.name}: debian: {spec.from_} is not a Debian image, so packages cannot be added")
        wanted = list(spec.debian) if self._ground.layers else sorted({*DEBIAN_BASE, *spec.debian})
        await self._packages("debian packages", wanted, omit, spec.exclude)

    async def _packages(self, name: str, packages: list[str], omit: list[str], exclude: Sequence[str] = ()) -> None:
        ground = self._ground
        found = await apt.resolve(
            self._store,
            packages,
            architecture=self._platform.architecture,
            omit=omit,
            installed=ground.status,
            refresh=self._refresh,
            progress=self._teller(name),
        )
        self._debs.update((one.name, one) for one in found.debs)
        if not found.debs:
            return
        async with self._store.lock("layer-" + " ".join(sorted(one.digest for one in found.debs))):
            made, cached = await packages_layer(
                self._store,
                found.debs,
                architecture=self._platform.architecture,
                below=ground.status,
                tree=ground.tree,
                python=ground.python.version if ground.python is not None else None,
                exclude=exclude,
                progress=self._teller(name),
            )
        ground.status, ground.tree = made.status, made.tree
        ground.accounts = made.accounts or ground.accounts
        if made.python == DEBIAN_PYTHON.version and ground.python is None:
            ground.python = DEBIAN_PYTHON
        self._add(name, made.layer, cached)

    async def _resolve_wheels(self, requirements: list[str], home: PythonHome) -> None:
        found = await resolve_wheels(
            self._store,
            requirements,
            python=home.version,
            architecture=self._platform.architecture,
            wheels_only=self._spec.wheels_only,
            refresh=self._refresh,
            progress=self._teller("python packages"),
        )
        self._wheels = found.wheels

    async def _install_wheels(self, home: PythonHome) -> None:
        made, cached = await wheels_layer(
            self._store, self._wheels, home, self._ground.tree, self._teller("python packages")
        )
        self._licenses = made.licenses
        self._add("python packages", made.layer, cached)

    async def _files(self) -> Identity | None:
        """The last layer. Returns whom the container runs as, None for whom the image below says."""
        spec, below = self._spec, self._ground.accounts
        user = spec.user
        if user is None and spec.python is not None and spec.from_ is None:
            user = _DEFAULT_USER
        accounts, identity = with_user(below or Accounts(), user, spec.uid, spec.workdir or "/")
        changed = accounts if user is not None and accounts != below else None
        self._teller("files")("", None)
        layer, cached = await files_layer(
            self._store,
            spec,
            self._context,
            accounts=changed,
            identity=identity,
            python=self._ground.python.version if self._ground.python is not None else None,
            tree=self._ground.tree,
        )
        if layer is not None:
            self._add("files", layer, cached)
        return identity if user is not None else None

    def _compose(self, identity: Identity | None) -> tuple[Digest, Digest, list[BuiltLayer]]:
        """Configuration, bill of materials, manifest."""
        spec, ground, store = self._spec, self._ground, self._store
        config = oci.Config(
            created=_CREATED,
            architecture=self._platform.architecture,
            os=self._platform.os,
            variant=self._platform.variant,
            config=_runtime(spec, ground.runtime, identity),
            rootfs=oci.RootFs(type="layers", diff_ids=ground.diff_ids),
            history=ground.history,
        )
        debs = [self._debs[name] for name in sorted(self._debs)]
        sbom = bill_of_materials(spec.name, debs, self._wheels, self._licenses, ground.reference or None)
        bill = store.put(sbom)
        annotations = {_SBOM_ANNOTATION: str(bill)}
        if ground.reference:
            annotations["org.opencontainers.image.base.name"] = ground.reference
        image = oci.put_document(
            store,
            oci.Manifest(
                schema_version=2,
                media_type=oci.MANIFEST,
                config=oci.put_document(store, config),
                layers=ground.layers,
                annotations=annotations,
            ),
        )
        attach(store, image, SBOM, bill)
        return parse_digest(image.digest), bill, self._layers

    def _add(self, name: str, layer: Layer, cached: bool) -> None:
        self._ground.layers.append(oci.Descriptor(media_type=oci.LAYER, digest=layer.digest, size=layer.size))
        self._ground.diff_ids.append(layer.diff_id)
        self._ground.history.append(oci.History(created=_CREATED, created_by=f"trimtab: {name}"))
        self._layers.append(BuiltLayer(name, layer.digest, layer.size, cached))

    def _teller(self, name: str) -> Callable[[str, float | None], None]:
        """Progress of one step, from whichever thread it is told, delivered in the loop's."""
        loop = asyncio.get_running_loop()

        def tell(detail: str, fraction: float | None) -> None:
            loop.call_soon_threadsafe(self._report, Step(self._spec.name, name, fraction, detail))

        return tell


def attach(store: ContentStore, image: oci.Descriptor, artifact_type: str, blob: Digest) -> Digest:
    """Makes a blob (a bill of materials, a signature) a referrer of an image; returns the referrer's digest."""
    empty = oci.Descriptor(media_type=oci.EMPTY, digest=store.put(b"{}"), size=2)
    content = oci.Descriptor(media_type=artifact_type, digest=blob, size=store.size(blob))
    referrer = oci.Manifest(
        schema_version=2,
        media_type=oci.MANIFEST,
        artifact_type=artifact_type,
        config=empty,
        layers=[content],
        subject=image,
    )
    return parse_digest(oci.put_document(store, referrer).digest)


def _runtime(spec: ImageSpec, below: oci.Runtime, identity: Identity | None) -> oci.Runtime:
    """How to run the image: what the spec says, else what the image below says."""
    env = dict(entry.partition("=")[::2] for entry in below.env)
    if "PATH" not in env:
        env["PATH"] = PATH
    if spec.python is not None and spec.from_ is None:
        env |= {"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= spec.env
    cmd = below.cmd if spec.entrypoint is None else None  # a new entrypoint does not want the old one's arguments
    return oci.Runtime(
        user=str(identity) if identity is not None else below.user,
        exposed_ports=below.exposed_ports | {f"{port}/tcp": {} for port in spec.ports},
        env=[f"{name}={value}" for name, value in env.items()],
        entrypoint=spec.entrypoint if spec.entrypoint is not None else below.entrypoint,
        cmd=spec.cmd if spec.cmd is not None else cmd,
        volumes=below.volumes,
        working_dir=spec.workdir or below.working_dir,
        labels=below.labels | spec.labels,
        stop_signal=spec.stop_signal or below.stop_signal,
    )
