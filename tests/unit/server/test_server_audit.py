"""What the server tells of each committed change: who, what, and which fields."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from api_in_process import Api, running_api
from trimtab.server.audit import WriteNote, told_changes

CONFIGS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


@pytest.fixture
def notes() -> list[WriteNote]:
    return []


@pytest.fixture
async def api(notes: list[WriteNote]) -> AsyncIterator[Api]:
    async with running_api(on_write=notes.append) as running:
        yield running


def told(notes: list[WriteNote]) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Of what was asked for: verb, object, user and changes."""
    return [
        (note.verb, f"{note.kind.kind} {note.name}", note.asking.user.name, note.changes)
        for note in notes
        if note.asking is not None
    ]


async def test_each_change_is_told_once_with_who_and_what(api: Api, notes: list[WriteNote]) -> None:
    bob = api.with_headers(
        trusted=True, impersonate_user="bob", impersonate_group="system:masters", user_agent="kubectl/v1"
    )
    (await bob.post(CONFIGS, {"metadata": {"name": "a"}, "data": {"x": "1"}})).ok()
    (await bob.patch(f"{CONFIGS}/a", {"data": {"x": "1"}})).ok()
    (await bob.patch(f"{CONFIGS}/a", {"data": {"x": "2"}, "metadata": {"labels": {"app": "web"}}})).ok()
    (await bob.delete(f"{CONFIGS}/a")).ok()
    assert (await bob.delete(f"{CONFIGS}/a")).status == 404

    assert told(notes) == [
        ("created", "ConfigMap a", "bob", ()),
        ("changed", "ConfigMap a", "bob", ("data.x", "metadata.labels")),
        ("deleted", "ConfigMap a", "bob", ()),
    ]
    assert {note.asking.agent for note in notes if note.asking} == {"kubectl"}


async def test_a_dry_run_changes_nothing_and_is_not_told(api: Api, notes: list[WriteNote]) -> None:
    (await api.post(f"{CONFIGS}?dryRun=All", {"metadata": {"name": "a"}})).ok()

    assert told(notes) == []


async def test_a_finalizer_makes_it_deleting_and_then_deleted(api: Api, notes: list[WriteNote]) -> None:
    (await api.post(CONFIGS, {"metadata": {"name": "a", "finalizers": ["x.dev/wait"]}})).ok()
    (await api.delete(f"{CONFIGS}/a")).ok()
    (await api.delete(f"{CONFIGS}/a")).ok()
    (await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": None}})).ok()

    assert [verb for verb, *_ in told(notes)] == ["created", "deleting", "deleted"]


async def test_what_the_collector_removes_names_its_owner_and_no_asker(api: Api, notes: list[WriteNote]) -> None:
    owner = (await api.post(CONFIGS, {"metadata": {"name": "owner"}})).ok()
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "controller": True}
    reference["uid"] = owner["metadata"]["uid"]
    (await api.post(CONFIGS, {"metadata": {"name": "owned", "ownerReferences": [reference]}})).ok()

    (await api.delete(f"{CONFIGS}/owner")).ok()
    await api.gone(f"{CONFIGS}/owned")

    note = next(note for note in notes if note.verb == "deleted" and note.name == "owned")
    assert (note.asking, note.owner) == (None, ("v1", "ConfigMap", "owner"))


def test_numbers_and_images_are_told_with_values_and_other_texts_are_not() -> None:
    def deployment(image: str, replicas: int, password: str) -> dict[str, object]:
        env = [{"name": "PASSWORD", "value": password}]
        pod = {"containers": [{"name": "web", "image": image, "env": env}]}
        return {"spec": {"replicas": replicas, "paused": replicas > 2, "template": {"spec": pod}}}

    assert told_changes(deployment("web:1", 2, "old"), deployment("web:2", 3, "new")) == [
        "spec.paused false -> true",
        "spec.replicas 2 -> 3",
        "spec.template.spec.containers[web].env[PASSWORD].value",
        "spec.template.spec.containers[web].image web:1 -> web:2",
    ]


def test_many_changes_end_with_and_more() -> None:
    found = told_changes({"data": {}}, {"data": {f"key-{i}": "x" for i in range(20)}})

    assert len(found) == 6
    assert found[-1] == "and more"
