"""What the launcher is told: plain values, marshalled. A module of its own, which the launcher needs for its types only."""

from __future__ import annotations

from typing import TypedDict


class Overlay(TypedDict):
    """Paths are relative to the plan's directory: the kernel takes no more than a page of them."""

    lowers: list[str]
    upper: str
    work: str
    at: str


class Process(TypedDict):
    """One bwrap. output: the descriptor that it writes to, or -1 for the launcher's own (a shell's terminal)."""

    name: str
    argv: list[str]
    env: dict[str, str]
    output: int


class Service(Process):
    """port: ready when it answers at `host`; ready: or when this bwrap ends well."""

    host: str
    port: int
    ready: list[str]
    ready_s: float
    stop: int


class Plan(TypedDict):
    """All that the launcher is told. network: a namespace of its own, with loopback only. patient: a service that is not ready is told of, and not an error. orderly: how services are
    stopped after a success, too."""

    directory: str
    socket: int
    network: bool
    overlays: list[Overlay]
    services: list[Service]
    runs: list[Process]
    limits: dict[int, int]
    patient: bool
    orderly: bool
