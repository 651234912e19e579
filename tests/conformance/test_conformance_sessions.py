"""kubectl's verbs, word for word: each session was recorded on the real kube-apiserver and is played again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import kubectl_sessions as sessions

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

FOLDER = Path(__file__).with_name("sessions")
# The others take a minute more; `create` repeats much of what other tests send.
IN_CI = ("apply", "change")


@pytest.fixture
def environment(kubeconfig: Path, namespace: str, tmp_path: Path) -> dict[str, str]:
    """The shell's environment: a kubeconfig whose namespace is the test's."""
    config = json.loads(kubeconfig.read_text())
    for context in config["contexts"]:
        context["context"]["namespace"] = namespace
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "TZ": "UTC",
        "NAMESPACE": namespace,
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=() if path.stem in IN_CI else pytest.mark.long)
        for path in sorted(FOLDER.glob("*.session"))
    ],
)
def test_a_session_prints_what_the_real_server_made_it_print(
    name: str, environment: dict[str, str], namespace: str, tmp_path: Path
) -> None:
    path = FOLDER / f"{name}.session"
    names = {namespace: "NAMESPACE", str(tmp_path): "HOME"}
    wrong = sessions.replay(path, environment, tmp_path, names)
    if wrong is None:
        pytest.skip("recorded")
    assert not wrong, wrong
