"""A provider of others, by the path of its program: how long until all of its kinds are enabled, and what they cost.

    python benchmarks/infrastructure_provider.py PROGRAM [NAMESPACE/NAME[@VERSION]]

As root: starts an engine of its own, installs the provider, enables all that it has, and disables it again. What the definitions weigh is
what the API server stores of them; depth that a definition cannot have is a field whose content is not checked here (the provider checks it).
Nothing is asked of any cloud.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from infrastructure_engine import CloudEngine, bare_engine
from trimtab.components.infrastructure.protocol.provider import Provider
from trimtab.engine.procfs import cpu_s, pss_bytes, rss_bytes

PATIENCE_S = 1800
PROCESSES = ("api", "controllers")
FREE = "x-kubernetes-preserve-unknown-fields"


def main() -> None:
    if len(sys.argv) < 2:
        print("skipped: name the program of a provider")
        return
    program = Path(sys.argv[1])
    source = (
        sys.argv[2] if len(sys.argv) > 2 else f"acme/{program.name.removeprefix('terraform-provider-').split('_')[0]}"
    )
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}; {program.stat().st_size:,} bytes")
    with bare_engine() as world:
        measure(world, program, source)
        print(f"  the provider itself, asked for its schema: {asyncio.run(_own_mb(world, program)):.0f} MB")


async def _own_mb(world: CloudEngine, program: Path) -> float:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(world.folder)}
    provider = await Provider.start([str(program)], world.folder, name=program.name, environment=environment)
    try:
        await provider.schema()
        return rss_bytes(provider.plugin.pid) / 1e6
    finally:
        await provider.close()


def measure(world: CloudEngine, program: Path, source: str) -> None:
    name = source.partition("@")[0].rpartition("/")[2]
    memory = {"before": _memory(world)}
    installing = _timed(world, "install", source, "--path", str(program))
    memory["installed"] = _memory(world)
    kinds = [one["kind"] for one in world.engine.json("provider", "kinds", name) if one["kind"]]
    enabling = _timed(world, "enable", name, "*")
    memory["all enabled"] = _memory(world)
    print(f"{len(kinds)} kinds: installed after {installing}, all enabled and served {enabling} later")
    for when, found in memory.items():
        print(f"  {when}: " + ", ".join(f"{process} {size_mb:.0f} MB" for process, size_mb in found.items()))
    _weigh(world, name)
    print(
        f"  one more kind read, of {len(kinds)}: {_read_s(world, f'{kinds[-1].lower()}s.{name}.tf.trimtab.dev'):.2f} s"
    )
    print(f"  all disabled after {_timed(world, 'disable', name, '*')}; load {os.getloadavg()[0]:.2f}")


def _timed(world: CloudEngine, *arguments: str) -> str:
    """How long a command took, and how much work it was: for itself (the provider's program, too), the API server, the controllers."""
    began, before = time.monotonic(), _work_s(world)
    world.engine.run("provider", *arguments, timeout_s=PATIENCE_S)
    took_s, after = time.monotonic() - began, _work_s(world)
    work = ", ".join(f"{name} {after[name] - before[name]:.1f}" for name in after)
    return f"{took_s:.1f} s (work: {work})"


def _work_s(world: CloudEngine) -> dict[str, float]:
    """Seconds of processors used so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = {"command": children.ru_utime + children.ru_stime}
    for name in PROCESSES:
        out[name] = cpu_s(world.engine.pid(name))
    return out


def _read_s(world: CloudEngine, kind: str) -> float:
    """Seconds of `trimtab get` of a kind, discovery of all of them included."""
    began = time.monotonic()
    world.engine.run("get", kind)
    return time.monotonic() - began


def _weigh(world: CloudEngine, name: str) -> None:
    found = world.engine.json("get", "customresourcedefinitions")["items"]
    ours = [one for one in found if one["spec"]["group"] == f"{name}.tf.trimtab.dev"]
    sizes = sorted((len(json.dumps(one, separators=(",", ":"))), one["spec"]["names"]["kind"]) for one in ours)
    total = sum(size for size, _ in sizes)
    largest = ", ".join(f"{kind} {size / 1024:.0f} KiB" for size, kind in sizes[:-6:-1])
    cut = sorted(one["spec"]["names"]["kind"] for one in ours if _free(_given(one)))
    kinds = [one["spec"]["names"]["kind"] for one in ours]
    plurals = [one["spec"]["names"]["plural"] for one in ours]
    clashes = len(kinds) - len(set(kinds)) + len(plurals) - len(set(plurals))
    print(
        f"  {len(ours)} definitions, {total / 2**20:.1f} MiB of JSON; the largest: {largest}; names that clash: {clashes}"
    )
    print(f"  {len(cut)} have a field of any content: {', '.join(cut)}")


def _given(definition: dict[str, Any]) -> Any:
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema["properties"]["spec"]["properties"]["forProvider"]


def _free(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value.get(FREE)) or any(_free(one) for one in value.values())
    return isinstance(value, list) and any(_free(one) for one in value)


def _memory(world: CloudEngine) -> dict[str, float]:
    return {name: pss_bytes(world.engine.pid(name)) / 1e6 for name in PROCESSES}


if __name__ == "__main__":
    main()
