"""Writes of providers' kinds on a whole engine: refused in the provider's words, planned in a dry run, let in when nobody can say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine_under_test import wait_for
from infrastructure_engine import CloudEngine, cloud_engine, server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with cloud_engine() as made:
        yield made


def test_what_the_provider_does_not_take_is_refused_in_its_words(world: CloudEngine) -> None:
    said = world.apply(server("moon", region="moon"), check=False)
    assert said.returncode == 1
    assert (
        'Server.cloud.tf.trimtab.dev "moon" is invalid: spec.forProvider.region: There is no region moon: Regions are eu and us.'
        in said.stderr
    )
    assert world.get("Server", "moon") is None


def test_a_dry_run_says_what_would_be_done_and_does_nothing(world: CloudEngine) -> None:
    before = list(world.cloud.log)
    text = json.dumps(server("dry", size="large"))
    said = world.engine.run("apply", "--dry-run", "-f", "-", input=text)
    assert "warning: plan:   + Server default/dry: create" in said.stderr
    assert 'warning: plan:     + size: "large"' in said.stderr
    assert "warning: plan:     + address: (known after apply)" in said.stderr
    assert world.get("Server", "dry") is None
    assert world.cloud.log == before


def test_what_must_not_be_deleted_is_kept_when_it_is_asked(world: CloudEngine) -> None:
    world.apply(server("kept", spec={"policy": {"delete": "deny"}}))
    world.until("Server", "kept")
    said = world.engine.run("delete", "Server", "kept", "-n", "default", check=False)
    assert said.returncode == 1
    assert (
        'servers.cloud.tf.trimtab.dev "kept" is forbidden: spec.policy.delete is deny, which keeps the resource and this object: '
        "set it to delete or to orphan first" in said.stderr
    )
    found = world.get("Server", "kept")
    assert found is not None
    assert "deletionTimestamp" not in found["metadata"]
    world.apply(server("kept"))
    world.engine.run("delete", "Server", "kept", "-n", "default")
    wait_for(lambda: not [one for one in world.cloud.all("servers") if one["name"] == "kept"], 60, "it is deleted")


def test_what_cannot_be_asked_is_let_in_with_a_warning(world: CloudEngine) -> None:
    said = world.apply(server("early", spec={"providerRef": {"name": "later"}}))
    assert (
        "warning: the provider was not asked whether it takes this: there is no ProviderConfig later in namespace default"
        in said.stderr
    )
    assert world.get("Server", "early") is not None
    world.engine.run("delete", "Server", "early", "-n", "default")


def _warnings(said: Any) -> list[str]:
    return [line for line in said.stderr.splitlines() if line.startswith("warning:")]


def test_what_changes_nothing_of_the_spec_asks_nobody(world: CloudEngine) -> None:
    world.apply(server("same"))
    world.until("Server", "same")
    labelled = server("same")
    labelled["metadata"]["labels"] = {"team": "shop"}
    labelled["spec"]["providerRef"] = {"name": "default"}
    assert _warnings(world.apply(labelled)) == []
    world.engine.run("delete", "Server", "same", "-n", "default")
