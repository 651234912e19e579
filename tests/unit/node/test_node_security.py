"""Security contexts: what reaches containerd, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trimtab.api import from_wire
from trimtab.api.core import Pod
from trimtab.components.node import machine
from trimtab.components.node.admission import check_pod
from trimtab.components.node.configs import NodeFacts, Resolver, sandbox_config
from trimtab.components.node.environment import ConfigProblem
from trimtab.components.node.sandboxes import ImageInfo
from trimtab.components.node.security import container_security
from trimtab.components.node.volumes import give_to_group
from trimtab.runtime import Denied

IMAGE = ImageInfo("sha256:1", (), None, "")


def pod(security: dict[str, Any] | None = None, **own: Any) -> Pod:
    spec = {"containers": [{"name": "c", "image": "i", "securityContext": own}], "securityContext": security or {}}
    return from_wire(Pod, {"metadata": {"name": "p", "namespace": "shop", "uid": "u"}, "spec": spec})


def made(one: Pod, profiles: Path = Path("/nonexistent")) -> dict[str, Any]:
    return container_security(one, one.spec.containers[0], IMAGE, profiles)


def test_a_profile_of_the_nodes_own_is_used_or_missed(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text("{}")
    localhost = {"seccompProfile": {"type": "Localhost", "localhostProfile": "audit.json"}}

    assert made(pod(localhost), tmp_path)["seccomp"] == {
        "profile_type": 2,
        "localhost_ref": str(tmp_path / "audit.json"),
    }
    assert made(pod(localhost, privileged=True), tmp_path)["seccomp"] == {"profile_type": 1}
    assert made(pod(localhost, seccompProfile={"type": "RuntimeDefault"}), tmp_path)["seccomp"] == {"profile_type": 0}
    with pytest.raises(ConfigProblem) as missed:
        made(pod(localhost), tmp_path / "other")
    assert str(missed.value) == (
        f"the seccomp profile audit.json is not on this node: put it at {tmp_path}/other/audit.json"
    )


def test_apparmor_is_passed_on_where_it_is_asked_for() -> None:
    assert "apparmor" not in made(pod())
    assert made(pod({"appArmorProfile": {"type": "RuntimeDefault"}}))["apparmor"] == {"profile_type": 0}
    assert made(pod(appArmorProfile={"type": "Unconfined"}))["apparmor"] == {"profile_type": 1}


def test_sysctls_of_a_pod_go_to_its_sandbox() -> None:
    sysctls = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    node = NodeFacts("/g", Resolver(()), Resolver(()), "cluster.local")

    config = sandbox_config(pod({"sysctls": sysctls}), 0, Path("/x"), node)

    assert config["linux"]["sysctls"] == {"net.ipv4.ip_unprivileged_port_start": "0"}


CONTAINER = "spec.containers[0].securityContext"
POD = "spec.securityContext"


@pytest.mark.parametrize(
    ("of_pod", "of_container", "text"),
    [
        ({}, {"windowsOptions": {"x": 1}}, f"{CONTAINER}.windowsOptions: Windows is not supported; leave them out"),
        (
            {},
            {"procMount": "Unmasked"},
            f'{CONTAINER}.procMount: Unmasked needs user namespaces, which are not supported; use "Default"',
        ),
        (
            {"supplementalGroupsPolicy": "Strict"},
            {},
            f'{POD}.supplementalGroupsPolicy: Strict is not supported; use "Merge"',
        ),
        (
            {},
            {"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}},
            f"{CONTAINER}.seccompProfile.localhostProfile: name a file below the node's directory of profiles, "
            "like profiles/audit.json",
        ),
        (
            {"seccompProfile": {"type": "Localhost"}},
            {},
            f"{POD}.seccompProfile.localhostProfile: name a file below the node's directory of profiles, "
            "like profiles/audit.json",
        ),
        (
            {},
            {"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}},
            f'{CONTAINER}.appArmorProfile.type: AppArmor profiles of your own are not supported; use "RuntimeDefault"',
        ),
        (
            {"appArmorProfile": {"type": "RuntimeDefault"}},
            {},
            f"{POD}.appArmorProfile.type: this machine has no AppArmor to confine containers with; "
            'use "Unconfined", or leave it out',
        ),
        (
            {},
            {"privileged": True, "allowPrivilegeEscalation": False},
            f"{CONTAINER}.allowPrivilegeEscalation: a privileged container cannot do without; set one of them only",
        ),
    ],
)
def test_what_is_refused(
    of_pod: dict[str, Any], of_container: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "apparmor", lambda: False)
    spec = {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": of_container}]}

    with pytest.raises(Denied) as refused:
        check_pod({"spec": spec}, None)

    assert str(refused.value) == text


def test_sysctls_that_are_the_machines_are_refused() -> None:
    def refusal(name: str, **spec: Any) -> str:
        with pytest.raises(Denied) as refused:
            check_pod({"spec": {"containers": [], "securityContext": {"sysctls": [{"name": name}]}, **spec}}, None)
        return str(refused.value)

    assert refusal("vm.swappiness").startswith(
        "spec.securityContext.sysctls[0].name: vm.swappiness is not one that a pod may set; set it on the machine, or use"
    )
    assert refusal("net.ipv4.tcp_syncookies", hostNetwork=True) == (
        "spec.securityContext.sysctls[0].name: net.ipv4.tcp_syncookies would be the machine's own in a pod with hostNetwork; "
        "leave one of them out"
    )


def test_labels_of_selinux_are_refused_where_there_is_selinux(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"containers": [{"name": "c"}], "securityContext": {"seLinuxOptions": {"level": "s0"}}}
    monkeypatch.setattr(machine, "selinux", lambda: False)
    assert check_pod({"spec": spec}, None) == [
        "spec.securityContext.seLinuxOptions: this machine has no SELinux, so nothing acts on them"
    ]
    monkeypatch.setattr(machine, "selinux", lambda: True)
    with pytest.raises(Denied, match="SELinux labels are not set here, though the machine has it; leave them out"):
        check_pod({"spec": spec}, None)


def test_the_older_annotation_of_apparmor_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(value: str) -> list[str]:
        annotations = {"container.apparmor.security.beta.kubernetes.io/c": value}
        return check_pod({"metadata": {"annotations": annotations}, "spec": {"containers": []}}, None)

    monkeypatch.setattr(machine, "apparmor", lambda: True)
    assert check("runtime/default") == check("unconfined") == []
    with pytest.raises(Denied, match="AppArmor profiles of your own are not supported"):
        check("localhost/mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to a group needs root")
def test_a_volume_is_given_to_a_group_again_only_when_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    give_to_group(tmp_path / "v", 4321, always=False)
    private = tmp_path / "v" / "key"
    private.write_text("x")
    private.chmod(0o600)

    give_to_group(tmp_path / "v", 4321, always=False)
    assert private.stat().st_mode & 0o777 == 0o600
    give_to_group(tmp_path / "v", 4321, always=True)
    assert (private.stat().st_mode & 0o777, private.stat().st_gid) == (0o660, 4321)
