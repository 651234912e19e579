"""What the BPF program and the agent share, as numpy's types: the twins of the structures in bpf/maps.h. All little-endian."""

from __future__ import annotations

import numpy as np

USER_FRAMES = 127
KERNEL_FRAMES = 63
CGROUP_LEVELS = 6
CGROUP_NAME_BYTES = 96

FRAME_KIND_SHIFT = 60
FRAME_FILE_SHIFT = 40
FRAME_ADDRESS, FRAME_FILE = 0, 1
LAST_ID = 2
"""Where, in the map `fill`, the last number of a file is."""
FILE_ID_MAX = (1 << (FRAME_KIND_SHIFT - FRAME_FILE_SHIFT)) - 1

STATUSES = (
    "complete",
    "truncated",
    "no-table",
    "unreadable",
    "unknown-mapping",
    "expression",
    "unknown-file",
    "kernel-only",
)
"""How the walk of a user's stack ended, in the order of `enum status`."""
COUNTERS = (*STATUSES, "no_room", "events_lost", "samples", "run_ns", "frames")
COUNTERS_MAX = 16

EVENT_FILE, EVENT_PROCESS, EVENT_FULL = 1, 2, 3
VDSO_INODE = (1 << 64) - 1
FILE_FRAME_POINTERS, FILE_TABLE, FILE_SETTLED = 1, 2, 4

FILE_KEY = np.dtype([("inode", "<u8"), ("changed_ns", "<u8"), ("device", "<u4"), ("generation", "<u4")])
FILE_VALUE = np.dtype([("id", "<u4"), ("first", "<u4"), ("count", "<u4"), ("flags", "<u4"), ("extra", "<u4", 4)])
RULE = np.dtype(
    [
        ("cfa", "u1"),
        ("reg", "u1"),
        ("rbp", "u1"),
        ("pad", "u1"),
        ("cfa_offset", "<i4"),
        ("rbp_offset", "<i4"),
        ("more", "<i4"),
    ]
)
CONFIG = np.dtype(
    [
        ("active", "<u4"),
        ("tgid", "<u4"),
        ("cgroup", "<u8"),
        ("off", "<u4"),
        ("capacity", "<u4"),
        ("wait_ns", "<u8"),
        ("pace_ns", "<u8"),
        ("every", "<u8"),
    ]
)
STACK = np.dtype(
    [
        ("count", "<u8"),
        ("process", "<u8"),
        ("cgroup", "<u8"),
        ("value", "<u8"),
        ("type", "<u8"),
        ("python", "<u8"),
        ("tgid", "<u4"),
        ("users", "<u2"),
        ("kernels", "u1"),
        ("status", "u1"),
        ("comm", "S16"),
        ("user", "<u8", USER_FRAMES + 1),
        ("kernel", "<u8", KERNEL_FRAMES + 1),
    ]
)
FILE_EVENT = np.dtype(
    [
        ("event", "<u4"),
        ("tgid", "<u4"),
        ("id", "<u4"),
        ("pad", "<u4"),
        ("key", FILE_KEY),
        ("start", "<u8"),
        ("end", "<u8"),
        ("page", "<u8"),
    ]
)
PROCESS_EVENT = np.dtype(
    [
        ("event", "<u4"),
        ("tgid", "<u4"),
        ("process", "<u8"),
        ("cgroup", "<u8"),
        ("executable", FILE_KEY),
        ("comm", "S16"),
        ("cgroups", f"S{CGROUP_NAME_BYTES}", CGROUP_LEVELS),
    ]
)

CFA_GAP, CFA_END, CFA_REGISTER, CFA_DEREF, CFA_PLT, CFA_SIGNAL, CFA_UNSUPPORTED = range(7)
RBP_SAME, RBP_AT_CFA, RBP_AT_RBP, RBP_LOST = range(4)
