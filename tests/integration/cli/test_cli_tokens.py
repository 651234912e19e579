"""Named tokens on a real engine: what each preset may, that a token ends when it should, and what wrong use says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from engine_under_test import TRIMTAB, EngineUnderTest, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shipped}\ndata: {colour: blue}\n"
SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: hidden}\nstringData: {word: swordfish}\n"


@pytest.fixture(scope="module", autouse=True)
def shop(running: EngineUnderTest) -> Iterator[None]:
    running.run("apply", "-f", "-", input="apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
    running.run("apply", "-n", "shop", "-f", "-", input=SECRET)
    yield
    for known in running.json("token", "list"):
        running.run("token", "revoke", known["name"])
    running.run("delete", "namespace", "shop")


def made(running: EngineUnderTest, folder: Path, *arguments: str) -> Path:
    """Makes a token; returns the file of its kubeconfig."""
    done = running.run("token", "create", *arguments)
    assert "shown only now" in done.stderr
    path = folder / "user.kubeconfig"
    path.write_text(done.stdout)
    return path


def as_user(kubeconfig: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(TRIMTAB), "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def test_view_reads_all_but_secrets_and_changes_nothing(running: EngineUnderTest, tmp_path: Path) -> None:
    anna = made(running, tmp_path, "anna")

    assert as_user(anna, "get", "pods", "-A").returncode == 0
    assert as_user(anna, "get", "apps", "-A").returncode == 0, "what components add is seen, too"
    assert as_user(anna, "get", "nodes").returncode == 0
    refused = as_user(anna, "get", "secrets", "-n", "shop")
    assert refused.returncode == 1
    assert 'User "system:serviceaccount:trimtab-users:anna" cannot list resource "secrets"' in refused.stderr
    assert as_user(anna, "apply", "-n", "shop", "-f", "-", text=CONFIG).returncode == 1


def test_deploy_ships_into_its_namespace_and_reads_no_secret(running: EngineUnderTest, tmp_path: Path) -> None:
    ci = made(running, tmp_path, "ci", "--role", "deploy", "-n", "shop", "--expires", "8h")

    assert yaml.safe_load(ci.read_text())["contexts"][0]["context"]["namespace"] == "shop"
    assert as_user(ci, "apply", "-f", "-", text=CONFIG).returncode == 0, "its namespace is the default"
    assert as_user(ci, "apply", "-n", "default", "-f", "-", text=CONFIG).returncode == 1
    assert as_user(ci, "get", "secret", "hidden").returncode == 1
    assert as_user(ci, "delete", "configmap", "shipped").returncode == 0


def test_admin_of_a_namespace_and_of_everything(running: EngineUnderTest, tmp_path: Path) -> None:
    owner = made(running, tmp_path, "owner", "--role", "admin", "-n", "shop")
    assert as_user(owner, "get", "secret", "hidden").returncode == 0
    assert as_user(owner, "get", "secrets", "-n", "trimtab-system").returncode == 1

    chief = made(running, tmp_path, "chief", "--role", "admin")
    assert as_user(chief, "get", "secrets", "-n", "trimtab-system").returncode == 0


def test_a_renewed_token_ends_the_old_one_and_a_revoked_one_is_dead(running: EngineUnderTest, tmp_path: Path) -> None:
    old = made(running, tmp_path, "bob")
    new = tmp_path / "new.kubeconfig"
    new.write_text(running.run("token", "renew", "bob", "--expires", "1h").stdout)
    assert as_user(old, "get", "pods").returncode == 1
    assert as_user(new, "get", "pods").returncode == 0

    assert running.run("token", "revoke", "bob").stdout == "token bob is revoked\n"

    refused = as_user(new, "get", "pods")
    assert (refused.returncode, refused.stderr) == (1, "trimtab: Unauthorized\n")
    assert "bob" not in running.run("get", "clusterrolebindings").stdout


def test_the_list_tells_what_each_may_and_until_when(running: EngineUnderTest) -> None:
    text = running.run("token", "create", "lister", "-n", "shop", "--expires", "1h", "-o", "token").stdout.strip()
    assert text.count(".") == 2

    found = {known["name"]: known for known in running.json("token", "list")}["lister"]

    assert (found["role"], found["namespaces"], found["expired"]) == ("view", ["shop"], False)
    line = next(line for line in running.run("token", "list").stdout.splitlines() if line.startswith("lister"))
    assert line.split()[1:3] == ["view", "shop"]
    assert "UTC (in 59m)" in line or "UTC (in 60m)" in line
    assert text not in json.dumps(found), "the token itself is kept nowhere"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["create", "Anna!"],
            "'Anna!' cannot name a token: write at most 63 of a-z, 0-9 and -, such as anna or ci-web",
        ),
        (["create", "x", "-n", "nowhere"], "there is no namespace nowhere: create it first, or leave out -n for all"),
        (["create", "x", "--expires", "1m"], "a token lives between 10 minutes and 10 years: write --expires 10m, 8h,"),
        (["create", "x", "--expires", "soon"], "'soon' is no duration: write 30s, 5m, 2h or 1d"),
        (["revoke", "nobody"], "there is no token nobody: `trimtab token list` shows all"),
        (["renew", "nobody"], "there is no token nobody: `trimtab token list` shows all"),
    ],
)
def test_wrong_use_is_one_line(running: EngineUnderTest, arguments: list[str], line: str) -> None:
    done = running.run("token", *arguments, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith(f"trimtab: {line}")
    assert done.stderr.count("\n") == 1


def test_a_taken_name_says_how_to_replace_it(running: EngineUnderTest) -> None:
    running.run("token", "create", "taken")

    done = running.run("token", "create", "taken", check=False)

    assert "there is a token taken already: `trimtab token renew taken` replaces it" in done.stderr


def test_the_timeline_names_who_changed_what(running: EngineUnderTest, tmp_path: Path) -> None:
    dora = made(running, tmp_path, "dora", "--role", "deploy", "-n", "shop")
    assert as_user(dora, "apply", "-f", "-", text=CONFIG).returncode == 0
    assert as_user(dora, "apply", "-f", "-", text=CONFIG.replace("blue", "green")).returncode == 0
    assert as_user(dora, "delete", "configmap", "shipped").returncode == 0

    wait_for(
        lambda: "deleted by dora" in running.run("timeline", "configmap/shipped", "-n", "shop").stdout, 10, "it is told"
    )
    said = running.run("timeline", "configmap/shipped", "-n", "shop").stdout.splitlines()

    assert [line.split("ConfigMap shop/shipped ")[1] for line in said[-3:]] == [
        "created by dora with trimtab",
        "changed (data.colour) by dora with trimtab",
        "deleted by dora with trimtab",
    ]
