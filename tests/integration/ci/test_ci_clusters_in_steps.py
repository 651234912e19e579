"""A step with a cluster of its own: it reaches the API, and the cluster goes with the step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ci_world import world
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.definition.values import VARIANT
from trimtab.ci.runs.ports import EngineFault, Laid

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
