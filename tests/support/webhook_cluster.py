"""A namespace of an API server under test, and webhook configurations that apply to it alone."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from webhook_server import WebhookServer, allowed

SEEN_S = 60.0
GROUP = "/apis/admissionregistration.k8s.io/v1"
RULE = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps"]}
MERGE = "application/merge-patch+json"


class Refused(Exception):
    """A request was answered with a Status of failure."""

    def __init__(self, status: dict[str, Any]) -> None:
        super().__init__(str(status))
        self.status = status


class Cluster:
    """Requests to the API, and webhook configurations that apply to one namespace only."""

    def __init__(self, client: Any, namespace: str, hook: WebhookServer) -> None:
        configuration = client.configuration
        self._host = configuration.host
        self._authorization = configuration.auth_settings()["BearerToken"]["value"]
        self._trusted = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        self.namespace = namespace
        self.hook = hook
        self.path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._made: list[str] = []
        labels = {"metadata": {"labels": {"webhooks": namespace}}}
        self.call("PATCH", f"/api/v1/namespaces/{namespace}", labels, "application/merge-patch+json")

    def call(self, method: str, path: str, body: Any = None, media: str = "application/json") -> dict[str, Any]:
        """The answer. Raises `Refused`."""
        return dict(self.answer(method, path, body, media)[0])

    def answer(self, method: str, path: str, body: Any = None, media: str = "application/json") -> tuple[Any, Any]:
        """The answer and its headers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": self._authorization, "content-type": media, "accept": "application/json"}
        request = urllib.request.Request(f"{self._host}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=SEEN_S, context=self._trusted) as answer:
                return json.loads(answer.read()), answer.headers
        except urllib.error.HTTPError as err:
            with err:
                raise Refused(json.loads(err.read())) from None

    def refusal(self, method: str, path: str, body: Any = None, media: str = "application/json") -> dict[str, Any]:
        """The Status with which a request is refused."""
        with pytest.raises(Refused) as caught:
            self.call(method, path, body, media)
        return caught.value.status

    def configure(self, kind: str, *hooks: dict[str, Any], name: str = "") -> str:
        """Makes a configuration and waits until it is in force. kind: validating or mutating."""
        plural = f"{kind}webhookconfigurations"
        name = name or f"hooks-{secrets.token_hex(3)}"
        marked = f"marker.{name}.example.com"
        selector = {"matchLabels": {"webhooks": self.namespace}}
        base = {"admissionReviewVersions": ["v1"], "sideEffects": "None", "namespaceSelector": selector}
        client = {"url": f"{self.hook.url}/call", "caBundle": self.hook.ca_bundle}
        whole = [{**base, "clientConfig": client, "rules": [RULE], **hook} for hook in hooks]
        marker_client = {**client, "url": f"{self.hook.url}/marker/{name}"}
        marker_rule = {**RULE, "resources": ["serviceaccounts"], "operations": ["CREATE"]}
        whole.append({**base, "name": marked, "clientConfig": marker_client, "rules": [marker_rule]})
        self.call("POST", f"{GROUP}/{plural}", {"metadata": {"name": name}, "webhooks": whole})
        self._made.append(f"{GROUP}/{plural}/{name}")
        self._await(name)
        return f"{GROUP}/{plural}/{name}"

    def _await(self, name: str) -> None:
        decide, self.hook.decide = self.hook.decide, lambda request: allowed()
        deadline = time.monotonic() + SEEN_S
        accounts = f"/api/v1/namespaces/{self.namespace}/serviceaccounts?dryRun=All"
        while not any(path.startswith(f"/marker/{name}?") for path in self.hook.paths):
            assert time.monotonic() < deadline, f"{name} is not in force"
            self.call("POST", accounts, {"metadata": {"generateName": "marker-"}})
        self.hook.reviews.clear()
        self.hook.paths.clear()
        self.hook.decide = decide

    def make(self, name: str = "", query: str = "", **content: Any) -> dict[str, Any]:
        name = name or f"c-{secrets.token_hex(3)}"
        return self.call("POST", self.path + query, {"metadata": {"name": name}, "data": {"a": "b"}, **content})

    def refused(self, query: str = "", **content: Any) -> dict[str, Any]:
        return self.refusal("POST", self.path + query, {"metadata": {"name": "refused"}, "data": {"a": "b"}, **content})

    def removes(self, path: str) -> None:
        """At the end."""
        self._made.append(path)

    def remove(self, path: str) -> None:
        """Removes a configuration now."""
        self._made.remove(path)
        self.call("DELETE", path)

    def close(self) -> None:
        for path in self._made:
            self.call("DELETE", path)


def hook_of(name: str, **more: Any) -> dict[str, Any]:
    return {"name": f"{name}.example.com", **more}


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SEEN_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class AtOnce:
    """Runs actions in threads of their own; the block sees their outcomes come, and ends when all are there."""

    def __init__(self, *actions: Callable[[], Any]) -> None:
        self.outcomes: list[Any] = []
        self._threads = [threading.Thread(target=lambda a=a: self.outcomes.append(a())) for a in actions]

    def __enter__(self) -> list[Any]:
        for thread in self._threads:
            thread.start()
        return self.outcomes

    def __exit__(self, *error: object) -> None:
        for thread in self._threads:
            thread.join(SEEN_S)
