"""The client for JavaScript (`@kubernetes/client-node`): objects, watch, informer, apply, exec, port-forward, logs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from client_place import Place

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).with_name("use_client_node.mjs")


def test_the_client_for_javascript(place: Place, program: Callable[[str], str], namespace: str) -> None:
    modules = os.path.dirname(program("node_modules"))

    said = place.run("node", str(SCRIPT), namespace, place.image, MODULES=modules, timeout_s=300)

    assert said == "ok\n"
