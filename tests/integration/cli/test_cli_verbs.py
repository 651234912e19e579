"""The everyday verbs against a real engine, as a person without kubectl uses them."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine_under_test import TRIMTAB, EngineUnderTest, wait_for
from node_world import BUSYBOX, busybox_image
from trimtab.content import ContentStore

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: followed}\nspec: {ports: [{port: 80}]}\n"
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, labels: {app: web}}\ndata: {colour: blue}\n"


@pytest.fixture(scope="module")
def pod(running: EngineUnderTest) -> str:
    """A running pod named `shell` that says "alive" once a second."""
    image = busybox_image(ContentStore(running.data / "content"))
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "shell"},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["/bin/sh", "-c", "while true; do echo alive; sleep 1; done"],
                }
            ],
            "terminationGracePeriodSeconds": 0,
        },
    }
    running.run("apply", "-f", "-", input=json.dumps(manifest))
    wait_for(lambda: "1/1" in running.run("get", "pod", "shell").stdout, 30, "the pod is ready")
    return "shell"


@contextmanager
def reading(running: EngineUnderTest, *arguments: str) -> Iterator[Iterator[str]]:
    """The lines of a command that goes on until it is ended; it is ended after 20 s at the latest."""
    command = ["timeout", "20", str(TRIMTAB), "--data", str(running.data), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.terminate()


def test_apply_get_describe_delete(running: EngineUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)

    assert running.run("apply", "-f", str(file)).stdout == "ConfigMap default/settings created\n"
    assert running.run("apply", "-f", str(file)).stdout == "ConfigMap default/settings unchanged\n"
    file.write_text(CONFIG.replace("blue", "green"))
    dry = running.run("apply", "-f", str(file), "--dry-run").stdout
    assert dry == "ConfigMap default/settings changed (dry run)\n"
    assert running.json("get", "cm/settings")["data"] == {"colour": "blue"}
    assert running.run("apply", "-f", str(file)).stdout == "ConfigMap default/settings changed\n"

    listed = running.run("get", "cm", "-l", "app=web").stdout.splitlines()
    assert listed[0].split() == ["NAME", "DATA", "AGE"]
    assert listed[1].split()[:2] == ["settings", "1"]
    assert running.run("get", "cm", "-l", "app=web", "-o", "name").stdout == "configmap/settings\n"
    everywhere = running.run("get", "ns,cm", "-A").stdout
    assert "namespace/kube-system" in everywhere
    assert "colour: green" in running.run("describe", "cm", "settings").stdout
    assert running.run("delete", "-f", str(file)).stdout == "ConfigMap default/settings deleted\n"
    gone = running.run("get", "cm", "settings", check=False)
    assert gone.returncode == 4
    assert "settings" in gone.stderr
    assert gone.stderr.count("\n") == 1


def test_what_is_refused_is_one_line_and_the_rest_is_done(running: EngineUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(
        CONFIG.replace("{colour: blue}", "[1]") + "---\n" + CONFIG.replace("settings", "fine") + "---\n"
        "apiVersion: example.com/v1\nkind: Wheel\nmetadata: {name: w}\n"
    )

    done = running.run("apply", "-f", str(file), check=False)

    assert done.returncode == 1
    assert done.stdout == "ConfigMap default/fine created\n"
    refused = done.stderr.splitlines()
    assert len(refused) == 2
    assert refused[0].startswith(f"trimtab: {file}, document 1: ")
    assert "data" in refused[0]
    assert refused[1] == (
        f"trimtab: {file}, document 3: the server has no kind Wheel in example.com/v1: is its CRD installed?"
    )
    assert running.run("delete", "cm/fine", "cm/none", check=False).returncode == 4
    unknown = running.run("get", "wheels", check=False)
    assert unknown.returncode == 4
    assert unknown.stderr.startswith("trimtab: the server has no kind 'wheels': ")


def test_logs_and_following_them(running: EngineUnderTest, pod: str) -> None:
    assert wait_for(lambda: running.run("logs", pod, "--tail", "1").stdout, 10, "a line") == "alive\n"
    with reading(running, "logs", "-f", "--tail", "1", pod) as lines:
        assert [next(lines) for _ in range(3)] == ["alive\n"] * 3


def test_exec_gives_output_and_exit_status(running: EngineUnderTest, pod: str) -> None:
    done = running.run("exec", pod, "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    echoed = running.run("exec", "-i", pod, "--", "cat", input="through and back\n")
    assert echoed.stdout == "through and back\n"
    entered = f"Pod default/{pod} entered (exec) by trimtab"
    wait_for(lambda: entered in running.run("timeline").stdout, 60, "who entered")
    missing = running.run("exec", "nosuch", "--", "true", check=False)
    assert missing.returncode == 4
    assert missing.stderr.count("\n") == 1
    without = running.run("exec", pod, "--", "python3", check=False)
    assert (without.returncode, without.stderr) == (
        1,
        f'trimtab: container "main" of pod "{pod}" has no "python3" in its $PATH; `trimtab debug {pod}` opens a shell with tools beside it\n',
    )


def test_exec_with_a_terminal(running: EngineUnderTest, pod: str) -> None:
    main, other = pty.openpty()
    with subprocess.Popen(
        [str(TRIMTAB), "--data", str(running.data), "exec", "-it", pod, "--", "sh"],
        stdin=other, stdout=other, stderr=other, start_new_session=True,
    ) as shell:  # fmt: skip
        os.close(other)
        os.write(main, b"tty; exit 3\n")
        seen = b""
        deadline = time.monotonic() + 20
        while b"/dev/pts/" not in seen and time.monotonic() < deadline:
            if select.select([main], [], [], 1.0)[0]:
                seen += os.read(main, 4096)
        assert b"/dev/pts/" in seen
        assert shell.wait(60) == 3
    os.close(main)


def test_debug_runs_a_command_beside_a_container(running: EngineUnderTest, pod: str) -> None:
    done = running.run(
        "debug", pod, "--image", BUSYBOX, "--", "/bin/sh", "-c", "cat /proc/1/cmdline; exit 7", check=False
    )
    assert (done.returncode, done.stdout.split("\0")[2]) == (7, "while true; do echo alive; sleep 1; done")

    fed = running.run("debug", pod, "--image", BUSYBOX, input="echo of $(ls /proc/1/root/bin/fetch)\nexit\n")
    assert fed.stdout == "of /proc/1/root/bin/fetch\n"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("nobody",), 4, 'pods "nobody" not found'),
        (("shell", "-c", "no", "--image", BUSYBOX), 1, "pod shell has no container no; it has main"),
        (
            ("shell", "--image", BUSYBOX, "--", "nosuch"),
            1,
            'the command could not be started: exec: "nosuch": executable file not found in $PATH',
        ),
    ],
)
def test_what_debug_cannot_do_is_one_line(
    running: EngineUnderTest, pod: str, arguments: tuple[str, ...], status: int, text: str
) -> None:
    done = running.run("debug", *arguments, check=False)

    assert (done.returncode, done.stderr) == (status, f"trimtab: {text}\n")


@pytest.mark.long
def test_debug_brings_tools_of_its_own(running: EngineUnderTest, pod: str) -> None:
    done = running.run("debug", pod, "--", "sh", "-c", "ps -o args= 1; ss -tn > /dev/null && curl -V | head -c 4")

    assert done.stdout == "/bin/sh -c while true; do echo alive; sleep 1; done\ncurl"


def test_timeline_why_and_graph(running: EngineUnderTest, pod: str) -> None:
    said = running.run("timeline", f"pod/{pod}").stdout
    assert f"Pod default/{pod} created by trimtab" in said
    reasons = running.json("why", f"pod/{pod}")
    assert reasons["object"] == f"Pod default/{pod}"
    assert any(change["actor"] == "trimtab-workloads-scheduler" for change in reasons["changes"])
    assert running.run("why", "pod/none", check=False).returncode == 4
    assert "workloads.scheduler" in running.run("graph").stdout
    with reading(running, "timeline", "-f", "--limit", "1") as lines:
        next(lines)
        running.run("apply", "-f", "-", input=SERVICE)
        assert any("Service default/followed created by trimtab" in line for line in lines)


def test_another_cluster_by_kubeconfig(running: EngineUnderTest, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(running.run("kubeconfig").stdout)
    done = subprocess.run(
        [str(TRIMTAB), "--kubeconfig", str(config), "get", "ns", "-o", "name"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "namespace/default" in done.stdout
    wrong = subprocess.run(
        [str(TRIMTAB), "--kubeconfig", str(config), "--context", "prod", "get", "ns"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 1
    assert "prod" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


def test_output_without_a_terminal_has_no_colour(running: EngineUnderTest) -> None:
    for command in (["status"], ["timeline"], ["check"], ["get", "pods"]):
        assert "\x1b" not in running.run(*command, check=False).stdout
