"""Keeps what this release stores, for the tests of later ones: `python tests/contract/store_release.py`, once a release.

Writes RELEASE/COMPONENT.json beside itself, from the scenarios of the contract tests; commit the files with the release.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import trimtab
from trimtab.runtime.contract import stored

HERE = Path(__file__).parent
EARLIER = HERE / "earlier"
COMPONENTS = ("apps", "backups", "ingress", "node", "volumes", "workloads")


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


if __name__ == "__main__":
    main()
