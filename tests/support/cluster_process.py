"""A whole real Kubernetes of one node: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, and a
containerd of its own with runc and the CNI plugins; a registry over TLS; cluster DNS by our own server.

All of it lives in namespaces of its own (network, mounts, processes), joined to the machine by one pair of interfaces:

    the machine  10.213.N.1 ---- 10.213.N.2  the node: API, registry, pods 10.214.0.0/24, services 10.96.0.0/16

The end of the first process of the process namespace is the end of everything in it, containers included; the interfaces go
with the network namespace. What outlives namespaces, cgroups, is removed.

`.ci/kubernetes` and `.ci/cluster` build the programs.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from api_process import free_port, issue
from kubernetes_process import KubernetesProcess

HERE = Path(__file__).parent
NODE = "node-1"
POD_CIDR, BRIDGE_ADDRESS = "10.214.0.0/24", "10.214.0.1"
CGROUPS = Path("/sys/fs/cgroup")
KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet wants of the kernel it runs on, and sets (pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables).
Here it finds files with these values instead: the kernel is the machine's, not the test's."""
VOLUMES = 6
NODE_READY_S = 180.0


class ClusterProcess(KubernetesProcess):
    """One cluster. `start`, then `kubeconfig()`, `run(...)` for a program on the node, `close`."""

    def __init__(self, folder: Path, programs: Path, node_programs: Path) -> None:
        number = secrets.randbelow(250) + 1
        self.machine_address, address = f"10.213.{number}.1", f"10.213.{number}.2"
        super().__init__(folder, programs, address=address)
        self.registry = f"{address}:{free_port()}"
        self._node_programs = node_programs
        self._link = f"ttc{number}"
        self._cgroup = f"ttc-{secrets.token_hex(3)}"
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._tokens = {"node": "n" * 40, "proxy": "p" * 40}
        with (folder / "tokens.csv").open("a") as tokens:
            tokens.write(f'{self._tokens["node"]},system:node:{NODE},node,"system:nodes"\n')
            tokens.write(f"{self._tokens['proxy']},system:kube-proxy,proxy\n")
        _, key, authority = issue("node test CA", None, None)
        pem, _, certificate = issue("kube-apiserver", authority, key, organization="system:masters")
        from cryptography.hazmat.primitives.serialization import Encoding

        (folder / "kubelet-client-ca.crt").write_bytes(authority.public_bytes(Encoding.PEM))
        (folder / "kubelet-client.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (folder / "kubelet-client.key").write_bytes(pem)

    # Life

    def start(self) -> None:
        """Returns once the node is Ready.

        Raises:
            AssertionError: with the end of the log of what did not start.
        """
        self._make_namespaces()
        super().start()
        self._spawn(
            "kube-scheduler",
            [
                str(self._node_programs / "kube-scheduler"),
                f"--kubeconfig={self.kubeconfig()}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
        )
        self._spawn("registry", ["docker-registry", "serve", str(self._registry_config())])
        self._spawn("containerd", ["/usr/bin/containerd", "--config", str(self._containerd_config())])
        self._put_pause_image()
        self._spawn(
            "kube-proxy", [str(self._node_programs / "kube-proxy"), f"--config={self._proxy_config()}", "--v=1"]
        )
        self._spawn("kubelet", self._kubelet())
        self._spawn("dns", [sys.executable, str(HERE / "cluster_dns.py"), str(self.kubeconfig())])
        self._until("the node is not Ready", self._node_ready, NODE_READY_S)
        self._make_storage()

    def close(self) -> None:
        """Ends and removes everything; may be called at any point of a start."""
        super().close()
        if self._init is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._init.kill()
            self._init.wait()
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True, check=False)
        for hierarchy in CGROUPS.iterdir():
            _remove_groups(hierarchy / self._cgroup)

    def command(self, *command: str) -> list[str]:
        """A command line that runs a program on the node."""
        return ["nsenter", "--target", str(self._pid), "--mount", "--net", "--pid", "--", *command]

    def run(self, *command: str, timeout_s: float = 120.0, stdin: str | None = None) -> str:
        """Runs a program on the node and returns what it prints.

        Raises:
            AssertionError: it failed, with what it said.
        """
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=timeout_s, input=stdin, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120.0) -> str:
        program = shutil.which("kubectl")
        assert program is not None, "kubectl is not on PATH: install it"
        return self.run(program, "--kubeconfig", str(self.kubeconfig()), *arguments, timeout_s=timeout_s, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    # Namespaces

    def _make_namespaces(self) -> None:
        folder = self.folder
        for name in ("log", "lib", "lib-work", "run", "kubelet", "cni"):
            (folder / name).mkdir()
        self._init = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "bash", "-c", "sleep infinity & while :; do wait; done"],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        self._until("no namespaces", lambda: bool(children.read_text().split()), 20.0)
        self._pid = int(children.read_text().split()[0])
        self._until("bash has not begun", lambda: Path(f"/proc/{self._pid}/comm").read_text() == "bash\n", 20.0)
        shell(f"ip link add {self._link} type veth peer name wire netns {self._pid}")
        shell(f"ip address add {self.machine_address}/30 dev {self._link} && ip link set {self._link} up")
        self.run(
            "bash", "-ec",
            f"""
            mount -t overlay overlay -o lowerdir=/var/lib,upperdir={folder}/lib,workdir={folder}/lib-work /var/lib
            mount --bind {folder}/log /var/log
            mount -t tmpfs tmpfs /run
            {self._cover_kernel_settings()}
            mount --bind {folder}/kubelet {folder}/kubelet
            mount --make-rshared {folder}/kubelet
            ip link set lo up
            ip address add {self.address}/30 dev wire
            ip link set wire up
            ip route add default via {self.machine_address}
            ip link add cni0 type bridge
            ip address add {BRIDGE_ADDRESS}/24 dev cni0
            ip link set cni0 up
            echo 1 > /proc/sys/net/ipv4/ip_forward
            [ ! -e /proc/sys/net/bridge ] || echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
            """,
        )  # fmt: skip
        for hierarchy in CGROUPS.iterdir():
            if hierarchy.is_dir() and hierarchy.name != "unified":
                group = hierarchy / self._cgroup
                group.mkdir()
                if hierarchy.name == "cpuset":
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (group / file).write_text((hierarchy / file).read_text())

    def _cover_kernel_settings(self) -> str:
        lines = []
        for name, value in KERNEL_SETTINGS.items():
            file = self._written(name.replace("/", "-"), f"{value}\n")
            lines.append(f"mount --bind {file} /proc/sys/{name}")
        return "\n".join(lines)

    def _spawn(self, name: str, command: list[str]) -> None:
        super()._spawn(name, self.command(*command))

    # Programs

    def _api_server(self) -> list[str]:
        replaced = ("--authorization-mode", "--disable-admission-plugins", "--endpoint-reconciler-type")
        return [
            *(flag for flag in super()._api_server() if not flag.startswith(replaced)),
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-client-certificate={self.folder / 'kubelet-client.crt'}",
            f"--kubelet-client-key={self.folder / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def _controllers(self) -> list[str]:
        return [
            *(flag for flag in super()._controllers() if not flag.startswith("--controllers")),
            f"--root-ca-file={self.folder / 'ca.crt'}",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
        ]

    def _kubelet(self) -> list[str]:
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "readOnlyPort": 0,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.folder / "kubelet-client-ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": "unix:///run/containerd.sock",
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "enforceNodeAllocatable": ["pods"],
            # No process here may lower the score that it is killed by: that takes CAP_SYS_RESOURCE.
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
            "clusterDNS": [BRIDGE_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self._written("resolv.conf", "")),
            "podLogsDir": "/var/log/pods",
            "volumePluginDir": str(self.folder / "plugins"),
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "5s",
        }
        return [
            str(self._node_programs / "kubelet"),
            f"--config={self._written('kubelet.json', json.dumps(config))}",
            f"--kubeconfig={self._kubeconfig_of('node')}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet-pki'}",
            f"--hostname-override={NODE}",
            f"--node-ip={self.address}",
        ]

    def _proxy_config(self) -> Path:
        return self._written(
            "kube-proxy.json",
            json.dumps(
                {
                    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                    "kind": "KubeProxyConfiguration",
                    "mode": "nftables",
                    "clusterCIDR": POD_CIDR,
                    "clientConnection": {"kubeconfig": str(self._kubeconfig_of("proxy"))},
                    "hostnameOverride": NODE,
                    "healthzBindAddress": "127.0.0.1:10256",
                    "metricsBindAddress": "127.0.0.1:10249",
                    "oomScoreAdj": 0,
                    "conntrack": {
                        "maxPerCore": 0,
                        "min": 0,
                        "tcpEstablishedTimeout": "0s",
                        "tcpCloseWaitTimeout": "0s",
                    },
                }
            ),
        )

    def _containerd_config(self) -> Path:
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_CIDR, "gateway": BRIDGE_ADDRESS}]], "routes": [{"dst": "0.0.0.0/0"}]},
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }  # fmt: skip
        (self.folder / "cni" / "10-pods.conflist").write_text(json.dumps(network))
        return self._written(
            "containerd.toml",
            f"""\
version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{self.registry}/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{self._registry_hosts()}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
""",
        )

    def _registry_config(self) -> Path:
        return self._written(
            "registry.yml",
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.folder / 'registry'}}}}}\n"
            f"http: {{addr: '{self.registry}', tls: {{certificate: {self.folder}/server.crt, key: {self.folder}/server.key}}}}\n",
        )

    def _registry_hosts(self) -> Path:
        """How containerd comes to trust the registry's certificate."""
        folder = self.folder / "registries" / self.registry
        folder.mkdir(parents=True)
        text = (
            f'server = "https://{self.registry}"\n[host."https://{self.registry}"]\n  ca = "{self.folder / "ca.crt"}"\n'
        )
        (folder / "hosts.toml").write_text(text)
        return folder.parent

    def environment(self) -> dict[str, str]:
        """The environment of a program that trusts the registry besides what this machine trusts."""
        trusted = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")).read_text()
        bundle = self._written("trusted.crt", trusted + (self.folder / "ca.crt").read_text())
        self.folder.chmod(0o711)
        return {**os.environ, "SSL_CERT_FILE": str(bundle), "TRIMTAB_REGISTRY": self.registry}

    def _put_pause_image(self) -> None:
        command = [sys.executable, str(HERE / "cluster_images.py"), str(self.folder / "content"), self.registry]
        self._until("the registry does not listen", self._registry_listens, 30.0)
        subprocess.run(command, check=True, timeout=60, env=self.environment())

    def _registry_listens(self) -> bool:
        host, _, port = self.registry.partition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=2):
            return True
        return False

    def _make_storage(self) -> None:
        """What the operator of a bare cluster does: a default StorageClass, and disks of the node as volumes of it."""
        objects: list[dict[str, Any]] = [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": "disks", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            }
        ]
        for number in range(VOLUMES):
            path = self.folder / "disks" / str(number)
            path.mkdir(parents=True)
            here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
            objects.append(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": f"disk-{number}"},
                    "spec": {
                        "capacity": {"storage": "2Gi"},
                        "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": "disks",
                        "local": {"path": str(path)},
                        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
                    },
                }
            )
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    # Looks

    def _node_ready(self) -> bool:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}: {self._last_words(name)}"
        nodes = self.get("nodes")["items"]
        conditions = [c for node in nodes for c in node["status"].get("conditions", [])]
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _until(self, complaint: str, there: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not there():
            assert time.monotonic() < deadline, f"{complaint} after {within_s:.0f} s"
            time.sleep(0.1)

    def _kubeconfig_of(self, who: str) -> Path:
        config = json.loads(self.kubeconfig().read_text())
        config["users"][0]["user"]["token"] = self._tokens[who]
        return self._written(f"{who}.kubeconfig", json.dumps(config))

    def _written(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


def shell(line: str) -> None:
    done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{line}: {done.stderr}"


def _remove_groups(top: Path) -> None:
    """Removes a cgroup and those below it, from the leaves up; what ends in them may take a moment."""
    deadline = time.monotonic() + 20.0
    while top.is_dir():
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        assert time.monotonic() < deadline, f"{top} cannot be removed"
