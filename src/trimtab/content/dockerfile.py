"""A Dockerfile, through buildah where that is installed: it builds into a storage of our own, and hands over an OCI layout.

Its RUN steps are the user's code, run in a chroot. Timestamps are fixed, so that a build that makes the same files makes the
same image.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from trimtab.content import layout, oci
from trimtab.content.digest import Digest, parse_digest
from trimtab.content.errors import BadSpec, BuildFailed
from trimtab.content.spec import ImageSpec
from trimtab.content.store import ContentStore
from trimtab.content.tarwriter import EPOCH_S
from trimtab.content.tools import ToolFailed, run

PACKAGE = "buildah"


async def build_dockerfile(
    spec: ImageSpec, store: ContentStore, context: Path, tell: Callable[[str, float | None], None]
) -> tuple[Digest, list[oci.Descriptor]]:
    """The image's digest and layers. Raises BadSpec, BuildFailed."""
    assert spec.dockerfile is not None
    file = (context / spec.dockerfile).resolve()
    if not file.is_relative_to(context.resolve()) or not file.is_file():
        raise BadSpec(f"image {spec.name}: dockerfile: there is no {spec.dockerfile!r} in {context}")
    if shutil.which(PACKAGE) is None:
        raise BuildFailed(
            f"image {spec.name}: building from a Dockerfile needs {PACKAGE}; install it with `apt-get install {PACKAGE}`, "
            "or declare debian, python and files instead"
        )
    with file.open("rb"):
        pass  # closed to us: said by name here, while buildah would not say whose mode is wrong
    storage = store.directory / PACKAGE
    storage.mkdir(exist_ok=True)
    store.give_to_owner(storage)
    globals_ = ["--root", str(storage / "storage"), "--runroot", str(storage / "run"), "--storage-driver", "overlay"]
    image = f"localhost/trimtab/{spec.name}:latest"
    argv = [
        PACKAGE,
        *globals_,
        "bud",
        "--isolation",
        "chroot",
        "--layers",
        "--timestamp",
        str(EPOCH_S),
        "--format",
        "oci",
    ]
    argv += ["--file", str(file), "--tag", image]
    for name, value in sorted(spec.build_args.items()):
        argv += ["--build-arg", f"{name}={value}"]
    for name, value in sorted(spec.labels.items()):
        argv += ["--label", f"{name}={value}"]
    if spec.platform:
        argv += ["--platform", spec.platform]
    async with store.lock(PACKAGE):
        with store.work_directory(PACKAGE) as work:
            env = {"HOME": str(work)}
            push = [PACKAGE, *globals_, "push", "--format", "oci", image, f"oci:{work / 'layout'}:latest"]
            try:
                await run([*argv, str(context)], cwd=context, env=env, on_line=lambda line: tell(line, None))
                await run(push, cwd=context, env=env)
                await run([PACKAGE, *globals_, "rmi", "--prune", "--force"], cwd=context, env=env)  # superseded layers
            except ToolFailed as failure:
                raise BuildFailed(f"image {spec.name}: {spec.dockerfile}: {_reason(failure)}") from None
            finally:
                await _tidy([PACKAGE, *globals_, "rm", "--all"], storage / "storage" / "overlay", context)
            found = layout.import_directory(store, work / "layout")
    digest = parse_digest(next(iter(found.values())))
    _, manifest = oci.image_manifest(store, digest)
    return digest, manifest.layers


async def _tidy(remove_containers: list[str], mounted: Path, cwd: Path) -> None:
    """Removes what buildah leaves mounted: the container of a step that failed (or of a build that was killed), and its
    storage, which it mounts onto itself. Both would be in the way of whoever removes the directory.
    """
    with contextlib.suppress(ToolFailed):
        await run(remove_containers, cwd=cwd)
        if os.path.ismount(mounted):
            await run(["umount", str(mounted)], cwd=cwd)


def _reason(failure: ToolFailed) -> str:
    """buildah's last error line, without its level and position."""
    for line in reversed(failure.lines):
        if line.lower().startswith(("error", "level=error")) or "error" in line.lower():
            return line[:400]
    return str(failure)
