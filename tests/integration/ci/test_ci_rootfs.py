"""Images as directories: what overlayfs makes of them, and what is refused."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci_world import World, busybox_image, layer_of
from ci_world import world as a_world
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.sandbox.rootfs import account, real, unpack_layer, unpacked
from trimtab.content.errors import Corrupt

TAR = "application/vnd.oci.image.layer.v1.tar"
DIRECTORY: dict[str, Any] = {"type": b"5", "mode": 0o755}


def link(target: str) -> dict[str, Any]:
    return {"type": b"2", "linkname": target}


def hard(target: str) -> dict[str, Any]:
    return {"type": b"1", "linkname": target}


def unpack(tmp_path: Path, *entries: tuple[str, dict[str, Any], bytes]) -> Path:
    unpack_layer(
        io.BytesIO(layer_of(*entries)), TAR, tmp_path / "roots" / "one", "sha256:" + "a" * 64, tmp_path / "making"
    )
    return tmp_path / "roots" / "one"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("../out", {}, b"x")], "'../out' leads out of the layer"),
        ([("a/../../out", {}, b"x")], "'a/../../out' leads out of the layer"),
        ([("a", hard("../../etc/passwd"), b"")], "'../../etc/passwd' leads out of the layer"),
        ([("a", hard("/etc/passwd"), b"")], "'a' is a hard link to '/etc/passwd', which is not in this layer"),
        ([("disk", {"type": b"4"}, b"")], "'disk' is a device"),
        ([("null", {"type": b"3", "devmajor": 0, "devminor": 0}, b"")], "'null' is a device"),
        ([("a", link("b"), b""), ("b", link("a"), b""), ("a/x", {}, b"")], "'a/x' goes through a circle of links"),
        ([("a/.wh...", {}, b"")], "'a/.wh...' names nothing to delete"),
        ([("./", {}, b"x")], "is the root, and no directory"),
    ],
)
def test_a_hostile_layer_is_refused(tmp_path: Path, entries: list[tuple[str, dict[str, Any], bytes]], why: str) -> None:
    with pytest.raises(Corrupt) as refused:
        unpack(tmp_path, *entries)

    assert why in str(refused.value)
    assert str(refused.value).startswith("layer sha256:aaaaaaaaaaaa is refused: ")
    assert list((tmp_path / "roots").iterdir()) == list((tmp_path / "making").iterdir()) == []


def test_links_lead_where_they_lead_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    at = unpack(
        tmp_path,
        ("up", link(str(outside)), b""),
        ("up/x", {}, b"inside"),
        ("out", link("../../../../outside"), b""),
        ("out/y", {}, b"inside"),
        ("lib", link("usr/lib"), b""),
        ("lib/z", {}, b"z"),
    )

    assert list(outside.iterdir()) == []
    assert (at / str(outside)[1:] / "x").read_text() == "inside"
    assert (at / "outside" / "y").read_text() == "inside"
    assert (at / "usr" / "lib" / "z").read_text() == "z"


def test_modes_and_times_are_kept_and_set_user_id_is_not(tmp_path: Path) -> None:
    at = unpack(
        tmp_path,
        ("shut", {"type": b"5", "mode": 0o500, "mtime": 1000}, b""),
        ("shut/su", {"mode": 0o6755, "mtime": 2000}, b"x"),
        ("tmp", {"type": b"5", "mode": 0o1777}, b""),
    )

    assert stat.S_IMODE((at / "shut").stat().st_mode) == 0o500
    assert stat.S_IMODE((at / "shut" / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((at / "tmp").stat().st_mode) == 0o1777
    assert ((at / "shut").stat().st_mtime, (at / "shut" / "su").stat().st_mtime) == (1000, 2000)


def test_a_later_entry_replaces_an_earlier_one(tmp_path: Path) -> None:
    at = unpack(
        tmp_path,
        ("d", DIRECTORY, b""),
        ("d/x", {}, b"x"),
        ("d", {}, b"now a file"),
        ("l", link("/nowhere"), b""),
        ("l", {}, b"now one, too"),
        ("l", {}, b"again"),
        ("h", hard("l"), b""),
    )

    assert (at / "d").read_text() == "now a file"
    assert (at / "h").read_text() == "again"
    assert (at / "h").stat().st_ino == (at / "l").stat().st_ino


@pytest.fixture
def world() -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("gives files to another user")
    with a_world(nobody=True) as made:
        yield made


def test_what_an_upper_layer_deletes_is_gone(world: World) -> None:
    lower = layer_of(
        ("gone", {}, b"x"), ("d/one", {}, b"1"), ("d/two", {}, b"2"), ("shadow/a", {}, b"a"), ("kept", {}, b"k")
    )
    upper = layer_of(
        (".wh.gone", {}, b""), ("d/.wh..wh..opq", {}, b""), ("d/three", {}, b"3"), ("shadow/.wh.a", {}, b"")
    )
    image = busybox_image(world.state, lower, upper)

    outcome, said = world.run(world.job("cd /; ls d; cat kept; ls gone shadow/a 2>&1 | grep -c 'No such'", image=image))

    assert outcome.succeeded
    assert said == "three\nk2\n"


def test_what_a_step_deletes_of_the_image_is_not_in_its_output(world: World) -> None:
    image = busybox_image(world.state, layer_of(("d/one", {}, b"1"), ("d/two", {}, b"2"), ("e/x", {}, b"")))
    job = world.job("rm /d/one; rm -r /e; mkdir /e; ls -a /e | wc -l", image=image, outputs={"d": "/d"})

    outcome, said = world.run(job)

    assert said == "2\n"
    assert [name for name, _ in Blobs(str(world.state)).files(outcome.outputs["d"])] == ["two"]


def test_a_layer_is_unpacked_once_and_made_again_when_it_is_gone(world: World) -> None:
    root = unpacked(world.state, world.image)
    before = (world.state / root.layers[0]).stat().st_ino

    assert unpacked(world.state, world.image) == root
    assert (world.state / root.layers[0]).stat().st_ino == before

    (world.state / root.layers[0]).rename(world.state / "elsewhere")
    assert unpacked(world.state, world.image) == root
    assert (world.state / root.layers[0] / "bin" / "busybox").exists()


def test_what_an_image_says_counts_where_the_step_says_nothing(world: World) -> None:
    image = busybox_image(world.state, env=["A=image", "B=image"], user="app")
    _, said = world.run(world.job("echo $A $B $(id -u) $HOME", image=image, env={"B": "step"}))

    assert said == "image step 1000 /home/app\n"


def test_a_hostile_image_is_the_engines_fault_to_say(world: World) -> None:
    image = busybox_image(world.state, layer_of(("../x", {}, b"")))

    with pytest.raises(
        EngineFault, match=r"the image sha256:\w+ cannot be used: layer sha256:\w+ is refused: '../x' leads out"
    ):
        world.run(world.job("true", image=image))


def test_paths_and_accounts_are_read_as_they_are_inside(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    (lower / "usr" / "etc").mkdir(parents=True)
    upper.mkdir()
    (lower / "etc").symlink_to("/usr/etc")
    (lower / "usr" / "etc" / "passwd").write_text("ann:x:5:6::/home/ann:/bin/sh\nbroken\n")
    (lower / "usr" / "etc" / "group").write_text("staff:x:50:\n")
    (lower / "loop").symlink_to("loop")

    assert real([upper, lower], "/etc/x/../y") == "/usr/etc/y"
    with pytest.raises(EngineFault, match="/loop/a goes through a circle of links"):
        real([upper, lower], "/loop/a")
    assert account([upper, lower], "ann:staff").gid == 50
    assert (account([upper, lower], "ann").uid, account([upper, lower], "7:8").gid) == (5, 8)


def test_a_link_of_a_lower_layer_does_not_lead_out_to_this_machine(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    (upper / "etc").mkdir(parents=True)
    lower.mkdir()
    (lower / "etc").symlink_to("/etc")

    with pytest.raises(EngineFault, match="the image has no user 'daemon'"):
        account([upper, lower], "daemon")
