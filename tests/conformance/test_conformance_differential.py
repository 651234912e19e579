"""The same random requests to the embedded server and to the real one: objects, refusals, events and managed fields are equal.

Without the real server the same stories run on the embedded one alone, and what must hold of any Kubernetes API is checked:
versions only grow, a write that changes nothing keeps the version, a dry run changes nothing, and a watch from the beginning
adds up to the list at the end. A failure prints the requests that lead to it; each is an `Ask` that can be sent again.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from api_process import ApiProcess
from differential_compare import Pair
from differential_kinds import SUBJECTS, WIDGETS
from differential_operations import ending, stories, streamed
from differential_replay import Api, Ask, Outcome, Replay
from differential_subject import Subject

REAL = os.environ.get("TRIMTAB_KUBERNETES") or os.environ.get("TRIMTAB_CONFORMANCE_KUBECONFIG")
ASKED = os.environ.get("TRIMTAB_DIFFERENTIAL", "")
"""Plurals to compare beside the real server, with commas between. Unasked, all."""
TOLD = [subject for subject in SUBJECTS if not ASKED or subject.plural in ASKED.split(",")]
EXAMPLES = 5
DEEP = 2000
READY_S = 60.0

quiet = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)


def _api(kubeconfig: Path) -> Api:
    """The server with the suite's custom kind."""
    api = Api(kubeconfig)
    made = api.ask(Ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", WIDGETS))
    assert made.status in (201, 409), made.body
    deadline = time.monotonic() + READY_S
    while api.ask(Ask("GET", "/apis/differential.example.com/v1/widgets")).status != 200:
        assert time.monotonic() < deadline, "the custom kind is not served"
        time.sleep(0.1)
    return api


@pytest.fixture(scope="module")
def judged(kubeconfig: Path) -> Iterator[Api]:
    """The server that the suite runs on: the real one where there is one."""
    api = _api(kubeconfig)
    yield api
    api.close()


@pytest.fixture(scope="module")
def pair(judged: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if not REAL:
        pytest.skip("needs the real API server: make test-kubernetes")
    embedded = ApiProcess(tmp_path_factory.mktemp("differential"), tls=True)
    ours = None
    try:
        embedded.start()
        ours = _api(embedded.kubeconfig())
        yield Pair(ours, judged, f"differential-{secrets.token_hex(3)}")
    finally:
        if ours is not None:
            ours.close()
        embedded.close()


@pytest.mark.parametrize("subject", TOLD, ids=lambda one: one.plural)
def test_both_servers_tell_the_same_story(pair: Pair, subject: Subject) -> None:
    @settings(quiet, max_examples=EXAMPLES)
    @given(stories(subject, length=8, rough=False))
    def told(story: list[Ask]) -> None:
        parted = pair.compare([*story, *ending(subject)], versions=subject.versions)
        assert not parted, parted

    told()


@pytest.mark.long
@pytest.mark.parametrize("subject", TOLD, ids=lambda one: one.plural)
def test_both_servers_tell_long_stories_alike(pair: Pair, subject: Subject) -> None:
    @seed(1)
    @settings(quiet, max_examples=DEEP, derandomize=False)
    @given(stories(subject, length=14, rough=False))
    def told(story: list[Ask]) -> None:
        parted = pair.compare([*story, *ending(subject)], versions=subject.versions)
        assert not parted, parted

    told()


def test_whatever_is_asked_the_server_keeps_its_promises(judged: Api) -> None:
    prefix, count = f"promises-{secrets.token_hex(3)}", iter(range(10_000))

    @settings(quiet, max_examples=40)
    @given(st.sampled_from(SUBJECTS).flatmap(lambda one: st.tuples(st.just(one), stories(one, length=8))))
    def promised(drawn: tuple[Subject, list[Ask]]) -> None:
        subject, story = drawn
        replay = Replay(judged, f"{prefix}-{next(count)}")
        replay.begin()
        try:
            _check_writes(replay, subject, story)
            last = [replay.run(ask) for ask in ending(subject)]
            _check_watch(last)
            if not REAL:
                _check_streamed(last[1], replay.run(streamed(subject)))
        finally:
            replay.end()

    promised()


def _check_writes(replay: Replay, subject: Subject, story: list[Ask]) -> None:
    for ask in story:
        before = _shown(replay, subject)
        outcome = replay.run(ask)
        after = _shown(replay, subject)
        assert outcome.status < 500 or _excused(outcome), f"{ask}: {outcome.body}"
        if outcome.status >= 400 or ask.method == "GET" or "dryRun" in ask.query:
            assert after == before, f"{ask} was refused or only tried, and changed something"
        for name, obj in after.items():
            old = before.get(name)
            if old is None or old["metadata"]["uid"] != obj["metadata"]["uid"]:
                continue
            newer = int(obj["metadata"]["resourceVersion"]) - int(old["metadata"]["resourceVersion"])
            assert newer >= 0, f"{ask} brought an older version of {name}"
            assert (newer == 0) == (obj == old), f"{ask}: the version of {name} does not go with what changed"


def _excused(outcome: Outcome) -> bool:
    """The real server answers 500 where a body does not go with its kind's structs; ours only to fields that it does not know."""
    return bool(REAL) or outcome.body["message"].startswith("failed to create typed patch object")


def _shown(replay: Replay, subject: Subject) -> dict[str, Any]:
    """What stands in the namespace now, by name; the replay remembers nothing of having looked."""
    path = subject.collection.replace("<ns>", replay.namespace)
    listed = replay.api.ask(Ask("GET", path)).body
    return {one["metadata"]["name"]: one for one in listed["items"]}


def _check_streamed(listed: Outcome, streamed: Outcome) -> None:
    names = [one["metadata"]["name"] for one in listed.body["items"]]
    assert [event["object"]["metadata"]["name"] for event in streamed.body] == names
    assert {event["type"] for event in streamed.body} == {"ADDED"}


def _check_watch(last: list[Outcome]) -> None:
    """The events of a watch from the beginning come in order and add up to the list; with a selector they are of what it selects."""
    _, listed, watched, selected = last
    for event in selected.body:
        labels = event["object"]["metadata"].get("labels") or {}
        assert event["type"] == "DELETED" or labels.get("app") == "web", event
    known: dict[str, Any] = {}
    version = 0
    for event in watched.body:
        obj, kind = event["object"], event["type"]
        name = obj["metadata"]["name"]
        assert int(obj["metadata"]["resourceVersion"]) > version, event
        version = int(obj["metadata"]["resourceVersion"])
        assert kind in ("ADDED", "MODIFIED", "DELETED"), event
        assert (name in known) == (kind != "ADDED"), event
        if kind == "DELETED":
            del known[name]
        else:
            known[name] = obj
    bare = {name: {k: v for k, v in one.items() if k not in ("apiVersion", "kind")} for name, one in known.items()}
    shown = {
        one["metadata"]["name"]: {k: v for k, v in one.items() if k not in ("apiVersion", "kind")}
        for one in listed.body["items"]
    }
    assert bare == shown
