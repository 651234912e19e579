"""Kinds of the provider cloud 1.0.0: written by `trimtab provider stubs cloud`, to be written again after an upgrade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from trimtab.compose import Fields, Managed, SecretKey


@dataclass(kw_only=True)
class NetworkFields(Fields):
    """cloud_network."""

    name: str
    range: str | None = None


class Network(Managed[NetworkFields]):
    API_VERSION: ClassVar[str] = "cloud.tf.trimtab.dev/v1"
    KIND: ClassVar[str] = "Network"


@dataclass(kw_only=True)
class ServerDisk(Fields):
    label: str
    size: float


@dataclass(kw_only=True)
class ServerFields(Fields):
    """cloud_server."""

    name: str
    region: str
    """Where it stands. A change makes it anew."""
    network: str | None = None
    password_secret_ref: SecretKey | None = None
    protected: bool | None = None
    size: str | None = None
    tags: Mapping[str, str] | None = None
    disk: list[ServerDisk] | None = None


class Server(Managed[ServerFields]):
    API_VERSION: ClassVar[str] = "cloud.tf.trimtab.dev/v1"
    KIND: ClassVar[str] = "Server"


__all__ = [
    "Network",
    "NetworkFields",
    "Server",
    "ServerDisk",
    "ServerFields",
]
