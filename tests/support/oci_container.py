"""A built image, unpacked and run with runc, in the machine's own network: what a container of it really does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.content import ContentStore, Digest, oci, parse_digest

CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"
]  # fmt: skip


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    """Returns when the condition holds; fails after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.02)


def unpack(store: ContentStore, digest: Digest, directory: Path) -> oci.Config:
    """Writes the image's files below `directory`, owners included (needs root); returns its configuration."""
    directory.mkdir(parents=True)
    _, manifest = oci.image_manifest(store, digest)
    for layer in manifest.layers:
        with tarfile.open(store.path(parse_digest(layer.digest))) as tar:
            tar.extractall(directory, numeric_owner=True)
    return oci.read_config(store, manifest)


class Bundle:
    """An unpacked image and what runs in it. Each run is a new container over the same files."""

    def __init__(self, store: ContentStore, digest: Digest, directory: Path) -> None:
        self.root = directory / "rootfs"
        self.config = unpack(store, digest, self.root).config
        self._directory = directory
        self._names: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []

    def start(
        self,
        argv: Sequence[str] = (),
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> subprocess.Popen[str]:
        """The image's entrypoint with its own arguments, or with `argv`, as a child of ours."""
        name = f"trimtab-test-{uuid.uuid4().hex[:8]}"
        bundle = self._directory / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self._spec(name, argv, user, env or {}, mounts or {})))
        self._names.append(name)
        process = subprocess.Popen(
            ["runc", "--root", str(self._directory / "runc"), "run", "--bundle", str(bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        self._processes.append(process)
        return process

    def run(self, *argv: str, timeout_s: float = 60, **options: Any) -> tuple[int, str]:
        """Runs to the end; returns the exit code and what was written."""
        process = self.start(argv, **options)
        output, _ = process.communicate(timeout=timeout_s)
        return process.returncode, output

    def kill(self, process: subprocess.Popen[str], number: int = signal.SIGKILL) -> str:
        """Signals the container's first process and waits for its end; returns what was written."""
        subprocess.run(
            ["runc", "--root", str(self._directory / "runc"), "kill", self._names[-1], str(number)], check=True
        )
        output, _ = process.communicate(timeout=60)
        return output

    def close(self) -> None:
        for name in self._names:
            subprocess.run(
                ["runc", "--root", str(self._directory / "runc"), "delete", "--force", name], capture_output=True
            )
        for process in self._processes:
            process.communicate(timeout=60)
        shutil.rmtree(self._directory)

    def _spec(
        self, name: str, argv: Sequence[str], user: str | None, env: Mapping[str, str], mounts: Mapping[str, Path]
    ) -> dict[str, Any]:
        uid, _, gid = (user or self.config.user or "0:0").partition(":")
        entrypoint = self.config.entrypoint or []
        command = [*entrypoint, *argv] if argv or self.config.cmd is None else [*entrypoint, *self.config.cmd]
        named = dict(one.partition("=")[::2] for one in self.config.env) | dict(env)
        held = {kind: CAPABILITIES if int(uid) == 0 else [] for kind in ("effective", "permitted", "inheritable")}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": int(uid), "gid": int(gid or uid)},
                "args": command,
                "env": [f"{key}={value}" for key, value in named.items()],
                "cwd": self.config.working_dir or "/",
                "capabilities": {**held, "bounding": CAPABILITIES},
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.root)},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777"]},
                *(
                    {"destination": path, "type": "bind", "source": str(source), "options": ["rbind", "rw"]}
                    for path, source in mounts.items()
                ),
            ],
            "linux": {
                "cgroupsPath": f"/{name}",
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
            },
        }


@contextlib.contextmanager
def bundle(store: ContentStore, digest: Digest, directory: Path) -> Iterator[Bundle]:
    """A Bundle that is gone afterwards, whatever happened."""
    made = Bundle(store, digest, directory)
    try:
        yield made
    finally:
        made.close()
