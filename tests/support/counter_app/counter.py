"""Counts what it executes: each POST's body is written to the database, twice if it came twice."""

from __future__ import annotations

import json
import os

import psycopg
from psycopg_pool import ConnectionPool


def migrate() -> None:
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute("create table if not exists executed (id text not null)")


if __name__ == "__main__":
    migrate()
else:
    pool = ConnectionPool(os.environ["DATABASE_URL"], min_size=2, max_size=8, open=True)


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    with pool.connection() as connection:
        if environ["REQUEST_METHOD"] == "POST":
            connection.execute("insert into executed values (%s)", (body,))
            answer = "done"
        elif environ["PATH_INFO"] == "/executed":
            rows = connection.execute("select id, count(*) from executed group by id").fetchall()
            answer = json.dumps(dict(rows))
        else:
            connection.execute("select 1")
            answer = "ok"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer.encode()]
