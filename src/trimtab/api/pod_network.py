"""What a pod says about names: its resolver, and entries of its /etc/hosts."""

from __future__ import annotations

from trimtab.api.resource import Model


class PodDNSConfigOption(Model):
    name: str = ""
    value: str | None = None


class PodDNSConfig(Model):
    nameservers: list[str] = []
    searches: list[str] = []
    options: list[PodDNSConfigOption] = []


class HostAlias(Model):
    ip: str
    hostnames: list[str] = []
