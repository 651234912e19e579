"""Checks on writes of Pipelines and PipelineRuns: what could never be followed is refused when it is written."""

from __future__ import annotations

import re

from trimtab.api import JSON
from trimtab.components.pipelines.kinds import DNS_LABEL
from trimtab.runtime import Denied

_BRANCH = re.compile(r"(?!.*(\.\.|//|@\{|\.lock(/|$)))[A-Za-z0-9_][A-Za-z0-9_./+-]*(?<![./])")
_TRANSPORTS = ("https://", "http://", "git://")


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
    webhook = spec.get("webhook")
    if webhook is not None and not webhook["repository"].startswith(_TRANSPORTS):
        raise Denied(
            "spec.webhook.repository", f"{webhook['repository']!r}: give an https:// URL that git can fetch from"
        )
    return []


def check_run(new: JSON, old: JSON | None) -> list[str]:
    """What a run is of does not change."""
    if old is not None and new.get("spec") != old.get("spec"):
        raise Denied("spec", "a PipelineRun is of one commit for good: make another one")
    return []
