"""A whole engine that keeps a cloud: `trimtab start`, the cloud's provider installed from a path, a fake cloud on loopback.

    with cloud_engine() as world: world.engine.run("apply", ...); world.cloud.things(...)

The provider is a Python program, so it is let read this interpreter and its packages; otherwise it is shut in as every other.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloud_provider
import misbehaving_provider
import trimtab
from cloud import Cloud
from engine_under_test import EngineUnderTest, wait_for
from small_disk import small_disk

KINDS = ("cloud_server", "cloud_network", "cloud_cluster")
GROUP = "cloud.tf.trimtab.dev/v1"
READS = (sys.prefix, sys.base_prefix, str(Path(trimtab.__file__).parents[1]))
"""What the provider's interpreter needs."""


@dataclass
class CloudEngine:
    engine: EngineUnderTest
    cloud: Cloud
    folder: Path

    def install(self, *faults: str, version: str = "1.0.0", name: str = "cloud", check: bool = True) -> Any:
        """`trimtab provider install` of the cloud's provider with these faults. What it said."""
        program = provider_program(self.folder, *faults)
        reads = [part for path in READS for part in ("--read", path)]
        source = f"trimtab/{name}@{version}"
        return self.engine.run("provider", "install", source, "--path", str(program), *reads, check=check)

    def enable(self, *resources: str) -> None:
        self.engine.run("provider", "enable", "cloud", *resources)

    def credential(
        self, name: str = "default", token: str = "secret", *, namespace: str = "default", **spec: Any
    ) -> None:
        """A Secret and a ProviderConfig for the fake cloud."""
        config = {"provider": "cloud", "config": {"url": self.cloud.url}, "requestsPerSecond": 500.0}
        config |= {"secrets": {"token": {"name": f"cloud-{name}", "key": "token"}}} | spec
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": f"cloud-{name}", "namespace": namespace},
                "stringData": {"token": token},
            },
            {
                "apiVersion": "trimtab.dev/v1alpha1",
                "kind": "ProviderConfig",
                "metadata": {"name": name, "namespace": namespace},
                "spec": config,
            },
        )

    def apply(self, *objects: dict[str, Any], check: bool = True) -> Any:
        """`trimtab apply` of these, into the namespace default."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.engine.run("apply", "-f", "-", check=check, input=text)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        done = self.engine.run("get", kind, name, "-n", namespace, "-o", "json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def condition(self, kind: str, name: str, type: str, namespace: str = "default") -> dict[str, Any]:
        found = self.get(kind, name, namespace) or {}
        conditions = found.get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == type), {})

    def until(
        self,
        kind: str,
        name: str,
        type: str = "Ready",
        status: str = "True",
        reason: str = "",
        *,
        namespace: str = "default",
    ) -> dict[str, Any]:
        """Waits for a condition of an object; returns it."""

        def met() -> dict[str, Any] | None:
            one = self.condition(kind, name, type, namespace)
            return one if one.get("status") == status and reason in ("", one.get("reason")) else None

        found: dict[str, Any] = wait_for(
            met, 60, lambda: f"{kind} {name}: {self.get(kind, name, namespace)}\n{self.engine.logs()}"
        )
        return found


def provider_program(folder: Path, *faults: str) -> Path:
    """The cloud's provider as one file that runs by itself. `5` among the faults is the older protocol."""
    source = Path(cloud_provider.__file__).read_text()
    path = folder / f"terraform-provider-cloud{''.join(sorted(f'-{fault}' for fault in faults))}"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv += {sorted(faults)!r}\nexec(compile({source!r}, 'cloud', 'exec'))\n"
    )
    path.chmod(0o755)
    return path


def misbehaving_program(folder: Path) -> tuple[Path, list[str]]:
    """The cloud's provider gone wrong (`misbehaving_provider.py`) as a program, and the options with which it is installed."""
    beside = folder / "misbehaving"
    beside.mkdir(exist_ok=True)
    for module in (cloud_provider, misbehaving_provider):
        shutil.copy(str(module.__file__), beside)
    path = folder / "terraform-provider-misbehaving"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(beside)!r})\n"
        "import cloud_provider, misbehaving_provider\ncloud_provider.main(misbehaving_provider.Misbehaving())\n"
    )
    path.chmod(0o755)
    return path, [part for read in (*READS, str(beside)) for part in ("--read", read)]


def server(
    name: str, *, interval: str = "1s", spec: dict[str, Any] | None = None, namespace: str = "default", **fields: Any
) -> dict[str, Any]:
    """An object of the kind Server."""
    given = {"name": name, "region": "eu"} | fields
    return {
        "apiVersion": GROUP,
        "kind": "Server",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"forProvider": given, "interval": interval, **(spec or {})},
    }


@contextmanager
def bare_engine(more: Sequence[str] = ("--no-node",), disk_mib: int = 0) -> Iterator[CloudEngine]:
    """A started engine beside a fake cloud, without a provider. disk_mib: of a disk of its own for its data; 0: it has none."""
    with tempfile.TemporaryDirectory(prefix="tt-cloud-") as folder, Cloud() as cloud, ExitStack() as disks:
        place = disks.enter_context(small_disk(Path(folder) / "disk", disk_mib)) if disk_mib else Path(folder)
        world = CloudEngine(EngineUnderTest(place / "data"), cloud, Path(folder))
        Path(folder).chmod(0o755)
        try:
            world.engine.start(*more)
            yield world
        finally:
            world.engine.remove()  # which may be another one by then


@contextmanager
def cloud_engine(
    *faults: str, enabled: Sequence[str] = KINDS, more: Sequence[str] = ("--no-node",), disk_mib: int = 0
) -> Iterator[CloudEngine]:
    """A started engine with the provider installed, these kinds enabled, and a ProviderConfig `default` for the cloud."""
    with bare_engine(more, disk_mib) as world:
        world.install(*faults)
        if enabled:
            world.enable(*enabled)
        world.credential()
        yield world
