"""Leave and lock together: whatever the order of steps of agents that heard old news and of the machine, one node writes.

The steps are those of `Staging._stage` and `ImageFiles`, with real files and real locks of the kernel; an open, locked file stands for a
loop device, which keeps exactly that.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.components.volumes import loop
from trimtab.components.volumes.images import ImageFiles, ImageProblem, image_path, read_leave

NODES = ("a", "b", "c")
SCHEDULES = 600
STEPS = 120


@pytest.fixture
def images() -> Iterator[ImageFiles]:
    """A directory in memory: every change of leave is made durable, which takes its time on a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "v.img").write_bytes(b"")
        yield ImageFiles(Path(folder), "a", machine=True)


class Schedule:
    """One random order of events. `heard` never forgets: every agent may act on the oldest news."""

    def __init__(self, images: ImageFiles, seed: int) -> None:
        self.path = images.path("v")
        self.images = images
        self.random = random.Random(seed)
        self.heard: list[tuple[str, str]] = []
        self.living: dict[str, str] = {}
        self.locked: dict[str, tuple[int, str]] = {}
        self.writing: dict[str, int] = {}
        self.serial = 0

    def step(self) -> None:
        self.random.choice(
            [self.attach, self.attach, self.detach, self.lock, self.lock, self.look, self.look, self.end]
        )()
        assert len(self.writing) <= 1, f"{sorted(self.writing)} can all write"
        leave = {n["node"] for n in read_leave(self.path).values() if not n["revoked"]}
        if leave:
            assert set(self.writing) <= leave, f"{sorted(leave)} has leave while {sorted(self.writing)} writes"

    def attach(self) -> None:
        """The machine gives leave, if it may."""
        self.serial += 1
        node, uid = self.random.choice(NODES), f"u{self.serial}"
        if self.images._grant(self.path, node, uid, True, {*self.living, uid}) is None:
            self.living[uid] = node
            self.heard.append((uid, node))

    def detach(self) -> None:
        """The machine takes leave back and looks whether it may call that done."""
        for uid in list(self.living):
            if not self.images._revoke(self.path, uid):
                del self.living[uid]

    def lock(self) -> None:
        """An agent begins to mount by news of any age."""
        if not self.heard:
            return
        uid, node = self.random.choice(self.heard)
        if node in self.locked or node in self.writing:
            return
        try:
            self.locked[node] = (loop.locked(self.path), uid)
        except loop.Busy:
            return

    def look(self) -> None:
        """An agent that has the lock reads the leave, and mounts or lets go."""
        for node in list(self.locked):
            handle, uid = self.locked.pop(node)
            found = read_leave(self.path).get(uid)
            if found is None or found["revoked"] or found["node"] != node:
                os.close(handle)
            else:
                self.writing[node] = handle

    def end(self) -> None:
        """A node unmounts, or dies."""
        for node in list(self.writing):
            os.close(self.writing.pop(node))

    def close(self) -> None:
        for handle in [*self.writing.values(), *(handle for handle, _ in self.locked.values())]:
            os.close(handle)
        self.path.with_suffix(".leave").unlink(missing_ok=True)


def test_no_order_of_steps_lets_two_nodes_write(images: ImageFiles) -> None:
    mounts = moves = 0
    for seed in range(SCHEDULES):
        schedule = Schedule(images, seed)
        try:
            last = ""
            for _ in range(STEPS):
                schedule.step()
                now = next(iter(schedule.writing), "")
                mounts += now not in ("", last)
                moves += now not in ("", last) and last != ""
                last = now or last
        finally:
            schedule.close()

    assert (mounts > SCHEDULES / 2, moves > SCHEDULES / 10) == (True, True), "the schedules hardly ever move a volume"


def test_leave_of_attachments_that_are_gone_ends_with_their_lock(images: ImageFiles) -> None:
    path = images.path("v")
    assert images._grant(path, "a", "old", True, {"old"}) is None
    writer = loop.locked(path)

    refused = images._grant(path, "b", "new", True, {"new"})
    os.close(writer)

    assert refused == "it is attached to a"
    assert images._grant(path, "b", "new", True, {"new"}) is None


def test_leave_is_not_given_while_something_else_has_the_image(images: ImageFiles) -> None:
    handle = loop.locked(images.path("v"))

    refused = images._grant(images.path("v"), "a", "u1", True, {"u1"})
    os.close(handle)

    assert refused == "something on this machine has it in use: unknown"


def test_many_nodes_may_read(images: ImageFiles) -> None:
    path = images.path("v")

    assert [images._grant(path, node, f"u-{node}", False, {"u-a", "u-b"}) for node in ("a", "b")] == [None, None]
    assert images._grant(path, "c", "u-c", True, {"u-a", "u-b", "u-c"}) == "it is attached to a"


@pytest.mark.parametrize("handle", ["../etc/x", "a/b", "A", "", ".hidden", "snapshots/../x"])
def test_a_handle_is_a_plain_name(handle: str) -> None:
    with pytest.raises(ImageProblem, match=r"is not the name of an image: lower case letters, digits, - and ."):
        image_path(Path("/v"), handle)
