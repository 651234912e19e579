"""Tools of the host: killed with the build, unprivileged, quoted in one line."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from trimtab.content import BuildFailed, DiskFull
from trimtab.content.tools import ToolFailed, environment, run


async def test_a_cancelled_build_takes_its_tool_along(tmp_path: Path) -> None:
    pids: list[int] = []
    known = asyncio.Event()
    script = "import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()\n"

    def note(line: str) -> None:
        pids.append(int(line))
        known.set()

    task = asyncio.create_task(run(["python3", "-c", script], cwd=tmp_path, on_line=note))
    async with asyncio.timeout(60):
        await known.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{pids[0]}").exists()


async def test_a_failing_tool_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed) as failed:
        await run(["sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3"], cwd=tmp_path)
    assert str(failed.value) == "sh failed (3): last"
    assert failed.value.lines == ["out", "first", "last"]
    with pytest.raises(DiskFull, match="sh found no space left on the disk of"):
        await run(["sh", "-c", "echo 'write: No space left on device' >&2; exit 1"], cwd=tmp_path)
    with pytest.raises(BuildFailed, match="no-such-tool is not installed on this machine"):
        await run(["no-such-tool"], cwd=tmp_path)


async def test_a_tool_gets_its_input_and_a_private_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "x")
    monkeypatch.setenv("https_proxy", "http://proxy:1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index")
    assert await run(["cat"], cwd=tmp_path, stdin=b"a" * 300_000) == b"a" * 300_000
    made = environment({"HOME": "/x"})
    assert "SECRET_KEY" not in made
    assert (made["https_proxy"], made["PIP_INDEX_URL"], made["HOME"]) == ("http://proxy:1", "https://index", "/x")
    assert made["LC_ALL"] == "C.UTF-8"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
async def test_a_tool_runs_as_the_owner_of_the_store(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    owned.mkdir()
    os.chown(owned, 65534, 65534)
    out = await run(["sh", "-c", "id -u; id -G"], cwd=Path("/"), as_owner_of=owned)
    assert out.split() == [b"65534", b"65534"]
