"""A world for steps: a small image, a state directory that any user can be given, and running things as an ordinary user."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import tarfile
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from trimtab.ci.runs.ports import Job, Laid, Outcome, Stop
from trimtab.ci.sandbox.limits import Limits
from trimtab.ci.sandbox.space import remove_tree
from trimtab.ci.sandbox.steps import Sandbox
from trimtab.content import (  # noqa: F401  # an ordinary user may not be able to read them later
    ContentStore,
    oci,
    tarreader,
)
from trimtab.content.digest import digest_of, parse_digest
from trimtab.content.tarwriter import LayerWriter

NOBODY = 65534
BUSYBOX = Path("/bin/busybox")
APPLETS = [
    "sh",
    "cat",
    "echo",
    "ls",
    "sleep",
    "true",
    "false",
    "id",
    "env",
    "mkdir",
    "rm",
    "touch",
    "dd",
    "nc",
    "nslookup",
    "ping",
    "ip",
    "ps",
    "kill",
    "head",
    "stat",
    "readlink",
    "chmod",
    "ln",
    "wc",
    "seq",
    "grep",
    "sync",
    "test",
    "setsid",
    "hostname",
    "mount",
    "nohup",
    "cp",
    "mv",
    "find",
]
T = TypeVar("T")


def busybox_image(state: Path, *more: bytes, env: Sequence[str] = (), user: str = "", cmd: Sequence[str] = ()) -> str:
    """An image with busybox, users `root` and `app` (1000); more: further layers, as tars. Its digest."""
    store = ContentStore(state)
    digest, inside, data = _busybox_layer()
    store.put(data)
    layers = [oci.Descriptor(media_type=oci.LAYER, digest=digest, size=len(data))]
    unpacked = [inside, *(digest_of(one) for one in more)]
    for data in more:
        kind = "application/vnd.oci.image.layer.v1.tar"
        layers.append(oci.Descriptor(media_type=kind, digest=store.put(data), size=len(data)))
    config = oci.Config(
        architecture=oci.host_platform().architecture,
        os="linux",
        config=oci.Runtime(env=list(env), user=user, cmd=list(cmd) or None),
        rootfs=oci.RootFs(type="layers", diff_ids=unpacked),
    )
    manifest = oci.Manifest(
        schema_version=2, media_type=oci.MANIFEST, config=oci.put_document(store, config), layers=layers
    )
    return oci.put_document(store, manifest).digest


@cache
def _busybox_layer() -> tuple[str, str, bytes]:
    """Its digest, that of the tar inside, and its bytes; made once, since compressing it takes longer than most tests."""
    with tempfile.TemporaryDirectory() as directory:
        store = ContentStore(directory)
        with store.ingest() as ingest:
            writer = LayerWriter(ingest)
            for path in ("bin", "etc", "tmp", "work"):
                writer.directory(path, mode=0o1777 if path == "tmp" else 0o755)
            writer.file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
            for applet in APPLETS:
                writer.symlink(f"bin/{applet}", "busybox")
            writer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")
            writer.file("etc/group", b"root:x:0:\napp:x:1000:\n")
            layer = writer.finish()
        return layer.digest, layer.diff_id, store.path(parse_digest(layer.digest)).read_bytes()


def layer_of(*entries: tuple[str, dict[str, Any], bytes]) -> bytes:
    """A tar of these entries: name, attributes of its TarInfo, content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, attributes, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o644
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class World:
    """A state directory with an image in it, and steps run there. nobody: as an ordinary user, in a process of its own."""

    def __init__(self, state: Path, *, nobody: bool) -> None:
        self.state = state
        self.nobody = nobody
        self.image = busybox_image(state)
        self.count = 0
        self.handed_over = False

    def hand_over(self) -> None:
        """Gives all to the ordinary user, once the images are there."""
        if self.nobody and not self.handed_over:
            own(self.state)
            self.handed_over = True

    def job(
        self,
        *commands: str,
        image: str = "",
        outputs: Mapping[str, str] | None = None,
        inputs: Sequence[Laid] = (),
        services: Mapping[str, Job] | None = None,
        secrets: Mapping[str, str] | None = None,
        memory_bytes: int = 0,
        **action: Any,
    ) -> Job:
        self.count += 1
        doc: dict[str, Any] = {
            "runs": [{"argv": ["/bin/sh", "-ec", command]} for command in commands],
            "outputs": [{"name": name, "path": path} for name, path in (outputs or {}).items()],
            "cwd": "/work",
            **action,
        }
        return Job(
            f"step{self.count}",
            doc,
            image or self.image,
            tuple(inputs),
            self.state / "uppers" / f"run-{self.count}",
            dict(services or {}),
            dict(secrets or {}),
            memory_bytes=memory_bytes,
        )

    def run(
        self,
        job: Job,
        limits: Limits | None = None,
        *,
        stop: Stop | None = None,
        on_output: Callable[[bytes, Stop], None] | None = None,
    ) -> tuple[Outcome, str]:
        """How a job ended, and what it printed."""
        self.hand_over()

        def execute() -> tuple[Outcome, bytes]:
            said: list[bytes] = []
            asked = stop or Stop()

            def write(data: bytes) -> None:
                said.append(data)
                if on_output is not None:
                    on_output(data, asked)

            outcome = Sandbox(self.state, limits).execute(job, write, asked)
            return outcome, b"".join(said)

        outcome, said = as_nobody(execute) if self.nobody else execute()
        return outcome, said.decode(errors="replace")


@contextmanager
def world(*, nobody: bool) -> Iterator[World]:
    """Not below pytest's own directory, which it closes to all other users whenever a session begins."""
    top = Path(tempfile.mkdtemp(prefix="trimtab-ci-"))
    top.chmod(0o755)
    try:
        yield World(top / "ci", nobody=nobody)
    finally:
        remove_tree(top)


def own(directory: Path) -> None:
    """Gives a directory and all in it to the ordinary user."""
    os.chown(directory, NOBODY, NOBODY)
    for path, directories, files in os.walk(directory):
        for name in (*directories, *files):
            os.chown(os.path.join(path, name), NOBODY, NOBODY, follow_symlinks=False)


def as_nobody(function: Callable[[], T]) -> T:
    """What the function gives when an ordinary user without capabilities calls it, in a process of its own."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of a fork beside threads: only this one goes on in the child
        pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self is ours again
            try:
                answer = pickle.dumps((True, function()))
            except BaseException as err:
                trace = traceback.format_exc()
                try:
                    answer = pickle.dumps((False, err))
                except Exception:
                    answer = pickle.dumps((False, RuntimeError(trace)))
            with os.fdopen(write, "wb") as file:
                file.write(answer)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    if not data:
        raise RuntimeError(
            f"the ordinary user's process ended with {os.waitstatus_to_exitcode(status)} and said nothing"
        )
    succeeded, value = pickle.loads(data)
    if not succeeded:
        raise value
    return value  # type: ignore[no-any-return]


def stop_after(stop: Stop, seconds: float, reason: Any) -> threading.Timer:
    """Asks for the end after a while, as the schedule does."""
    timer = threading.Timer(seconds, stop.ask, [reason])
    timer.daemon = True
    timer.start()
    return timer
