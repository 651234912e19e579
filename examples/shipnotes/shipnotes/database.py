"""The connection pool, and what is asked of the database."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row
from psycopg_pool import ConnectionPool

PAGE = 50
"""Notes on a page."""


@dataclass
class Note:
    id: int
    version: str
    title: str
    body: str
    published_at: datetime


class Notes:
    """The notes in a PostgreSQL database. Raises `psycopg.OperationalError` when it cannot be reached."""

    def __init__(self, url: str) -> None:
        # A connection that the database dropped (a restart, a failover) is replaced before it is handed out.
        self.pool = ConnectionPool(
            url, min_size=1, max_size=4, timeout=5, check=ConnectionPool.check_connection, open=True
        )

    @classmethod
    def from_environment(cls) -> Notes:
        return cls(os.environ["DATABASE_URL"])

    def ping(self) -> None:
        with self.pool.connection() as connection:
            connection.execute("select 1")

    def newest(self) -> list[Note]:
        return self._notes(
            "select id, version, title, body, published_at from notes order by id desc limit %s", (PAGE,)
        )

    def search(self, words: str) -> list[Note]:
        return self._notes(
            """select id, version, title, body, published_at from notes
               where search @@ websearch_to_tsquery('english', %s)
               order by ts_rank(search, websearch_to_tsquery('english', %s)) desc, id desc limit %s""",
            (words, words, PAGE),
        )

    def find(self, number: int) -> Note | None:
        found = self._notes("select id, version, title, body, published_at from notes where id = %s", (number,))
        return found[0] if found else None

    def add(self, version: str, title: str, body: str) -> Note:
        added = self._notes(
            """insert into notes (version, title, body) values (%s, %s, %s)
               returning id, version, title, body, published_at""",
            (version, title, body),
        )
        return added[0]

    def _notes(self, query: str, values: tuple[object, ...]) -> list[Note]:
        with self.pool.connection() as connection, connection.cursor(row_factory=class_row(Note)) as cursor:
            return cursor.execute(query, values).fetchall()
