"""Lists in pieces and at revisions; watches: where they begin, what selectors make of changes, bookmarks, 410."""

from __future__ import annotations

from typing import Any

import pytest

from api_in_process import Api, running_api

CONFIGS = "/api/v1/namespaces/default/configmaps"


def config(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "data": {}}


async def revision(api: Api) -> str:
    return str((await api.get(CONFIGS)).ok()["metadata"]["resourceVersion"])


async def test_a_watch_begins_with_what_is_there(api: Api) -> None:
    (await api.post(CONFIGS, config("a"))).ok()
    watch = await api.watch(f"{CONFIGS}?watch=1")

    assert await watch.take(1) == [("ADDED", "a")]
    (await api.post(CONFIGS, config("b"))).ok()
    (await api.patch(f"{CONFIGS}/a", {"data": {"x": "1"}})).ok()
    (await api.delete(f"{CONFIGS}/b")).ok()
    assert await watch.take(3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
    await watch.close()


async def test_a_watch_resumes_after_a_revision(api: Api) -> None:
    (await api.post(CONFIGS, config("a"))).ok()
    seen = await revision(api)
    (await api.post(CONFIGS, config("b"))).ok()

    watch = await api.watch(f"{CONFIGS}?watch=True&resourceVersion={seen}")

    assert await watch.take(1) == [("ADDED", "b")]
    await watch.close()


async def test_a_deletion_has_a_revision_of_its_own(api: Api) -> None:
    created = (await api.post(CONFIGS, config("a"))).ok()
    watch = await api.watch(f"{CONFIGS}?watch=1&resourceVersion={created['metadata']['resourceVersion']}")
    (await api.delete(f"{CONFIGS}/a")).ok()

    event = await watch.next()

    assert event["type"] == "DELETED"
    assert int(event["object"]["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])
    await watch.close()


async def test_an_object_enters_and_leaves_a_selector(api: Api) -> None:
    watch = await api.watch(f"{CONFIGS}?watch=1&labelSelector=app%3Dweb")
    (await api.post(CONFIGS, config("a", app="db"))).ok()
    (await api.patch(f"{CONFIGS}/a", {"metadata": {"labels": {"app": "web"}}})).ok()
    (await api.patch(f"{CONFIGS}/a", {"data": {"x": "1"}})).ok()
    (await api.patch(f"{CONFIGS}/a", {"metadata": {"labels": {"app": "db"}}})).ok()
    (await api.post(CONFIGS, config("b", app="web"))).ok()

    assert await watch.take(4) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "b")]
    await watch.close()


async def test_one_object_is_watched_by_name(api: Api) -> None:
    watch = await api.watch(f"{CONFIGS}?watch=1&fieldSelector=metadata.name%3Db")
    for name in ("a", "b", "c"):
        (await api.post(CONFIGS, config(name))).ok()

    assert await watch.take(1) == [("ADDED", "b")]
    await watch.close()


async def test_initial_events_end_with_a_marked_bookmark(api: Api) -> None:
    (await api.post(CONFIGS, config("a"))).ok()
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    watch = await api.watch(f"{CONFIGS}?{query}")

    assert await watch.take(1) == [("ADDED", "a")]
    bookmark = await watch.next()

    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["kind"] == "ConfigMap"
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert bookmark["object"]["metadata"]["resourceVersion"] == await revision(api)
    await watch.close()


async def test_a_watch_ends_at_its_time_with_how_far_it_came(api: Api) -> None:
    seen = await revision(api)
    (await api.post("/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}})).ok()
    watch = await api.watch(f"{CONFIGS}?watch=1&allowWatchBookmarks=1&timeoutSeconds=1&resourceVersion={seen}")

    events = await watch.rest()

    assert [event["type"] for event in events] == ["BOOKMARK"]
    assert events[0]["object"]["metadata"]["resourceVersion"] == await revision(api)


async def test_a_stopping_server_ends_its_watches(api: Api) -> None:
    watch = await api.watch(f"{CONFIGS}?watch=1")

    await api.server.stop()

    assert await watch.rest() == []


async def test_history_that_is_gone_answers_410() -> None:
    async with running_api() as api:
        for i in range(5):
            (await api.post(CONFIGS, config(f"c{i}"))).ok()
        await api.server.store.compact(api.server.store.revision)
        old = await api.get(f"{CONFIGS}?watch=1&resourceVersion=3")
        future = await api.get(f"{CONFIGS}?watch=1&resourceVersion=999999")

    compacted = api.server.store.compacted
    assert (old.status, old.body["reason"]) == (410, "Expired")
    assert old.message == f"too old resource version: 3 ({compacted})"
    assert future.status == 410


async def test_lists_come_in_pieces_of_one_moment(api: Api) -> None:
    for i in range(7):
        (await api.post(CONFIGS, config(f"c{i}"))).ok()

    first = (await api.get(f"{CONFIGS}?limit=3")).ok()
    (await api.delete(f"{CONFIGS}/c4")).ok()
    (await api.post(CONFIGS, config("c35"))).ok()
    second = (await api.get(f"{CONFIGS}?limit=3&continue={first['metadata']['continue']}")).ok()
    third = (await api.get(f"{CONFIGS}?limit=3&continue={second['metadata']['continue']}")).ok()

    names = [item["metadata"]["name"] for page in (first, second, third) for item in page["items"]]
    assert names == [f"c{i}" for i in range(7)]
    assert first["metadata"]["remainingItemCount"] == 4
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]


async def test_an_expired_token_comes_with_a_way_on(api: Api) -> None:
    for i in range(4):
        (await api.post(CONFIGS, config(f"c{i}"))).ok()
    first = (await api.get(f"{CONFIGS}?limit=2")).ok()
    (await api.post(CONFIGS, config("c9"))).ok()
    await api.server.store.compact(api.server.store.revision)

    expired = await api.get(f"{CONFIGS}?limit=2&continue={first['metadata']['continue']}")
    assert expired.status == 410
    rest = (await api.get(f"{CONFIGS}?continue={expired.body['metadata']['continue']}")).ok()

    assert [item["metadata"]["name"] for item in rest["items"]] == ["c2", "c3", "c9"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=web", ["w1", "w2"]),
        ("app==web,tier=front", ["w1"]),
        ("app!=web", ["d1", "n1"]),
        ("app in (web, db)", ["d1", "w1", "w2"]),
        ("app notin (web)", ["d1", "n1"]),
        ("app", ["d1", "w1", "w2"]),
        ("!app", ["n1"]),
        ("tier", ["w1"]),
    ],
)
async def test_label_selectors(api: Api, selector: str, names: list[str]) -> None:
    for name, labels in (
        ("w1", {"app": "web", "tier": "front"}),
        ("w2", {"app": "web"}),
        ("d1", {"app": "db"}),
        ("n1", {}),
    ):
        (await api.post(CONFIGS, config(name, **labels))).ok()

    found = (await api.get(f"{CONFIGS}?labelSelector={selector}")).ok()

    assert [item["metadata"]["name"] for item in found["items"]] == names


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "labelSelector=app in web",
            "unable to parse requirement: found 'web' expected: '('",
        ),
        (
            "fieldSelector=spec.color=red",
            '"spec.color" is not a known field selector: only "metadata.name", "metadata.namespace"',
        ),
        ("limit=ten", 'invalid value "ten" for query parameter "limit": write a non-negative integer'),
        ("continue=xyz", "continue key is not valid: use the token of the last answer, unchanged"),
    ],
)
async def test_bad_queries_are_refused_in_one_line(api: Api, query: str, message: str) -> None:
    answer = await api.get(f"{CONFIGS}?{query}")

    assert (answer.status, answer.message) == (400, message)


async def test_pods_are_selected_by_their_node(api: Api) -> None:
    pods = "/api/v1/namespaces/default/pods"
    for name, node in (("a", "n1"), ("b", "n2"), ("c", None)):
        spec = {"containers": [{"name": "c", "image": "i"}]} | ({"nodeName": node} if node else {})
        (await api.post(pods, {"metadata": {"name": name}, "spec": spec})).ok()

    assert [p["metadata"]["name"] for p in (await api.get(f"{pods}?fieldSelector=spec.nodeName=n1")).ok()["items"]] == [
        "a"
    ]
    assert [p["metadata"]["name"] for p in (await api.get(f"{pods}?fieldSelector=spec.nodeName=")).ok()["items"]] == [
        "c"
    ]
    exact = (await api.get(f"{pods}?fieldSelector=spec.nodeName!=n1,status.phase=Pending")).ok()
    assert [p["metadata"]["name"] for p in exact["items"]] == ["b", "c"]


async def test_the_past_can_be_listed_exactly(api: Api) -> None:
    (await api.post(CONFIGS, config("a"))).ok()
    then = await revision(api)
    (await api.post(CONFIGS, config("b"))).ok()

    past = (await api.get(f"{CONFIGS}?resourceVersion={then}&resourceVersionMatch=Exact")).ok()
    future = await api.get(f"{CONFIGS}?resourceVersion=99999")

    assert [item["metadata"]["name"] for item in past["items"]] == ["a"]
    assert future.status == 504
    assert future.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_a_long_list_comes_whole_in_every_form(api: Api) -> None:
    for i in range(1_203):
        (await api.post(CONFIGS, config(f"c{i:04}"))).ok()
    names = [f"c{i:04}" for i in range(1_203)]

    listed = (await api.get(CONFIGS)).ok()
    table = (await api.get(CONFIGS, accept="application/json;as=Table;v=v1;g=meta.k8s.io")).ok()
    partial = (await api.get(CONFIGS, accept="application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")).ok()

    assert [item["metadata"]["name"] for item in listed["items"]] == names
    assert [row["cells"][0] for row in table["rows"]] == names
    assert [item["metadata"]["name"] for item in partial["items"]] == names


async def test_a_watch_that_ends_says_how_far_it_came(api: Api) -> None:
    """Even when nothing happened: kubectl warns of a watch that ends without a word."""
    (await api.post(CONFIGS, config("a"))).ok()
    seen = await revision(api)

    watch = await api.watch(f"{CONFIGS}?watch=1&allowWatchBookmarks=1&timeoutSeconds=1&resourceVersion={seen}")

    event = await watch.next()
    assert (event["type"], event["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", seen)
    await watch.close()
