"""kubectl where pods run: sessions recorded on a whole real Kubernetes print the same again on an engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kubectl_sessions as sessions
from client_place import Place

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(900)]
FOLDER = Path(__file__).with_name("sessions")


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.session"))])
def test_a_session_prints_what_a_real_node_made_it_print(
    name: str, place: Place, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KUBECONFIG": str(kubeconfig),
        "TZ": "UTC",
        "NAMESPACE": namespace,
        "IMAGE": place.image,
        "NODE": place.node,
    }
    names = {place.image: "IMAGE", namespace: "NAMESPACE", str(tmp_path): "HOME"}

    wrong = sessions.replay(FOLDER / f"{name}.session", environment, tmp_path, names)

    if wrong is None:
        pytest.skip("recorded")
    assert not wrong, wrong
