"""Our own containerd: its configuration and command line. The engine's supervisor runs it; the agent only speaks to it.

Everything it keeps is under `DATA/node/containerd` (images, snapshots, what was running) and the run directory
(sockets, running tasks), so several engines run side by side and none touches a containerd of somebody else.
"""

from __future__ import annotations

import json
from pathlib import Path

from trimtab.components.node import machine
from trimtab.runtime.settings import Settings

PAUSE_TAG = "pause:1"
"""Name and tag of the sandbox image; the tag counts up when what is in it changes."""

UNUSED_PLUGINS = (
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.native",
    "io.containerd.monitor.v1.cgroups",
)
"""monitor.v1.cgroups would also report OOM kills on cgroup v1, but the shims do that themselves."""


def pause_image(settings: Settings) -> str:
    """The reference of the sandbox image, which the agent serves to containerd."""
    return f"{settings.image_registry}/{PAUSE_TAG}"


def hosts_directory(settings: Settings) -> Path:
    """Where containerd looks up registries (`NAME/hosts.toml`), read anew at each pull."""
    return settings.data_path("node", "registries")


def cni_directory(settings: Settings) -> Path:
    return settings.data_path("node", "cni")


def containerd_config(settings: Settings) -> str:
    """The text of containerd's configuration file (TOML, version 2) for this engine on this machine."""
    groups = machine.cgroups()
    return f"""\
version = 2
root = {_text(settings.data_path("node", "containerd"))}
state = {_text(settings.run_path("containerd"))}
disabled_plugins = {json.dumps(list(UNUSED_PLUGINS))}

[grpc]
  address = {_text(settings.containerd_socket)}

[ttrpc]
  address = {_text(settings.run_path("containerd.ttrpc.sock"))}

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {_text(pause_image(settings))}
  disable_apparmor = {_bool(not machine.apparmor())}
  restrict_oom_score_adj = {_bool(not machine.has_capability(machine.CAP_SYS_RESOURCE))}
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  max_container_log_line_size = 16384

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {_text(machine.CNI_PLUGINS)}
    conf_dir = {_text(cni_directory(settings))}
    max_conf_num = 1

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {_text(hosts_directory(settings))}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = {_text(machine.binary("runc") or "runc")}
        SystemdCgroup = {_bool(groups.driver == "systemd")}
"""


def containerd_command(settings: Settings) -> list[str]:
    """Writes the configuration and the directories it names, and returns the command that runs containerd in the
    foreground. Must be called as root."""
    for directory, mode in (
        (settings.data_path("node"), 0o700),
        (settings.data_path("node", "containerd"), 0o711),
        (hosts_directory(settings), 0o700),
        (cni_directory(settings), 0o700),
    ):
        directory.mkdir(parents=True, exist_ok=True, mode=mode)
    settings.run_path().mkdir(parents=True, exist_ok=True, mode=0o755)
    path = settings.data_path("node", "containerd.toml")
    path.write_text(containerd_config(settings))
    return [machine.binary("containerd") or "containerd", "--config", str(path)]


def _text(value: object) -> str:
    return json.dumps(str(value))


def _bool(value: bool) -> str:
    return "true" if value else "false"
