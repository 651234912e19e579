"""Settings on disk, networks and ports, owners of directories; what a user reads when one of them is wrong."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from trimtab.engine import accounts, addresses, datadir
from trimtab.engine.errors import EngineError, NotRunning
from trimtab.runtime.settings import Settings

PORTS = {"api_port": 16443, "http_port": 16080, "https_port": 16444, "web_port": 16081}


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        yield taken.getsockname()[1]


def test_created_settings_are_read_back(tmp_path: Path) -> None:
    made, notes = datadir.create(tmp_path / "engine", PORTS)

    read = datadir.load(tmp_path / "engine")

    assert read == made
    assert notes == []
    assert len(made.id) == 6
    assert made.run == f"/run/trimtab/{made.id}"
    assert (made.api_port, made.data) == (16443, str(tmp_path / "engine"))
    assert not (tmp_path / "engine" / "engine.json.new").exists()


def test_the_other_processes_can_decode_the_file(tmp_path: Path) -> None:
    made, _ = datadir.create(tmp_path, PORTS)

    assert msgspec.json.decode((tmp_path / "engine.json").read_bytes(), type=Settings) == made


def test_a_moved_data_directory_knows_where_it_is(tmp_path: Path) -> None:
    datadir.create(tmp_path / "old", PORTS)
    (tmp_path / "old").rename(tmp_path / "new")

    assert datadir.load(tmp_path / "new").data == str(tmp_path / "new")


def test_no_engine_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotRunning) as refused:
        datadir.load(tmp_path)
    assert str(refused.value) == f"there is no engine at {tmp_path}: make one with `trimtab --data {tmp_path} start`"


def test_data_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    datadir.create(tmp_path, PORTS)
    path = tmp_path / "engine.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 7'))

    with pytest.raises(EngineError) as refused:
        datadir.load(tmp_path)

    assert str(refused.value) == (
        f"{tmp_path} was written by a newer Trimtab (data format 7, this program knows 1): "
        "upgrade the program, or give another --data"
    )


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"id": 3}', '{"format": "x"}'])
def test_damaged_settings_name_the_copy(tmp_path: Path, damage: str) -> None:
    made, _ = datadir.create(tmp_path, PORTS)
    (tmp_path / "engine.json").write_text(damage)

    with pytest.raises(EngineError) as refused:
        datadir.load(tmp_path)

    assert str(refused.value).startswith(f"{tmp_path}/engine.json is damaged (")
    assert str(refused.value).endswith(
        f"put the last good copy back with `cp {tmp_path}/engine.json.last {tmp_path}/engine.json`"
    )
    (tmp_path / "engine.json").write_bytes((tmp_path / "engine.json.last").read_bytes())
    assert datadir.load(tmp_path) == made


def test_a_directory_with_other_things_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(EngineError, match="is not empty and holds no engine: give an empty directory as --data"):
        datadir.create(tmp_path, PORTS)


def test_an_interrupted_first_start_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "engine.json.last").write_text("{")

    made, _ = datadir.create(tmp_path, PORTS)

    assert datadir.load(tmp_path) == made


def test_full_disk_is_named() -> None:
    told = datadir.disk_error(Path("/data"), OSError(errno.ENOSPC, "No space left on device"))
    assert str(told) == "the disk of /data is full: free some space, or give another --data"


def fill(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(handle, b"x" * 4096)
    os.close(handle)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_leaves_the_old_settings(small_disk: Path) -> None:
    made, _ = datadir.create(small_disk / "engine", PORTS)
    fill(small_disk / "filler")

    with pytest.raises(EngineError, match="is full: free some space, or give another --data"):
        datadir.save(msgspec.structs.replace(made, api_port=1))

    assert datadir.load(small_disk / "engine") == made


# Networks and ports


def test_networks_overlap_no_route() -> None:
    taken = [addresses.Network("10.0.0.0/8"), addresses.Network("172.16.0.0/12")]

    pods, services = addresses.choose_networks("abc", taken)

    for text in (pods, services):
        assert addresses.Network(text).subnet_of(addresses.Network("192.168.0.0/16"))
    assert not addresses.Network(pods).overlaps(addresses.Network(services))


def test_engines_get_different_networks() -> None:
    chosen = {addresses.choose_networks(seed, []) for seed in ("aaaaaa", "bbbbbb", "cccccc")}
    assert len(chosen) == 3


def test_no_free_network_is_one_line() -> None:
    with pytest.raises(EngineError, match="no private network is free for pods and services"):
        addresses.choose_networks("abc", [addresses.Network("0.0.0.0/0")])


def test_routes_are_read_as_the_kernel_prints_them(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "tun0\t0000800A\t00000000\t0001\t0\t0\t0\t0000E0FF\t0\t0\t0\n"
    )

    assert addresses.routed_networks(table) == [addresses.Network("192.0.2.0/24"), addresses.Network("10.128.0.0/11")]


def test_a_taken_port_is_avoided_at_first_and_named_later(listener: int) -> None:
    assert addresses.choose_port("127.0.0.1", listener, set()) > listener
    with pytest.raises(EngineError) as refused:
        addresses.require_port("127.0.0.1", listener, "--port", set())
    name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert str(refused.value) == (
        f"port {listener} is in use by {name} (pid {os.getpid()}): stop that, or start with another --port"
    )
    addresses.require_port("127.0.0.1", listener, "--port", {os.getpid()})  # one of ours: fine


def test_an_address_of_somebody_else_is_named() -> None:
    with pytest.raises(EngineError, match=r"198\.51\.100\.7 is no address of this machine: give another --listen"):
        addresses.port_is_free("198.51.100.7", 6443)


# Owners


@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to another user")
def test_root_owns_what_root_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datadir, "RUN_ROOT", tmp_path / "run")
    for name in ("trimtab", "trimtab-proxy", "trimtab-web"):
        accounts.ensure_user(name)
    settings, _ = datadir.create(tmp_path / "data", PORTS)
    (tmp_path / "data" / "pki").mkdir(mode=0o777)

    datadir.prepare(settings)
    datadir.prepare(settings)

    user = pwd.getpwnam("trimtab").pw_uid
    owners = {
        p.name: (p.stat().st_uid, oct(p.stat().st_mode & 0o7777)) for p in (tmp_path / "data").iterdir() if p.is_dir()
    }
    assert owners == {
        "store": (user, "0o750"),
        "pki": (user, "0o750"),
        "pipelines": (user, "0o750"),
        "profiles": (user, "0o750"),
        "content": (user, "0o750"),
        "journal": (user, "0o2750"),
        "proxy": (user, "0o2750"),
        "log": (0, "0o751"),
        "node": (0, "0o700"),
        "nodes": (0, "0o700"),
        "volumes": (0, "0o700"),
    }
    run = settings.run_path()
    assert (run.stat().st_uid, (run / "user").stat().st_uid, (run / "supervisor").stat().st_uid) == (0, user, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_as_user_becomes_the_user_and_reports_what_went_wrong(tmp_path: Path) -> None:
    accounts.ensure_user("trimtab")
    tmp_path.chmod(0o700)
    inside = tmp_path / "inside"
    inside.mkdir()
    os.chown(inside, pwd.getpwnam("trimtab").pw_uid, -1)

    accounts.as_user("trimtab", [], [str(inside)], lambda: (inside / "made").touch())

    assert (inside / "made").stat().st_uid == pwd.getpwnam("trimtab").pw_uid
    with pytest.raises(EngineError, match="Permission denied"):
        accounts.as_user("trimtab", [], [], lambda: Path("/etc/trimtab-test").touch())


def test_each_further_node_has_pods_and_a_wire_of_its_own(tmp_path: Path) -> None:
    settings, _ = datadir.create(tmp_path / "data", {**PORTS, "nodes": ("node-2", "node-3")})
    cluster = ipaddress.IPv4Network(settings.cluster)

    two, three = settings.for_node("node-2"), settings.for_node("node-3")
    networks = [ipaddress.IPv4Network(s.pod_cidr) for s in (settings, two, three)]
    wires = [ipaddress.IPv4Network(f"{settings.uplink(n)['host_ip']}/30", strict=False) for n in settings.nodes]

    apart = [*networks, *wires]
    assert all(n.subnet_of(cluster) for n in apart)
    assert not any(a.overlaps(b) for a in apart for b in apart if a is not b)
    assert len({s.cgroup for s in (settings, two, three)}) == 3
    assert ipaddress.IPv4Address(settings.uplink("node-2")["node_ip"]) in wires[0]
