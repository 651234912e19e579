"""Applies the migrations that the database has not seen: `python3 -m shipnotes.migrate`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg

MIGRATIONS = Path(__file__).with_name("migrations")
LOCK = 727_411
"""An advisory lock of our own, so that two migrations never run at once."""


def migrate(url: str, directory: Path = MIGRATIONS) -> list[str]:
    """Applies each new file in a transaction of its own, in the order of names; returns the names applied."""
    applied = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (LOCK,))
        connection.execute(
            "create table if not exists migrations (name text primary key, applied_at timestamptz default now())"
        )
        seen = {row[0] for row in connection.execute("select name from migrations").fetchall()}
        for path in sorted(directory.glob("*.sql")):
            if path.name not in seen:
                with connection.transaction():
                    connection.execute(path.read_text("utf-8").encode())
                    connection.execute("insert into migrations (name) values (%s)", (path.name,))
                applied.append(path.name)
    return applied


def main() -> None:
    try:
        applied = migrate(os.environ["DATABASE_URL"])
    except psycopg.Error as err:
        sys.exit(f"migration failed: {' '.join(str(err).split())}")
    print(f"applied {', '.join(applied)}" if applied else "nothing to apply")


if __name__ == "__main__":
    main()
