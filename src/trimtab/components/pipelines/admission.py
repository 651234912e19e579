"""Checks on writes of Pipelines and PipelineRuns: what could never be followed is refused when it is written."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from trimtab.api import JSON
from trimtab.components.pipelines.kinds import DNS_LABEL
from trimtab.runtime import Denied

_BRANCH = re.compile(r"(?!.*(\.\.|//|@\{|\.lock(/|$)))[A-Za-z0-9_][A-Za-z0-9_./+-]*(?<![./])")
_TRANSPORTS = ("https://", "http://", "git://", "ssh://")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_pipeline(new: JSON, old: JSON | None) -> list[str]:
    """Name, branch, directory, repository."""
    spec, name = new.get("spec") or {}, new["metadata"].get("name", "")
    if name and not re.fullmatch(DNS_LABEL, name):
        raise Denied(
            "metadata.name", f"{name!r}: at most 40 lower-case letters, digits and '-', beginning with a letter"
        )
    branch = spec.get("branch", "main")
    if not _BRANCH.fullmatch(branch):
        raise Denied("spec.branch", f"{branch!r} is no name of a branch: give one like main, without refs/heads/")
    directory = spec.get("directory", "")
    if directory.startswith("/") or ".." in directory.split("/"):
        raise Denied("spec.directory", f"{directory!r} must be a directory in the repository, such as services/shop")
    if (webhook := spec.get("webhook")) is not None:
        _check_webhook(webhook["repository"], webhook.get("login", ""))
    return []


def _check_webhook(repository: str, login: str) -> None:
    field = "spec.webhook.repository"
    if not repository.startswith(_TRANSPORTS):
        raise Denied(field, f"{repository!r}: give an https:// or ssh:// URL that git can fetch from")
    place = urlsplit(repository)
    if place.password:
        raise Denied(field, "it has a password in it: put that into a Secret, and name it as spec.webhook.login")
    if place.scheme == "ssh" and not login:
        raise Denied("spec.webhook.login", "ssh:// asks for a key: name a Secret with ssh-privatekey and known_hosts")
    if login and place.scheme in ("http", "git") and place.hostname not in _LOOPBACK:
        raise Denied(field, f"{repository!r} would be sent the login without TLS: write https:// or ssh://")


def check_run(new: JSON, old: JSON | None) -> list[str]:
    """What a run is of does not change."""
    if old is not None and new.get("spec") != old.get("spec"):
        raise Denied("spec", "a PipelineRun is of one commit for good: make another one")
    return []
