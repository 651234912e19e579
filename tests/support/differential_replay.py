"""Carries out a list of requests on one Kubernetes API and records what came of each, in words that two APIs can share.

    requests -> placeholders filled from earlier answers -> HTTP -> raw outcomes -> `normalized`

A request (`Ask`) is plain data. Strings in its path, query and body may hold what only the server knows: `<ns>` (the
run's namespace), `<rv NAME>` and `<uid NAME>` (the newest of an object that an answer has shown; NAME is `plural/name`),
`<old NAME>` (its first version), `<start>` (the version when the run began), `<list>` and `<continue>` (of the last list).

What differs between two runs of the same story is replaced: uids by the order of their first appearance, versions by the
count of the run's object versions up to them, times, addresses, node ports and generated names by a word.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

TIMEOUT_S = 60.0
LOOK_S = 0.02
NO_VERSION = 1
"""What a story says where it knows no version; a dry run may give it back."""
JSON_TYPE = "application/json"
_PLACE = re.compile(r"<(rv|uid|old) ([^>]+)>|<(ns|start|list|continue)>")
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_ADDRESS = re.compile(r"\b10\.96\.\d+\.\d+\b")
_SAID_VERSION = re.compile(r"(?i)(resource ?version[^0-9]{0,40}|current: )(\d+)\b")
_NOBODY_ACTS = "nothing acts on this field"


@dataclass(frozen=True)
class Ask:
    """One request. `body`: JSON values, or a string that is sent as it stands. `until`: a watch, read until the object
    of that name is seen (or to its end where that is empty)."""

    method: str
    path: str
    body: Any = None
    query: dict[str, str] = field(default_factory=dict)
    type: str = JSON_TYPE
    accept: str = JSON_TYPE
    until: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.method!r}, {self.path!r}"]
        for name, usual in (("body", None), ("query", {}), ("type", JSON_TYPE), ("accept", JSON_TYPE), ("until", None)):
            value = getattr(self, name)
            if value != usual:
                parts.append(f"{name}={value!r}")
        return f"Ask({', '.join(parts)})"


@dataclass
class Outcome:
    """What a request led to; `body` is a list of events for a watch."""

    status: int
    body: Any
    warnings: list[str]


class Api:
    """One server over TLS, from a kubeconfig with a token."""

    def __init__(self, kubeconfig: Path) -> None:
        import yaml

        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._where = urlsplit(cluster["server"])
        self._token = config["users"][0]["user"]["token"]
        self._trusted = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._connection: http.client.HTTPSConnection | None = None

    def ask(self, ask: Ask) -> Outcome:
        """Raises `OSError` where there is no answer."""
        if ask.until is not None:
            return self._watch(ask)
        if self._connection is None:
            self._connection = self._connect()
        try:
            answer = self._send(self._connection, ask)
            raw = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        return _outcome(answer, json.loads(raw) if _is_json(answer) else raw.decode())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPSConnection:
        assert self._where.hostname
        return http.client.HTTPSConnection(
            self._where.hostname, self._where.port, timeout=TIMEOUT_S, context=self._trusted
        )

    def _send(self, connection: http.client.HTTPSConnection, ask: Ask) -> http.client.HTTPResponse:
        path = f"{ask.path}?{urlencode(ask.query)}" if ask.query else ask.path
        headers = {"Authorization": f"Bearer {self._token}", "Accept": ask.accept, "User-Agent": "differential/1"}
        body = None
        if ask.body is not None:
            body = ask.body.encode() if isinstance(ask.body, str) else json.dumps(ask.body).encode()
            headers["Content-Type"] = ask.type
        connection.request(ask.method, path, body=body, headers=headers)
        return connection.getresponse()

    def _watch(self, ask: Ask) -> Outcome:
        connection = self._connect()
        answer = None
        try:
            answer = self._send(connection, ask)
            if answer.status != 200:
                return _outcome(answer, json.loads(answer.read()))
            events = []
            for line in iter(answer.readline, b""):
                event = json.loads(line)
                events.append(event)
                if ask.until and _named(event, ask.until):
                    break
            return _outcome(answer, events)
        finally:
            if answer is not None:
                answer.close()
            connection.close()


def _left_to_controllers(body: Any) -> bool:
    """Whether the garbage collector has yet to look at a deleted object (or at those of a list)."""
    items = body.get("items", [body]) if isinstance(body, dict) else []
    finalizers = {name for one in items for name in (one.get("metadata") or {}).get("finalizers") or ()}
    return bool(finalizers & {"orphan", "foregroundDeletion"})


def _named(event: Any, name: str) -> bool:
    objects = [event["object"]]
    objects += [row.get("object") or {} for row in event["object"].get("rows") or ()]
    return any(one.get("metadata", {}).get("name") == name for one in objects)


def _is_json(answer: http.client.HTTPResponse) -> bool:
    return answer.headers.get("content-type", "").startswith("application/json")


def _outcome(answer: http.client.HTTPResponse, body: Any) -> Outcome:
    warnings = [text for text in answer.headers.get_all("warning") or () if _NOBODY_ACTS not in text]
    return Outcome(answer.status, body, warnings)


class Replay:
    """One run on one server: its namespace, and what its answers have shown so far."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self._versions: dict[str, list[str]] = {}
        self._uids: dict[str, str] = {}
        self._start = self._list = self._continue = ""

    def begin(self) -> None:
        """Makes the namespace."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        made = self.api.ask(Ask("POST", "/api/v1/namespaces", body))
        assert made.status == 201, made.body
        account = self._waited(
            f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default", lambda answer: answer.status == 200
        )
        self._start = self._list = account.body["metadata"]["resourceVersion"]

    def end(self) -> None:
        """Gives the namespace up; its content goes with it."""
        self.api.ask(Ask("DELETE", f"/api/v1/namespaces/{self.namespace}"))

    def run(self, ask: Ask) -> Outcome:
        filled = Ask(
            ask.method,
            self._fill(ask.path),
            self._fill(ask.body),
            self._fill(ask.query),
            ask.type,
            ask.accept,
            ask.until,
        )
        outcome = self.api.ask(filled)
        if "dryRun" not in ask.query:
            self._learn(filled, outcome)
        if ask.method == "DELETE" and _left_to_controllers(outcome.body):
            self._waited(filled.path, lambda answer: answer.status == 404 or not _left_to_controllers(answer.body))
        return outcome

    def _waited(self, path: str, holds: Callable[[Outcome], bool]) -> Outcome:
        """The answer to a GET once it is what controllers make of it."""
        deadline = time.monotonic() + TIMEOUT_S
        while not holds(answer := self.api.ask(Ask("GET", path))):
            assert time.monotonic() < deadline, f"waited in vain for {path}: {answer.body}"
            time.sleep(LOOK_S)
        return answer

    def _learn(self, ask: Ask, outcome: Outcome) -> None:
        body = outcome.body
        if not isinstance(body, dict) or outcome.status >= 300:
            return
        meta = body.get("metadata") or {}
        if "items" in body or "rows" in body:
            self._list = meta.get("resourceVersion", "")
            self._continue = meta.get("continue", "")
        elif meta.get("uid"):
            name = f"{_plural(ask.path)}/{meta['name']}"
            if self._uids.get(name) != meta["uid"]:
                self._uids[name] = meta["uid"]
                self._versions[name] = []
            self._versions[name].append(meta["resourceVersion"])

    def _fill(self, value: Any) -> Any:
        if isinstance(value, str):
            return _PLACE.sub(self._filling, value)
        if isinstance(value, dict):
            return {self._fill(key): self._fill(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self._fill(one) for one in value]
        return value

    def _filling(self, found: re.Match[str]) -> str:
        what, name, plain = found.groups()
        if plain:
            return {"ns": self.namespace, "start": self._start, "list": self._list, "continue": self._continue}[plain]
        if what == "uid":
            return self._uids.get(name, "00000000-0000-0000-0000-000000000000")
        versions = self._versions.get(name)
        if not versions:
            return "1"
        return versions[-1 if what == "rv" else 0]


def _plural(path: str) -> str:
    """The plural of a collection's or an object's path."""
    parts = path.strip("/").split("/")
    after = parts.index("namespaces") + 2 if "namespaces" in parts[:-2] else (2 if parts[0] == "api" else 3)
    return parts[after]


# What two runs can share


def normalized(outcomes: Iterable[Outcome], *, versions: bool = True) -> list[Any]:
    """Outcomes without what no two runs have in common. `versions` False: without resource versions, where others write."""
    listed = list(outcomes)
    words = _Words(listed, versions)
    return [
        {"status": one.status, "warnings": words.plain(one.warnings), "body": words.plain(one.body)} for one in listed
    ]


class _Words:
    """Replaces what a run does not share with another one."""

    def __init__(self, outcomes: list[Outcome], versions: bool) -> None:
        seen = {version for one in outcomes for version in _object_versions(one.body)} - {NO_VERSION}
        self._ordered = sorted(seen) if versions else None
        self._uids: dict[str, str] = {}

    def plain(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            if isinstance(value.get("items"), list) and value.get("metadata") is not None:
                value = {**value, "items": [_without_kind(one) for one in value["items"]]}
            if "generateName" in value and "name" in value:
                generated = value["generateName"]
                value = {**value, "name": f"{generated}~"} if value["name"].startswith(generated) else value
            return {name: self.plain(one, name) for name, one in value.items()}
        if isinstance(value, list):
            items = [self.plain(one, key) for one in value]
            return sorted(items, key=_owner_key) if key == "managedFields" else items
        if key == "resourceVersion" and isinstance(value, str) and value.isdigit():
            return self._version(int(value))
        if key == "continue" and value:
            return "<token>"
        if key == "nodePort" and value:
            return "<port>"
        return self._text(value) if isinstance(value, str) else value

    def _version(self, version: int) -> str:
        if self._ordered is None:
            return "<version>"
        return f"<version {sum(1 for one in self._ordered if one <= version)}>"

    def _text(self, text: str) -> str:
        text = _UID.sub(lambda found: self._uids.setdefault(found[0], f"<uid {len(self._uids) + 1}>"), text)
        text = _ADDRESS.sub("<address>", _TIME.sub("<time>", text))
        return _SAID_VERSION.sub(lambda found: found[1] + self._version(int(found[2])), text)


def _without_kind(item: Any) -> Any:
    return (
        {key: one for key, one in item.items() if key not in ("apiVersion", "kind")} if isinstance(item, dict) else item
    )


def _owner_key(entry: Any) -> tuple[str, ...]:
    """Entries of one second stand in the order of their managers, entries of several in that of their times."""
    if not isinstance(entry, dict):
        return ("",)
    return tuple(str(entry.get(name, "")) for name in ("operation", "manager", "apiVersion", "subresource"))


def _object_versions(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for one in value:
            yield from _object_versions(one)
    elif isinstance(value, dict):
        meta = value.get("metadata")
        if isinstance(meta, dict) and meta.get("uid") and str(meta.get("resourceVersion", "")).isdigit():
            yield int(meta["resourceVersion"])
        for name in ("items", "rows", "object"):
            if name in value:
                yield from _object_versions(value[name])
