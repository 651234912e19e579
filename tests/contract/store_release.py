"""Keeps what this release stores, for the tests of later ones: `python tests/contract/store_release.py`, once a release.

Writes RELEASE/COMPONENT.json beside itself, from the scenarios of the contract tests, and RELEASE/store.sqlite, a store with a few
steps of every sort; commit the files with the release.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path

import trimtab
from trimtab.runtime.contract import stored
from trimtab.store import Put, Store

HERE = Path(__file__).parent
EARLIER = HERE / "earlier"
COMPONENTS = ("apps", "backups", "infrastructure", "ingress", "node", "pipelines", "profiling", "volumes", "workloads")


def main() -> None:
    sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
    make_api = importlib.import_module("simulated_api").make_api
    folder = EARLIER / trimtab.__version__
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPONENTS:
        story = importlib.import_module(f"test_contract_{name}")
        data = stored(story.JUDGED, story.SCENARIOS, make_api)
        (folder / f"{name}.json").write_text(data)
        print(f"{folder.name}/{name}.json: {len(data) / 1e3:.0f} kB")
    asyncio.run(write_store(folder / "store.sqlite"))


async def write_store(path: Path) -> None:
    """A store with creations, changes, a deletion, and some history compacted."""
    path.unlink(missing_ok=True)
    store = await Store.open(path)
    for number in range(20):
        await store.write([Put(f"/core/configmaps/default/map-{number}", json.dumps({"number": number}).encode())])
    await store.write([Put("/core/configmaps/default/map-3", b'{"number":33}')])
    await store.write([Put("/core/configmaps/default/map-4", None)])
    await store.compact(10)
    await store.close()
    path.with_name(path.name + ".lock").unlink()


if __name__ == "__main__":
    main()
