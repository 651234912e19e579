"""A step's cluster, as far as it is said: what counts as a change, what is refused, and whose kubeconfig a step gets."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab import __version__
from trimtab.ci import DefinitionError
from trimtab.ci.cache.lookups import LocalLookups
from trimtab.ci.definition.check import check
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.runs.prepare import COPY, OUTSIDE, Defined, define, look_up
from trimtab.ci.sandbox.clusters import only

SHIP = """from trimtab.ci import cluster, image, pipeline, step

@step
def e2e():
    return image("debian:12").with_cluster({cluster}).run("./e2e.sh")

@pipeline
def ci():
    return e2e()
"""
IMAGES = {"debian:12": "sha256:" + "1" * 64}

Written = Callable[[str], Defined]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(cluster: str) -> Defined:
        (tmp_path / "ship.py").write_text(SHIP.format(cluster=cluster))
        return define(tmp_path, None, {})

    return write


def action(defined: Defined) -> dict[str, Any]:
    return defined.graph.steps["e2e"].action()


def test_a_step_with_a_cluster_has_the_network_and_its_release_counts(written: Written) -> None:
    said = action(written("cluster()"))
    assert said["net"] == "allow"
    assert said["cluster"] == {"release": __version__}
    assert action(written('cluster(context="prod")'))["cluster"] == {"context": "prod"}


def test_all_that_lies_beside_a_variant_counts(written: Written, tmp_path: Path) -> None:
    (tmp_path / "ci" / "deep").mkdir(parents=True)
    (tmp_path / "ci" / "deep" / "variant.yaml").write_text("manifests: [install.yaml]\n")
    keys = []
    for text in ("a: 1", "a: 1", "a: 2"):
        (tmp_path / "ci" / "deep" / "install.yaml").write_text(text)
        lookups = LocalLookups(tmp_path, tmp_path / "state")
        keys.append(look_up(written('cluster("ci/deep/variant.yaml")'), IMAGES, lookups).found["e2e"].def_key)
        lookups.close()
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            'cluster("variant.yaml")',
            "cluster('variant.yaml'): write a file in a directory of its own below that of ship.py, like 'ci/deep/variant.yaml'",
        ),
        (
            'cluster("a/b.yaml", context="prod")',
            "cluster() takes one of: a variant of a throw-away cluster, a frozen cluster that it is like, the context of another one",
        ),
        ('"prod"', "with_cluster() takes a cluster(...), not str"),
        (
            "cluster()).with_cluster(cluster()",
            "a step has one cluster; make a second step, or `trimtab cluster create` in it",
        ),
        ("cluster()).network('none'", "network('none'): a step reaches its cluster by the network of the machine"),
    ],
)
def test_what_cannot_be_is_said_at_the_line(written: Written, said: str, message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        written(said)
    assert str(caught.value).endswith(f"ship.py:5: {message}")


def test_a_variant_that_is_not_there_is_found_by_check(written: Written, tmp_path: Path) -> None:
    defined = written('cluster("ci/deep/variant.yaml")')
    said = [problem.message for problem in check(defined.project)]
    assert f"src('ci/deep/**'): there is no such file below {tmp_path}" in said


def test_what_is_done_on_anothers_cluster_is_never_known(written: Written, tmp_path: Path) -> None:
    lookups = LocalLookups(tmp_path, tmp_path / "state")
    prepared = look_up(written('cluster(context="prod")'), IMAGES, lookups)
    assert prepared.found["e2e"].result is None
    assert prepared.found["e2e"].reason == OUTSIDE
    assert prepared.run == ["e2e"]
    lookups.close()


def test_what_is_done_on_a_copy_is_never_known(written: Written, tmp_path: Path) -> None:
    lookups = LocalLookups(tmp_path, tmp_path / "state")
    prepared = look_up(written('cluster(like="first")'), IMAGES, lookups)
    assert action(prepared.defined)["cluster"] == {"like": "first"}
    assert (prepared.found["e2e"].reason, prepared.run) == (COPY, ["e2e"])
    lookups.close()


def test_a_pull_request_gets_no_login(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CI_SCOPE", "pr/7")
    lookups = LocalLookups(tmp_path, tmp_path / "state")
    with pytest.raises(DefinitionError, match="pull request 7 gets no copy of the cluster first; leave its step out"):
        look_up(written('cluster(like="first")'), IMAGES, lookups)
    with pytest.raises(DefinitionError, match="pull request 7 gets no login for the cluster prod; leave its step out"):
        look_up(written('cluster(context="prod")'), IMAGES, lookups)
    look_up(written("cluster()"), IMAGES, lookups)
    lookups.close()


# The kubeconfig of somebody else's cluster


def kubeconfig(folder: Path, user: dict[str, Any]) -> dict[str, str]:
    (folder / "ca.crt").write_text("an authority")
    doc = {
        "contexts": [
            {"name": "prod", "context": {"cluster": "c1", "user": "me", "namespace": "shop"}},
            {"name": "other", "context": {"cluster": "c2", "user": "gone"}},
        ],
        "clusters": [
            {"name": "c1", "cluster": {"server": "https://prod:6443", "certificate-authority": "ca.crt"}},
            {"name": "c2", "cluster": {"server": "https://other:6443"}},
        ],
        "users": [{"name": "me", "user": user}, {"name": "boss", "user": {"token": "of the boss"}}],
    }
    (folder / "config").write_text(yaml.safe_dump(doc))
    return {"KUBECONFIG": f"{folder / 'none'}:{folder / 'config'}"}


def test_a_step_gets_the_one_context_and_nothing_else(tmp_path: Path) -> None:
    text = only("prod", kubeconfig(tmp_path, {"token": "mine"}))
    found = json.loads(text)
    assert found["current-context"] == "prod"
    assert [one["context"]["namespace"] for one in found["contexts"]] == ["shop"]
    [cluster] = found["clusters"]
    assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == b"an authority"
    assert found["users"] == [{"name": "me", "user": {"token": "mine"}}]
    assert "boss" not in text
    assert "other" not in text


def test_a_context_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    environ = kubeconfig(tmp_path, {"exec": {"command": "aws"}})
    with pytest.raises(EngineFault, match=r"no context 'x' in .*config; there are: prod, other"):
        only("x", environ)
    with pytest.raises(EngineFault, match="context 'other' names the user 'gone', which its kubeconfig does not have"):
        only("other", environ)
    with pytest.raises(EngineFault, match="context 'prod' logs in by a program, which a step cannot run: make a token"):
        only("prod", environ)
    with pytest.raises(EngineFault, match=rf"no context 'x' in {tmp_path}/\.kube/config; there are: none"):
        only("x", {"HOME": str(tmp_path)})
    environ = kubeconfig(tmp_path, {"tokenFile": "gone"})
    with pytest.raises(EngineFault, match=r"context 'prod' names a file that cannot be read: .*gone: No such file"):
        only("prod", environ)


def test_what_proves_who_one_is_is_taken_out_of_what_a_run_prints(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "-----BEGIN KEY-----\nabcdefgh\n-----END KEY-----\n"
    (tmp_path / "key").write_text(key)
    environ = kubeconfig(tmp_path, {"token": "mine-alone", "password": "passing-by", "client-key": "key"})
    monkeypatch.setenv("KUBECONFIG", environ["KUBECONFIG"])
    lookups = LocalLookups(tmp_path, tmp_path / "state")

    secrets = look_up(written('cluster(context="prod")'), IMAGES, lookups).secrets

    assert secrets == {
        "prod token": "mine-alone",
        "prod password": "passing-by",
        "prod client-key": key,
        "prod client-key-data": base64.b64encode(key.encode()).decode(),
    }
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "gone"))
    assert look_up(written('cluster(context="prod")'), IMAGES, lookups).secrets == {}, "its step tells"
    lookups.close()
