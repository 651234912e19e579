"""A step with a cluster of its own: it reaches the API, and the cluster goes with the step."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from ci_world import world
from engine_under_test import TRIMTAB
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.definition.values import VARIANT
from trimtab.ci.runs.ports import EngineFault, Laid
from trimtab.cli.ci import main
from trimtab.content import ContentStore, parse_digest, parse_reference

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

FIND = """
server=$(grep -o '127.0.0.1:[0-9]*' $KUBECONFIG)
echo no-tls | nc ${server%:*} ${server#*:} > /dev/null && echo "reached $server"
"""


def test_a_step_reaches_its_own_cluster_which_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "clusters"
    monkeypatch.setenv("TRIMTAB_CLUSTERS", str(home))
    with world(nobody=False) as made:
        folder = tmp_path / "files" / "ci" / "api"
        folder.mkdir(parents=True)
        (folder / "variant.yaml").write_text("node: false\n")
        tree, _ = Blobs(str(made.state)).capture(str(tmp_path / "files"))
        job = made.job(
            FIND, net="allow", cluster={"release": "1", "variant": "ci/api/variant.yaml"}, inputs=[Laid(VARIANT, tree)]
        )
        outcome, said = made.run(job)
        assert outcome.succeeded, said
        assert "reached 127.0.0.1:" in said
        assert [path.name for path in home.iterdir() if not path.name.startswith(".")] == []


def test_a_variant_that_cannot_be_is_the_steps_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CLUSTERS", str(tmp_path / "clusters"))
    with world(nobody=False) as made:
        folder = tmp_path / "files" / "ci" / "odd"
        folder.mkdir(parents=True)
        (folder / "variant.yaml").write_text("cni: none\n")
        tree, _ = Blobs(str(made.state)).capture(str(tmp_path / "files"))
        job = made.job(
            "true",
            net="allow",
            cluster={"release": "1", "variant": "ci/odd/variant.yaml"},
            inputs=[Laid(VARIANT, tree)],
        )
        with pytest.raises(EngineFault, match=r"step1: no cluster: .*variant.yaml: cni: none: pods get their network"):
            made.run(job)


@pytest.mark.long
def test_a_steps_cluster_is_a_copy_of_a_frozen_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "clusters"
    monkeypatch.setenv("TRIMTAB_CLUSTERS", str(home))
    (tmp_path / "bare.yaml").write_text("node: false\n")

    def cluster(*arguments: str) -> None:
        subprocess.run([TRIMTAB, "cluster", *arguments], check=True, capture_output=True)

    try:
        cluster("create", "--name", "first", "--variant", str(tmp_path / "bare.yaml"))
        token = yaml.safe_load((home / "first" / "kubeconfig").read_text())["users"][0]["user"]
        cluster("freeze", "first")
        with world(nobody=False) as made:
            outcome, said = made.run(made.job(f"cat $KUBECONFIG; {FIND}", net="allow", cluster={"like": "first"}))
        assert outcome.succeeded, said
        assert "reached 127.0.0.1:" in said
        assert token["token"] in said, "a copy has the tokens of what it is a copy of"
        assert [path.name for path in home.iterdir() if not path.name.startswith(".")] == ["first"]
    finally:
        cluster("delete", "--all")


SHIP = """
from trimtab.ci import cluster, image, pipeline, step

@step
def look():
    return image("busybox:1").workdir("/work").with_cluster(cluster(context="prod")).run("grep -o token.* $KUBECONFIG; exit 3")

@pipeline
def ci():
    return look()
"""


def test_a_login_is_taken_out_of_what_is_printed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").write_text(
        "clusters: [{name: c, cluster: {server: 'https://prod:6443'}}]\n"
        "contexts: [{name: prod, context: {cluster: c, user: me}}]\n"
        "users: [{name: me, user: {token: mine-and-only-mine}}]\n"
    )
    (tmp_path / "ship.py").write_text(SHIP)
    with world(nobody=False) as made:
        digest = parse_digest(made.image)
        ContentStore(made.state).tag(parse_reference(f"busybox@{digest}").tagged, digest)
        (tmp_path / "trimtab.lock").write_text(f'{{"version": 1, "images": {{"busybox:1": "{digest}"}}}}')
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        monkeypatch.setenv("TRIMTAB_CI_DIR", str(made.state))

        assert main(["run", "-C", str(tmp_path), "-v", "-o", "json"]) == 1

        streams = capsys.readouterr()
        assert 'token": "***"' in streams.err
        assert "mine-and-only-mine" not in streams.out + streams.err
        logs = subprocess.run(
            ["grep", "-rl", "mine-and-only-mine", made.state], capture_output=True, text=True, check=False
        )
        assert logs.stdout == ""
