"""Whether the disk of an engine has room: `trimtab status`, the dashboard and the supervisor say so in the same words.

Standard library alone: the supervisor loads nothing else.
"""

from __future__ import annotations

import os

FULL_BYTES = 64 << 10
"""With less than this free a disk counts as full: many a write of the API server takes more."""


def shortage(data: str) -> str:
    """One line when nothing can be written to the disk of an engine's data; empty when there is room."""
    disk = os.statvfs(data)
    if disk.f_files and not disk.f_favail:
        return f"the disk of {data} has no inode left: delete some files; reads and pods go on meanwhile, writes are refused"
    if disk.f_bavail * disk.f_frsize < FULL_BYTES:
        return f"the disk of {data} is full: free some; reads and pods go on meanwhile, writes are refused"
    return ""
