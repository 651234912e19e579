"""The command line itself: help, usage errors, exit statuses, speed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from trimtab.cli.failures import explain
from trimtab.cli.root import SECTIONS, root
from trimtab.client import Conflict, NotFound
from trimtab.engine.errors import EngineError, NotRunning

TRIMTAB = [sys.executable, "-m", "trimtab.cli"]


def trimtab(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TRIMTAB, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_every_command_exists_and_explains_itself() -> None:
    for commands in SECTIONS.values():
        for name, (target, _) in commands.items():
            module, _, attribute = target.partition(":")
            command = getattr(importlib.import_module(module), attribute)
            assert isinstance(command, click.Command), name
            assert command.help, name
            shown = CliRunner().invoke(root, [name, "--help"])
            assert shown.exit_code == 0, name
            assert "Usage: " in shown.output


def test_help_imports_nothing_heavy() -> None:
    """What makes the help quick (`benchmarks/engine.py` prints how quick): click and the tables of commands, nothing else."""
    probe = "import sys; from trimtab.cli.root import root; root(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    for heavy in ("'aiohttp'", "'msgspec'", "'asyncio'", "'yaml'", "'grpc'", "'cryptography'"):
        assert heavy not in loaded
    assert loaded.count(",") < 200


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["strat"], "there is no command 'strat': did you mean `trimtab start`?"),
        (["top"], "there is no command 'top': `trimtab status` shows the engine, `kubectl top pods` the pods"),
        (["fly"], "there is no command 'fly': `trimtab --help` lists all"),
        (["start", "--port", "99999"], "99999 is not in the range 1<=x<=65535."),
        (["get"], "Missing argument 'KIND [NAME...]'."),
        (["delete"], "give either KIND NAME... or -f FILE"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what(arguments: list[str], line: str) -> None:
    done = trimtab(*arguments)
    assert done.returncode == 2
    assert line in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["status"], ["stop"], ["kubeconfig"], ["get", "pods"], ["timeline"]])
def test_no_engine_is_status_3_and_one_line(tmp_path: Path, command: list[str]) -> None:
    done = trimtab("--data", str(tmp_path / "none"), *command)
    assert done.returncode == 3
    assert done.stderr == (
        f"trimtab: there is no engine at {tmp_path}/none: make one with `trimtab --data {tmp_path}/none start`\n"
    )


def test_the_data_directory_comes_from_the_environment_too(tmp_path: Path) -> None:
    done = trimtab("status", TRIMTAB_DATA=str(tmp_path / "other"))
    assert f"there is no engine at {tmp_path}/other" in done.stderr


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{corrupt", "line 1"),
        ("just text", "kubeconfig"),
        ("apiVersion: v1\nkind: Config\n", "it has no list of clusters"),
    ],
)
def test_a_corrupt_kubeconfig_is_one_line(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)

    done = trimtab("--kubeconfig", str(path), "get", "pods")

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr
    assert line in done.stderr


def test_an_api_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    }  # fmt: skip
    path.write_text(json.dumps(config))

    done = trimtab("--kubeconfig", str(path), "get", "pods")

    assert done.returncode == 3
    assert done.stderr.startswith("trimtab: the API server at http://127.0.0.1:1 cannot be reached: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root")
def test_start_without_root_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; from trimtab.engine.lifecycle import require_root; os.setuid(65534)"
         "\ntry: require_root('trimtab start')\nexcept Exception as err: print(err)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "trimtab start needs root (it runs containers and networks): run it with sudo\n"


def test_failures_have_statuses() -> None:
    assert explain(EngineError("a")) == ("a", 1)
    assert explain(NotRunning("b")) == ("b", 3)
    assert explain(ExceptionGroup("both", [NotRunning("c")])) == ("c", 3)
    assert explain(NotFound(404, "NotFound", 'pods "x" not found', [])) == ('pods "x" not found', 4)
    assert explain(Conflict(409, "Conflict", "d", []))[1] == 1  # type: ignore[index]
    assert explain(ConnectionError("e")) == ("e", 3)
    assert explain(ZeroDivisionError()) is None


def test_a_closed_pipe_is_no_error() -> None:
    with subprocess.Popen([*TRIMTAB, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        time.sleep(0)
        _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors


def test_a_node_configuration_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kubelet.yaml"
    path.write_text("kind: KubeletConfiguration\nmaxPods: 5\n")

    done = CliRunner().invoke(root, ["start", "--node-config", str(path)])

    assert done.exit_code == 2
    assert f"{path}: maxPods: nothing acts on this field; leave it out" in done.output
