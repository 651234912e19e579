"""Backup and restore of everything that an engine keeps: store, journal, keys, content, volumes.

    sources.py   which trees of the data directory, and the copies of the databases
    walk.py      a tree -> entries; what changed since it was last looked at
    freeze.py    the pods that write to volumes stand still for as long as the last changes are copied
    pieces.py    bytes -> pieces of 1 MiB, named by a keyed hash, compressed, sealed with age, sent once
    objects.py   where they go: a directory or an S3-compatible store
    create.py    all of it in order; the commit object is written last
    keeping.py   list, verify, delete, retention
    restore.py   from the objects to the data directory of an empty machine

What is stored is described in docs/backup.md and `format.py`.
"""
