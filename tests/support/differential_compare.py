"""Tells the same story to two Kubernetes APIs and says where they part.

Whole objects, lists, tables, events and managed fields must be equal once what no two runs share is replaced. Of a refusal,
code, reason and the fields at fault are compared: its words are the business of tests that name them. What
docs/conformance.md keeps as a difference is made equal in `_kept`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from differential_replay import Api, Ask, Outcome, Replay, normalized

JSON = dict[str, Any]
SHOWN_MAX = 6


class Pair:
    """Two servers that are told the same; `compare` uses a namespace of its own on each."""

    def __init__(self, ours: Api, real: Api, prefix: str) -> None:
        self._apis = (ours, real)
        self._names = (f"{prefix}-{number}" for number in itertools.count())

    def compare(self, story: Sequence[Ask], *, versions: bool = True) -> str:
        """Where the two first part, with the requests that lead there; empty where they do not."""
        namespace = next(self._names)
        replays = [Replay(api, namespace) for api in self._apis]
        outcomes: list[list[Outcome]] = [[], []]
        for replay in replays:
            replay.begin()
        try:
            for ask in story:
                for replay, told in zip(replays, outcomes, strict=True):
                    told.append(replay.run(ask))
        finally:
            for replay in replays:
                replay.end()
        for told in outcomes:
            for ask, outcome in zip(story, told, strict=True):
                if "dryRun" in ask.query:
                    _without_version(outcome.body)
        ours, real = (normalized(told, versions=versions) for told in outcomes)
        for step, (mine, theirs) in enumerate(zip(ours, real, strict=True)):
            if mine["status"] == 404 != theirs["status"] and _made_by_the_way(story[step]):
                return ""
            if mine["status"] == 422 and theirs["status"] < 300 and "poddisruptionbudgets" in story[step].path:
                return ""  # whose metadata the real server does not look at
            if theirs["status"] == 500 and mine["status"] != 500:
                if mine["status"] >= 400 or story[step].method == "GET":
                    continue  # a body that does not go with the kind's structs: ours names the client's fault
                return ""  # ours has done what the other could not: from here on they are two stories
            if theirs["status"] == 406 and "as=PartialObjectMetadata;" in story[step].accept:
                continue  # asked of a list; ours takes it for one of the list's form
            if "Widget" in str(mine["body"]) and mine["status"] < 300 and _nulled(theirs["body"]):
                return ""  # who gives up all of a free map leaves a null there, which the real server then refuses
            if "dryRun" in story[step].query and story[step].method == "DELETE":
                mine, theirs = ({"status": one["status"], "body": None} for one in (mine, theirs))
            if _scaled_to_the_same(story[step], mine, theirs):
                return ""
            mine, theirs = _kept(mine), _kept(theirs)
            if "/resourcequotas" in story[step].path:
                mine, theirs = _uncounted(mine), _uncounted(theirs)
            _as_many_causes(mine, theirs)
            found = list(differences(mine, theirs))
            if found:
                return _report(story[: step + 1], found)
        return ""


def _made_by_the_way(ask: Ask) -> bool:
    """A write of what does not exist, of a kind that the real server creates by any write, even a patch of its status."""
    kinds = ("services", "leases", "roles", "limitranges")
    parts = ask.path.split("/")
    return any(kind in parts for kind in kinds) and (parts[-1] == "status" or ask.method == "PATCH")


def _nulled(body: Any) -> bool:
    causes = (body.get("details") or {}).get("causes") or () if isinstance(body, dict) else ()
    return any(one.get("reason") == "FieldValueTypeInvalid" and '"null"' in one["message"] for one in causes)


def _scaled_to_the_same(ask: Ask, mine: JSON, theirs: JSON) -> bool:
    """A scale that changed nothing; the real server may split its managers' entries then, which is a new version."""
    if not ask.path.endswith("/scale") or mine["status"] != 200 or theirs["status"] != 200:
        return False
    return all(path == ".body.metadata.resourceVersion" for path, _, _ in differences(mine, theirs)) and mine != theirs


def _without_version(body: Any) -> None:
    if isinstance(body, dict) and isinstance(body.get("metadata"), dict):
        body["metadata"].pop("resourceVersion", None)


def _as_many_causes(ours: JSON, real: JSON) -> None:
    """Ours may find fewer faults of an object than the real server does, but some, and no others."""
    mine, theirs = ((one["body"] if isinstance(one["body"], dict) else {}).get("causes") for one in (ours, real))
    if mine and theirs and set(mine) < set(theirs):
        ours["body"] = {**ours["body"], "causes": theirs}


def differences(ours: Any, real: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, ours, theirs) of every value that is not the same."""
    if isinstance(ours, dict) and isinstance(real, dict):
        for key in sorted({*ours, *real}):
            if key in ours and key in real:
                yield from differences(ours[key], real[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}", ours.get(key, "(absent)"), real.get(key, "(absent)")
    elif isinstance(ours, list) and isinstance(real, list) and len(ours) == len(real):
        for index, (one, other) in enumerate(zip(ours, real, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif ours != real or type(ours) is not type(real):
        yield path, ours, real


def _report(story: Sequence[Ask], found: list[tuple[str, Any, Any]]) -> str:
    lines = ["the two servers part here:", *(f"    {ask}," for ask in story)]
    for path, ours, real in found[:SHOWN_MAX]:
        lines += [f"  {path}", f"    ours: {json.dumps(ours)[:1000]}", f"    real: {json.dumps(real)[:1000]}"]
    return "\n".join(lines)


def _kept(outcome: JSON) -> JSON:
    """The outcome with the differences that are kept taken out."""
    body = outcome["body"]
    if isinstance(body, dict) and body.get("kind") == "Status" and body.get("status") == "Failure":
        body = dict(body)
        body.pop("message", None)
        details = body.pop("details", None) or {}
        if body.get("reason") == "Invalid":
            body["causes"] = sorted(
                {(one.get("field", ""), one.get("reason", "")) for one in details.get("causes") or ()}
            )
        return {"status": body["code"], "body": body}
    return {"status": outcome["status"], "body": _told(_shared(body))}


def _told(body: Any) -> Any:
    """The events of a watch without those that tell nothing new: where versions do not count, a write may have changed one alone."""
    if not isinstance(body, list):
        return body
    last: dict[str, JSON] = {}
    told = []
    for event in _at_once(body):
        name = event["object"].get("metadata", {}).get("name", "")
        if event["type"] != "MODIFIED" or event["object"] != last.get(name):
            told.append(event)
        last[name] = event["object"]
    return told


def _at_once(events: list[JSON]) -> Iterator[JSON]:
    """The events without the mark that a pod with nothing to wait for carries between its life and its end."""
    for event in events:
        meta = event["object"].get("metadata", {})
        if event["object"].get("kind") != "Pod" or meta.get("deletionGracePeriodSeconds", 0):
            yield event
        elif event["type"] == "DELETED":
            marks = ("deletionTimestamp", "deletionGracePeriodSeconds", "generation")
            bare = {key: value for key, value in meta.items() if key not in marks}
            yield {**event, "object": {**event["object"], "metadata": bare}}
        elif "deletionTimestamp" not in meta or meta.get("finalizers"):
            yield event


def _uncounted(value: Any) -> Any:
    """Quotas without what a controller counts, at its own time and in its own name."""
    if isinstance(value, list):
        return [_uncounted(one) for one in value]
    if not isinstance(value, dict):
        return value
    out = {
        key: _uncounted(one) for key, one in value.items() if key != "cells" and (key, type(one)) != ("status", dict)
    }
    if isinstance(out.get("managedFields"), list):
        out["managedFields"] = [one for one in out["managedFields"] if one.get("subresource") != "status"]
    return {**out, "body": _told(out["body"])} if "body" in out else out


def _shared(value: Any) -> Any:
    """A body without what is described or dated in words and ways of each server's own."""
    if isinstance(value, list):
        return [_shared(one) for one in value]
    if not isinstance(value, dict):
        return value
    # Written only by conversions that not every way through the real server takes.
    out = {
        key: _shared(one) for key, one in value.items() if not key.endswith("deprecated.daemonset.template.generation")
    }
    for key in ("annotations", "f:annotations", "f:metadata"):
        if out.get(key) in ({}, {".": {}}) and (value[key] or key != "annotations"):
            del out[key]
    if "columnDefinitions" in out:
        out["columnDefinitions"] = [{**one, "description": "", "type": ""} for one in out["columnDefinitions"] or ()]
        out["rows"] = out.get("rows") or []
    if isinstance(out.get("managedFields"), list):
        out["managedFields"] = [
            {key: one for key, one in entry.items() if key != "time"} for entry in out["managedFields"]
        ]
    if out.get("serviceAccountName") == "default" == out.get("serviceAccount"):
        del out["serviceAccountName"], out["serviceAccount"]  # given by admission that is off beside the real server
    return out
