"""Read-your-writes: whatever order watch and answers come in, nobody sees an object older than our own last write."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimtab.api import ObjectMeta
from trimtab.api.core import ConfigMap
from trimtab.client.cache import Cache, Entry, Index, Mark, read_marks, writer_of


def entry(
    version: int, uid: str = "u1", name: str = "a", by: str = "other", labels: dict[str, str] | None = None
) -> Entry[ConfigMap]:
    meta = ObjectMeta(name=name, namespace="n", uid=uid, resource_version=str(version), labels=labels or {})
    return Entry(ConfigMap(metadata=meta), (Mark(by, "Apply", "", str(version), version),))


def version_of(cache: Cache[ConfigMap]) -> str | None:
    found = cache.get("a", "n")
    return found.metadata.resource_version if found else None


def test_the_watch_cannot_bring_back_an_older_version() -> None:
    cache = Cache(ConfigMap)
    cache.seen(entry(1))
    cache.wrote(entry(5))

    assert cache.seen(entry(3)) is None
    assert version_of(cache) == "5"
    assert cache.seen(entry(5)) is None
    assert cache.pending == 0
    changed = cache.seen(entry(7))
    assert changed is not None
    assert version_of(cache) == "7"


def test_an_answer_that_comes_after_its_event_changes_nothing() -> None:
    cache = Cache(ConfigMap)
    cache.seen(entry(5))
    cache.seen(entry(6))

    assert cache.wrote(entry(5)) is None
    assert version_of(cache) == "6"
    assert cache.pending == 0


def test_a_deletion_ends_the_wait_for_our_own_version() -> None:
    cache = Cache(ConfigMap)
    cache.wrote(entry(5))

    gone = cache.removed(entry(6).obj)

    assert gone is not None
    assert gone.new is None
    assert cache.pending == 0


def test_our_own_deletion_shows_at_once_and_stays() -> None:
    cache = Cache(ConfigMap)
    cache.seen(entry(1))

    change = cache.deleted(entry(1).obj, by="me")

    assert change is not None
    assert (change.new, change.by, change.own) == (None, "me", True)
    assert cache.seen(entry(2)) is None, "the watch lags behind our deletion"
    assert cache.removed(entry(3).obj) is None
    assert cache.pending == 0


def test_another_object_of_the_same_name_is_another_object() -> None:
    cache = Cache(ConfigMap)
    cache.seen(entry(1))
    cache.deleted(entry(1).obj)

    new = cache.seen(entry(4, uid="u2"))

    assert new is not None
    assert version_of(cache) == "4"


def test_a_list_from_before_our_write_is_refused_and_one_from_after_is_taken() -> None:
    cache = Cache(ConfigMap)
    cache.seen(entry(1))
    asked_at = cache.writes
    cache.wrote(entry(5))

    assert cache.replace([entry(1)], asked_at) is None
    assert version_of(cache) == "5"
    changes = cache.replace([entry(9)], cache.writes)
    assert changes is not None
    assert [c.latest.metadata.resource_version for c in changes] == ["9"]


def test_a_list_tells_what_went_came_and_was_replaced() -> None:
    cache = Cache(ConfigMap)
    cache.replace([entry(1, "u1", "gone"), entry(2, "u2", "same"), entry(3, "u3", "replaced")], 0)

    changes = cache.replace([entry(2, "u2", "same"), entry(8, "u8", "replaced"), entry(9, "u9", "new")], 0)

    assert changes is not None
    told = [(c.key[1], c.old.metadata.uid if c.old else None, c.new.metadata.uid if c.new else None) for c in changes]
    assert told == [("gone", "u1", None), ("replaced", "u3", None), ("replaced", None, "u8"), ("new", None, "u9")]


def test_indexes_follow_labels_and_namespaces() -> None:
    cache = Cache(ConfigMap, index_labels=("owner",))
    cache.seen(entry(1, labels={"owner": "x"}))
    cache.seen(entry(2, "u2", "b", labels={"owner": "x"}))

    assert [o.name for o in cache.labelled("owner", "x")] == ["a", "b"]
    cache.seen(entry(3, labels={"owner": "y"}))
    assert [o.name for o in cache.labelled("owner", "x")] == ["b"]
    assert [o.name for o in cache.list("n")] == ["a", "b"]
    assert cache.list("other") == []
    cache.removed(entry(4, "u2", "b").obj)
    assert list(cache.label_values("owner")) == ["y"]


@given(st.lists(st.sampled_from(["server", "own", "watch", "answer"]), max_size=40))
def test_no_interleaving_shows_an_older_version_after_our_write(steps: list[str]) -> None:
    """A server writes versions; some are ours. The watch brings all in order; our answers come in order too."""
    cache = Cache(ConfigMap)
    version, watched, answered = 0, 0, 0
    log: list[tuple[int, bool]] = []
    own_seen = 0
    for step in steps:
        if step in ("server", "own"):
            version += 1
            log.append((version, step == "own"))
        elif step == "watch" and watched < len(log):
            cache.seen(entry(log[watched][0]))
            watched += 1
        elif step == "answer":
            mine = [v for v, own in log if own]
            if answered < len(mine):
                cache.wrote(entry(mine[answered]))
                own_seen = mine[answered]
                answered += 1
        shown = version_of(cache)
        assert own_seen == 0 or (shown is not None and int(shown) >= own_seen)
    for v, _ in log[watched:]:
        cache.seen(entry(v))
    for v in [v for v, own in log if own][answered:]:
        cache.wrote(entry(v))
    if log:
        assert version_of(cache) == str(log[-1][0])
        assert cache.pending == 0


def test_marks_tell_who_wrote() -> None:
    body = (
        b'{"metadata":{"name":"a","managedFields":[{"manager":"kubectl","operation":"Update","time":"2030-01-01T00:00:00Z",'
        b'"fieldsV1":{"f:data":{}}},{"manager":"m","operation":"Apply","subresource":"status","time":"2030-01-01T00:00:05Z"}]}}'
    )
    marks = read_marks(body)

    assert [(m.manager, m.operation, m.subresource) for m in marks] == [
        ("kubectl", "Update", ""),
        ("m", "Apply", "status"),
    ]
    old = Entry(ConfigMap(), marks[:1])
    assert writer_of(old, Entry(ConfigMap(), marks)) == ("m", "status")
    assert writer_of(old, Entry(ConfigMap(), marks[:1])) == ("kubectl", "")
    assert writer_of(old, Entry(ConfigMap(), marks[:1]), writing="us") == ("us", "")


LABELS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz"))


@given(st.lists(st.tuples(st.sampled_from("pqrs"), LABELS | st.none())), st.lists(LABELS, max_size=4))
def test_what_is_selected_is_what_a_search_finds(
    changes: list[tuple[str, dict[str, str] | None]], asked: list[dict[str, str]]
) -> None:
    cache = Cache(ConfigMap)
    for version, (name, labels) in enumerate(changes):
        for wanted in asked:  # at every moment, so that indexes begin at any of them
            pairs = sorted(wanted.items())
            found = [o for o in cache.list("n") if wanted.items() <= o.metadata.labels.items()]
            assert list(cache.select(pairs, "n")) == found
            assert list(cache.select(pairs)) == found
        assert list(cache.select([("a", "x")], "elsewhere")) == []
        made = entry(version + 1, f"u-{name}", name, labels=labels)
        if labels is None:
            cache.removed(made.obj)
        else:
            cache.seen(made)


def test_an_index_follows_what_comes_changes_and_goes() -> None:
    words = Index(lambda one: one.metadata.labels.get("words", "").split("."))
    cache = Cache(ConfigMap)
    cache.seen(entry(1, "u1", "a", labels={"words": "x.y"}))

    def found(value: str, namespace: str = "n") -> list[str]:
        return [one.name for one in cache.by_index(words, value, namespace)]

    assert (found("x"), found("y"), found("z"), found("x", "other")) == (["a"], ["a"], [], [])
    cache.seen(entry(2, "u2", "b", labels={"words": "y.z"}))
    assert (found("x"), found("y"), found("z")) == (["a"], ["a", "b"], ["b"])
    cache.wrote(entry(3, "u1", "a", labels={"words": "z"}))
    assert (found("x"), found("y"), found("z")) == ([], ["b"], ["a", "b"])
    cache.removed(entry(4, "u2", "b").obj)
    assert (found("y"), found("z")) == ([], ["a"])
    cache.replace([], cache.writes)
    assert found("z") == []
