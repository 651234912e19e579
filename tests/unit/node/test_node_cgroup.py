"""cgroups of version 1, of version 2 with systemd and without it: where pods are, what is read and written. On fixture trees; version 2
with systemd for real only where the machine has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trimtab.components.node import cgroup, machine
from trimtab.components.node.machine import look_at_cgroups

NAME, UID = "/trimtab-abc123", "1f0c-22"
SLICE = "trimtab.slice/trimtab-abc123.slice/trimtab-abc123-pod1f0c_22.slice"


def write(base: Path, **files: str) -> None:
    base.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (base / name.replace("__", ".")).write_text(text)


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    pod = NAME.strip("/") + f"/pod{UID}"
    write(
        tmp_path / "memory" / pod, memory__usage_in_bytes="5000\n", memory__stat="cache 9\ntotal_inactive_file 1000\n"
    )
    write(tmp_path / "cpuacct" / pod, cpuacct__usage="123456789\n")
    write(tmp_path / "pids" / pod, pids__current="7\n", pids__max="max\n")
    write(tmp_path / "unified")
    return tmp_path


def unified(root: Path, below: str) -> Path:
    write(root, cgroup__controllers="cpu memory pids\n")
    write(
        root / below,
        memory__current="5000\n",
        memory__stat="anon 3\ninactive_file 1000\n",
        cpu__stat="usage_usec 123456\nuser_usec 1\n",
        pids__current="7\n",
        pids__max="max\n",
    )
    return root


def test_version_1_is_told_by_its_hierarchies(v1: Path) -> None:
    groups = look_at_cgroups(v1, systemd=True)

    assert (groups.version, groups.driver) == (1, "cgroupfs")
    assert groups.parent(NAME, UID) == f"{NAME}/pod{UID}"
    assert [d.parts[-3] for d in groups.directories(NAME, UID)] == ["cpuacct", "memory", "pids"]


@pytest.mark.parametrize(
    ("systemd", "below", "parent"),
    [
        (True, SLICE, "trimtab-abc123-pod1f0c_22.slice"),
        (False, f"trimtab-abc123/pod{UID}", f"{NAME}/pod{UID}"),
    ],
)
def test_version_2_with_and_without_systemd(tmp_path: Path, systemd: bool, below: str, parent: str) -> None:
    groups = look_at_cgroups(unified(tmp_path, below), systemd)

    assert (groups.version, groups.driver) == (2, "systemd" if systemd else "cgroupfs")
    assert groups.parent(NAME, UID) == parent
    assert groups.directories(NAME, UID) == [tmp_path / below]
    assert groups.directories(NAME) == [(tmp_path / below).parent]


@pytest.mark.parametrize("version", [1, 2])
def test_pods_are_known_by_their_cgroups(v1: Path, tmp_path_factory: pytest.TempPathFactory, version: int) -> None:
    root = v1 if version == 1 else unified(tmp_path_factory.mktemp("v2"), SLICE)
    groups = look_at_cgroups(root, systemd=True)

    assert groups.pods(NAME) == {UID}
    assert groups.pods("/trimtab-other") == set()


def test_slices_of_a_further_node(tmp_path: Path) -> None:
    groups = look_at_cgroups(unified(tmp_path, "x"), systemd=True)

    assert groups.path("/trimtab-abc123-node-2", UID) == Path(
        "trimtab.slice/trimtab-abc123.slice/trimtab-abc123-node.slice/trimtab-abc123-node-2.slice/"
        "trimtab-abc123-node-2-pod1f0c_22.slice"
    )


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_pod_uses(v1: Path, tmp_path_factory: pytest.TempPathFactory, version: int) -> None:
    root = v1 if version == 1 else unified(tmp_path_factory.mktemp("v2"), SLICE)
    groups = look_at_cgroups(root, systemd=True)

    assert cgroup.working_set_bytes(groups, NAME, UID) == 4000
    assert cgroup.cpu_ns(groups, NAME, UID) == (123456789 if version == 1 else 123456000)
    assert cgroup.processes(groups, NAME, UID) == 7
    assert cgroup.working_set_bytes(groups, NAME, "gone") == 0


@pytest.mark.parametrize("version", [1, 2])
def test_processes_are_limited(v1: Path, tmp_path_factory: pytest.TempPathFactory, version: int) -> None:
    root = v1 if version == 1 else unified(tmp_path_factory.mktemp("v2"), f"trimtab-abc123/pod{UID}")
    groups = look_at_cgroups(root, systemd=False)
    directory = groups.directory("pids", NAME, UID)
    assert directory is not None

    assert cgroup.limit_processes(groups, NAME, UID, 100)
    assert not cgroup.limit_processes(groups, NAME, "gone", 100)

    assert (directory / "pids.max").read_text() == "100"


def test_systemd_is_told_of_a_limit_so_that_it_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = look_at_cgroups(unified(tmp_path, SLICE), systemd=True)
    said: list[list[str]] = []

    def run(command: list[str], **named: object) -> subprocess.CompletedProcess[str]:
        said.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)

    assert cgroup.limit_processes(groups, NAME, UID, 100)
    assert said == [["systemctl", "set-property", "--runtime", Path(SLICE).name, "TasksMax=100"]]


@pytest.mark.skipif(
    machine.cgroups().driver != "systemd",
    reason="this machine has no systemd with cgroup version 2 as the only hierarchy: slices are only tried on fixture trees",
)
def test_a_slice_of_systemd_for_real() -> None:
    groups, uid = machine.cgroups(), "feed-1"
    name = Path(groups.path("/trimtab-test01", uid)).name
    subprocess.run(["systemd-run", f"--slice={name}", "--unit=trimtab-test01", "sleep", "30"], check=True)
    try:
        assert cgroup.limit_processes(groups, "/trimtab-test01", uid, 50)
        directory = groups.directory("pids", "/trimtab-test01", uid)
        assert directory is not None
        assert (directory / "pids.max").read_text().strip() == "50"
        assert cgroup.processes(groups, "/trimtab-test01", uid) >= 1
    finally:
        subprocess.run(["systemctl", "stop", "trimtab-test01", name], check=False)
