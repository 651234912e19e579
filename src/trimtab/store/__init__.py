"""The revision log on SQLite: write, read at a revision, watch from a revision, compact, back up, migrate."""
