"""A data directory is deleted when nothing uses what is in it; what goes in a moment is waited for."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.engine import datadir, uninstall
from trimtab.engine.errors import EngineError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    (made / "volumes").mkdir(parents=True)
    (made / datadir.SETTINGS).write_text("{}")
    return made


@pytest.fixture
def device(data: Path) -> Iterator[str]:
    """A loop device over a file in it."""
    image = data / "volumes" / "v.img"
    image.write_bytes(bytes(1 << 20))
    attached = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
    if attached.returncode != 0:
        pytest.skip(f"no loop device can be had here: {attached.stderr.strip()}")
    name = attached.stdout.strip()
    yield name
    subprocess.run(["losetup", "--detach", name], capture_output=True, check=False)


def test_a_loop_device_that_goes_in_a_moment_is_waited_for(data: Path, device: str) -> None:
    assert [name for name, _ in uninstall.loops_below(data)] == [device.removeprefix("/dev/")]
    # Who has it open keeps it, though it was told to go: as another program does that looks at all devices.
    held = os.open(device, os.O_RDONLY)
    subprocess.run(["losetup", "--detach", device], check=True)
    letting_go = threading.Timer(0.5, os.close, (held,))
    letting_go.start()
    try:
        uninstall.delete(data)
    finally:
        letting_go.join()
    assert not data.exists()


def test_a_loop_device_that_stays_is_named(data: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uninstall, "LOOPS_GO_S", 0.3)
    name = device.removeprefix("/dev/")
    with pytest.raises(EngineError) as raised:
        uninstall.delete(data)
    assert str(raised.value) == (
        f"{device} still uses {data}/volumes/v.img: end what has it mounted (`grep -l {name} /proc/*/mounts`), then repeat this"
    )
    assert (data / datadir.SETTINGS).exists()
