"""Throw-away clusters before anything is started: leases, places, variants, shared images."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import msgspec
import pytest

from trimtab.content import ContentStore
from trimtab.engine import datadir
from trimtab.engine.clusters import copies, images, leases, places, variants, warden
from trimtab.engine.clusters.create import Wanted, create
from trimtab.engine.clusters.places import Cluster
from trimtab.engine.errors import EngineError, NotFound
from trimtab.engine.pki import new_authority
from trimtab.engine.procfs import boot_id, identity

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to users, which needs root")


def reserve(home: Path, *names: str, lease: leases.Lease | None = None, numbered: bool = False) -> list[Cluster]:
    return places.reserve(home, [(name, None, {}) for name in names], lease or leases.Lease(), numbered=numbered)


# Leases


def test_a_lease_ends_with_its_process() -> None:
    process = subprocess.Popen(["sleep", "600"])
    lease = leases.of_process(process.pid)
    assert lease is not None
    assert not lease.is_over()
    process.kill()
    process.wait()
    assert lease.is_over()
    assert leases.of_process(process.pid) is None


def test_a_reused_pid_or_a_reboot_does_not_deceive() -> None:
    me = identity(os.getpid())
    assert me is not None
    assert not leases.Lease(me).is_over()
    assert leases.from_json({"owner": [me.pid, me.start + 1], "boot": boot_id()}).is_over()
    assert leases.from_json({"owner": [me.pid, me.start], "boot": "another"}).is_over()


def test_a_lease_ends_with_its_time() -> None:
    assert leases.Lease(until_s=time.time() - 1).is_over()
    assert not leases.Lease(until_s=time.time() + 600).is_over()
    assert not leases.Lease().is_over()
    assert not leases.Lease().ends


def test_a_lease_survives_being_written_down() -> None:
    lease = leases.of_process(os.getpid(), until_s=12.5)
    assert lease is not None
    assert leases.from_json(lease.as_json()).as_json() == lease.as_json()


# Places


def test_no_two_clusters_share_a_network_or_a_port(tmp_path: Path) -> None:
    home = tmp_path / "clusters"
    made = [*reserve(home, "a", "b", "c"), *reserve(home, "d", "e")]
    settings = [one.settings() for one in made]
    for one, other in combinations(settings, 2):
        mine = [ipaddress.IPv4Network(cidr) for cidr in (one.cluster, one.service_cidr)]
        theirs = [ipaddress.IPv4Network(cidr) for cidr in (other.cluster, other.service_cidr)]
        assert not any(a.overlaps(b) for a in mine for b in theirs)
    ports = [port for one in settings for port in (one.api_port, one.http_port, one.https_port, one.web_port)]
    assert len(set(ports)) == 20
    assert len({one.id for one in settings}) == 5


def test_names_are_given_out_once(tmp_path: Path) -> None:
    home = tmp_path / "clusters"
    assert [one.name for one in reserve(home, "e2e", "e2e", numbered=True)] == ["e2e-1", "e2e-2"]
    assert [one.name for one in reserve(home, "e2e", numbered=True)] == ["e2e-3"]
    assert [one.name for one in reserve(home, "e2e")] == ["e2e"]
    with pytest.raises(EngineError, match="there is a cluster 'e2e' already: delete it, or choose another --name"):
        reserve(home, "e2e")
    with pytest.raises(EngineError, match="'Big_One' is no name for a cluster: lower-case letters, digits and '-'"):
        reserve(home, "Big_One")


def test_when_one_cannot_be_there_none_is(tmp_path: Path) -> None:
    home = tmp_path / "clusters"
    reserve(home, "b")
    with pytest.raises(EngineError, match="there is a cluster 'b' already"):
        reserve(home, "a", "b")
    assert [one.name for one in places.all_of(home)] == ["b"]


def test_what_a_killed_create_had_not_recorded_goes(tmp_path: Path) -> None:
    home = tmp_path / "clusters"
    (home / ".new-a").mkdir(parents=True)
    assert places.all_of(home) == []
    reserve(home, "b")
    assert sorted(path.name for path in home.iterdir()) == ["b"]


def test_an_unknown_cluster_is_said_with_those_there_are(tmp_path: Path) -> None:
    reserve(tmp_path, "a", "b")
    with pytest.raises(NotFound, match=r"there is no cluster 'c' in .*; there are: a, b"):
        places.get(tmp_path, "c")


def test_a_cluster_whose_removal_was_killed_is_over(tmp_path: Path) -> None:
    [one] = reserve(tmp_path, "a")
    assert not one.is_over()
    one.state = "deleting"
    one.save()
    assert places.get(tmp_path, "a").is_over()
    assert places.describe(one)["state"] == "over"


def test_the_lock_of_a_directory_that_was_deleted_meanwhile_is_none(tmp_path: Path) -> None:
    home = tmp_path / "clusters"
    with places.locked(home):
        home.rmdir()
    with places.locked(home):
        assert home.is_dir()


# The warden


def test_a_warden_ends_by_itself_where_nothing_can_end(tmp_path: Path) -> None:
    reserve(tmp_path, "a")
    assert warden.leases_of(str(tmp_path), ["a", "gone"]) == {}
    warden.watch(str(tmp_path), ["a", "gone"])


def test_a_warden_needs_only_the_standard_library() -> None:
    code = (
        "import sys; import trimtab.engine.clusters.warden; print('msgspec' in sys.modules, 'asyncio' in sys.modules)"
    )
    source = str(Path(warden.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {source!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]


# Variants


def refusal(folder: Path, text: str) -> str:
    (folder / "odd.yaml").write_text(text)
    with pytest.raises(EngineError) as caught:
        variants.read(folder / "odd.yaml")
    return str(caught.value).removeprefix(f"{folder / 'odd.yaml'}: ")


def test_a_variant_says_what_is_different(tmp_path: Path) -> None:
    (tmp_path / "install.yaml").write_text("")
    certificate, key = new_authority(reserve(tmp_path / "home", "a")[0].settings())
    (tmp_path / "ca.crt").write_bytes(certificate)
    (tmp_path / "ca.key").write_bytes(key)
    file = tmp_path / "Deep_One.yaml"
    file.write_text(
        "clusterDomain: corp.example\nnodes: 3\nissuer: {certificate: ca.crt, key: ca.key}\nmanifests: [install.yaml]\n"
    )
    variant = variants.read(file)
    assert variant.name == "deep-one"
    assert variant.chosen() == {"cluster_domain": "corp.example"}
    assert variant.start_options() == ["--nodes", "3"]
    assert variant.issuer == (tmp_path / "ca.crt", tmp_path / "ca.key")
    assert variant.manifests == (tmp_path / "install.yaml",)


def test_an_empty_variant_is_an_ordinary_cluster(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("# nothing\n")
    assert variants.read(tmp_path / "plain.yaml") == variants.Variant(name="plain")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "domain: x",
            "there is no field 'domain'; there are clusterDomain, nodes, node, issuer, upgradeFrom, cni, manifests",
        ),
        ("- a", "a variant is a mapping such as `clusterDomain: corp.example`"),
        ("clusterDomain: UPPER", "clusterDomain: 'UPPER' is no domain: write one like cluster.local"),
        ("nodes: 99", "nodes: 99: a cluster has 1 to 15 nodes"),
        ("node: maybe", "node: 'maybe' is neither true nor false"),
        ("node: false\nnodes: 2", "nodes: a cluster with `node: false` has none; leave one of the two out"),
        ("cni: calico", "cni: 'calico': leave it out; the network of pods is built in"),
        (
            "cni: none",
            "cni: none: pods get their network from the node itself, which runs no CNI plugin that could be left out; "
            "`node: false` makes a cluster without pods, and hostNetwork pods need none",
        ),
        ("manifests: install.yaml", "manifests: write a list of files and directories"),
        ("issuer: ca.crt", "issuer: write {certificate: FILE, key: FILE}"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path, text) == said


def test_what_a_variant_names_must_be_there(tmp_path: Path) -> None:
    assert refusal(tmp_path, "manifests: [gone.yaml]") == f"manifests: there is no {tmp_path}/gone.yaml"
    assert refusal(tmp_path, "issuer: {certificate: a, key: b}") == f"issuer: there is no file {tmp_path}/a"
    assert refusal(tmp_path, "upgradeFrom: .") == (
        f"upgradeFrom: {tmp_path} holds no engine: give the data directory of an older release"
    )


def test_an_issuer_whose_key_is_anothers_is_refused(tmp_path: Path) -> None:
    settings = reserve(tmp_path / "home", "a")[0].settings()
    (tmp_path / "ca.crt").write_bytes(new_authority(settings)[0])
    (tmp_path / "ca.key").write_bytes(new_authority(settings)[1])
    assert refusal(tmp_path, "issuer: {certificate: ca.crt, key: ca.key}") == (
        f"issuer: {tmp_path}/ca.key does not belong to {tmp_path}/ca.crt"
    )


def test_a_variant_that_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(EngineError, match=r"bad.yaml is no YAML: ") as caught:
        variants.read(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


# Images


@as_root
def test_a_shared_image_is_one_file_for_all(tmp_path: Path) -> None:
    theirs = ContentStore(tmp_path / "engine")
    digest = theirs.put(b"a layer")
    theirs.tag("shop:latest", digest)
    home = tmp_path / "home"
    made = reserve(home, "a", "b")
    assert images.collect(home, theirs.directory, ["shop:latest"]) == ["shop:latest"]
    for one in made:
        images.give(home, one.settings())
    stores = [ContentStore(one.settings().data_path("content")) for one in made]
    files = {store.path(digest).stat().st_ino for store in stores}
    assert files == {images.store_of(home).path(digest).stat().st_ino}
    assert [store.resolve("shop:latest") for store in stores] == [digest, digest]
    stores[0].untag("shop:latest")
    stores[0].delete(digest)
    assert stores[1].read(digest) == b"a layer"


@as_root
def test_an_image_that_is_not_there_is_said(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "engine")
    store.tag("shop:latest", store.put(b"a layer"))
    with pytest.raises(EngineError, match="has no image 'shops:1'; it has shop:latest"):
        images.collect(tmp_path / "home", store.directory, ["shops:1"])


@as_root
def test_a_clone_links_layers_and_copies_databases(tmp_path: Path) -> None:
    old, new = (one.settings() for one in reserve(tmp_path / "home", "old", "new"))
    snapshots = old.data_path("node", "containerd", "io.containerd.snapshotter.v1.overlayfs")
    layer = snapshots / "snapshots" / "1" / "fs" / "etc"
    layer.mkdir(parents=True)
    os.chmod(layer, 0o1777)
    (layer / "passwd").write_text("root")
    (layer / "link").symlink_to("passwd")
    (snapshots / "metadata.db").write_text("bolt")
    (old.data_path("node", "containerd") / "io.containerd.runtime.v2.task").mkdir()
    images.clone(old, new)
    there = new.data_path("node", "containerd")
    copy = there / layer.relative_to(old.data_path("node", "containerd"))
    assert (copy / "passwd").stat().st_ino == (layer / "passwd").stat().st_ino
    assert (copy / "link").readlink() == Path("passwd")
    assert copy.stat().st_mode == layer.stat().st_mode
    assert (there / snapshots.name / "metadata.db").stat().st_ino != (snapshots / "metadata.db").stat().st_ino
    assert not (there / "io.containerd.runtime.v2.task").exists()


# Copies


def test_a_directory_is_locked_for_as_long_as_a_copy_is_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.mkfifo(tmp_path / "endless")
    running = "from trimtab.engine.clusters.images import copy; from pathlib import Path; import sys; copy(*map(Path, sys.argv[1:]))"
    # A copy of a pipe's content never ends before somebody writes into it.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cp").write_text(f"#!/bin/sh\ncat {tmp_path}/endless\n")
    (tmp_path / "bin" / "cp").chmod(0o755)
    path = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    process = subprocess.Popen([sys.executable, "-c", running, data, tmp_path, data / "x"], env=os.environ | path)
    end = os.open(tmp_path / "endless", os.O_WRONLY)  # returns once it is being read
    process.kill()
    process.wait()
    handle = os.open(data, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(end)
        fcntl.flock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def test_a_copys_objects_speak_of_its_own_networks_and_paths(tmp_path: Path) -> None:
    old, new = (
        msgspec.structs.replace(
            one.settings(), cluster_cidr=f"10.{number}.16.0/20", service_cidr=f"172.{number}.32.0/20"
        )
        for number, one in enumerate(reserve(tmp_path / "home", "old", "new"), 20)
    )
    change = copies.change(old, new)

    assert change("/core/services/a/b", b'{"clusterIP":"172.20.47.255","ips":["172.20.32.1"]}') == (
        b'{"clusterIP":"172.21.47.255","ips":["172.21.32.1"]}'
    )
    assert change("/core/nodes/node-1", b'{"podCIDR":"10.20.16.0/24"}') == b'{"podCIDR":"10.21.16.0/24"}'
    volume = f'{{"path":"{old.data}/node/volumes/x"}}'.encode()
    assert change("/core/persistentvolumes/x", volume) == volume.replace(old.data.encode(), new.data.encode())
    for same in (
        b'{"ip":"172.20.48.1"}',  # beside the range
        b'{"version":"1.10.20.16.5"}',
        b'{"version":"10.20.16.5-rc1"}',
        b'{"ip":"999.20.16.5"}',
    ):
        assert change("/core/services/a/b", same) is None
    assert copies.change(old, msgspec.structs.replace(old, id="other"))("/core/nodes/node-1", b'"10.20.16.1"') is None


def test_only_a_cluster_of_one_node_can_be_frozen(tmp_path: Path) -> None:
    [one] = reserve(tmp_path, "a")
    datadir.save(msgspec.structs.replace(one.settings(), nodes=("node-2",)))
    with pytest.raises(EngineError, match="cluster a has 2 nodes; only one with a single node can be frozen"):
        copies.freeze(one)


@as_root
def test_a_copy_is_of_a_frozen_cluster_only(tmp_path: Path) -> None:
    reserve(tmp_path, "a")
    with pytest.raises(EngineError, match="cluster 'a' is not frozen: run `trimtab cluster freeze a` first"):
        create(tmp_path, Wanted(like="a"), leases.Lease(), lambda line: None)
    assert [one.name for one in places.all_of(tmp_path)] == ["a"]
