"""The web application: pages, search, feed, and one way to write."""

from __future__ import annotations

import hmac
import os
import socket
from datetime import datetime
from email.utils import format_datetime
from typing import Any

import psycopg
from flask import Flask, Response, abort, jsonify, render_template, request, url_for
from psycopg_pool import PoolTimeout

from shipnotes.database import Note, Notes

TEXT_LIMIT = 20_000
"""Characters in a note's body."""


def create_app(notes: Notes | None = None, token: str | None = None) -> Flask:
    """The application on the given notes; by default those of DATABASE_URL, writable with SHIPNOTES_TOKEN."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 1_000_000
    store = notes or Notes.from_environment()
    secret = token or os.environ.get("SHIPNOTES_TOKEN", "")

    @app.template_filter("day")
    def day(moment: datetime) -> str:
        return moment.strftime("%-d %B %Y")

    @app.after_request
    def name_server(response: Response) -> Response:
        response.headers["X-Served-By"] = socket.gethostname()
        return response

    @app.errorhandler(psycopg.OperationalError)
    @app.errorhandler(PoolTimeout)
    def no_database(_: Exception) -> tuple[str, int]:
        return "The database does not answer; try again in a moment.\n", 503

    @app.get("/")
    def index() -> str:
        words = request.args.get("q", "").strip()
        found = store.search(words) if words else store.newest()
        return render_template("index.html", notes=found, words=words)

    @app.get("/notes/<int:number>")
    def note(number: int) -> str:
        found = store.find(number) or abort(404)
        return render_template("note.html", note=found)

    @app.post("/notes")
    def add() -> tuple[Response, int]:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not secret or not hmac.compare_digest(given.encode(), secret.encode()):
            abort(401)
        values = _checked(request.get_json(silent=True))
        made = store.add(**values)
        return jsonify(id=made.id, url=url_for("note", number=made.id)), 201

    @app.get("/feed.xml")
    def feed() -> Response:
        text = render_template("feed.xml", notes=store.newest(), rfc822=_rfc822, root=request.url_root)
        return Response(text, mimetype="application/rss+xml")

    @app.get("/healthz")
    def health() -> str:
        store.ping()
        return "ok\n"

    return app


def _rfc822(note: Note) -> str:
    return format_datetime(note.published_at)


def _checked(body: Any) -> dict[str, str]:
    if not isinstance(body, dict):
        abort(400, "expected a JSON object")
    values = {name: str(body.get(name) or "").strip() for name in ("version", "title", "body")}
    for name in ("version", "title"):
        if not values[name]:
            abort(400, f"{name}: missing")
    if len(values["body"]) > TEXT_LIMIT:
        abort(400, f"body: longer than {TEXT_LIMIT} characters")
    return values


def __getattr__(name: str) -> Flask:
    """`shipnotes.web:app` for a WSGI server, made when it is first asked for, so that tests can import this module."""
    if name == "app":
        made = create_app()
        globals()["app"] = made
        return made
    raise AttributeError(name)
