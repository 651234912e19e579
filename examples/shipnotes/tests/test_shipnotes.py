"""The application on a PostgreSQL of its own. Run by the project's integration tests, or with DATABASE_URL set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

pytest.importorskip("psycopg", reason="the example's requirements are not installed")
from shipnotes.database import Notes
from shipnotes.migrate import migrate
from shipnotes.web import create_app

if "DATABASE_URL" not in os.environ:
    pytest.skip("DATABASE_URL is not set: no PostgreSQL to test with", allow_module_level=True)


@pytest.fixture(scope="module")
def notes() -> Iterator[Notes]:
    migrate(os.environ["DATABASE_URL"])
    store = Notes.from_environment()
    yield store
    store.pool.close()


@pytest.fixture
def browser(notes: Notes):
    return create_app(notes, token="s3cret").test_client()


def add(browser, **body: str):
    return browser.post("/notes", json=body, headers={"Authorization": "Bearer s3cret"})


def test_a_note_is_added_and_read(browser) -> None:
    answer = add(browser, version="1.1", title="Darker <b>nights</b>", body="A dark theme.")
    assert answer.status_code == 201
    page = browser.get(answer.json["url"]).text
    assert "Darker &lt;b&gt;nights&lt;/b&gt;" in page


def test_search_finds_by_stem(browser) -> None:
    add(browser, version="1.2", title="Searching", body="Finds zebras.")
    assert "Searching" in browser.get("/?q=zebra").text
    assert "Nothing here yet" in browser.get("/?q=unfindable").text


def test_the_feed_is_rss(browser) -> None:
    add(browser, version="1.3", title="Feed & more", body="")
    root = ElementTree.fromstring(browser.get("/feed.xml").data)
    assert "1.3 Feed & more" in [item.findtext("title") for item in root.iter("item")]


@pytest.mark.parametrize(
    ("body", "problem"),
    [({}, "version: missing"), ({"version": "1"}, "title: missing"), (None, "expected a JSON object")],
)
def test_a_bad_note_is_refused(browser, body, problem) -> None:
    answer = browser.post("/notes", json=body, headers={"Authorization": "Bearer s3cret"})
    assert answer.status_code == 400
    assert problem in answer.text


def test_writing_needs_the_token(browser) -> None:
    assert browser.post("/notes", json={}, headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_migrations_run_once(notes: Notes) -> None:
    assert migrate(os.environ["DATABASE_URL"]) == []
