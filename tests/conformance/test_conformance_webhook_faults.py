"""Admission webhooks that are dead, hang, say nonsense or are not who they should be: what the API server does then."""

from __future__ import annotations

import http.client
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from webhook_cluster import MERGE, RULE, SEEN_S, AtOnce, Cluster, hook_of, until
from webhook_server import Raw, Silence, WebhookServer, allowed, denied, patched

# When they fail

CALLING = 'Internal error occurred: failed calling webhook "v.all.example.com": '
POST = 'failed to call webhook: Post "{url}/call?timeout=10s": '


NO_ANSWERS: list[tuple[Any, str]] = [
    (Raw(500, b"boom"), 'failed to call webhook: an error on the server ("unknown") has prevented the request'),
    (Raw(404, b"nope"), "failed to call webhook: the server could not find the requested resource"),
    (Raw(503), "failed to call webhook: the server is currently unable to handle the request"),
    (Raw(429, b"slow"), "failed to call webhook: the server has received too many requests"),
    (
        Raw(400, b'{"kind":"Status","apiVersion":"v1","status":"Failure","message":"mm"}'),
        "failed to call webhook: mm",
    ),
    (Raw(200, b"garbage"), "failed to call webhook: couldn't get version/kind; json parse error: "),
    (Raw(200, b"[]"), "failed to call webhook: couldn't get version/kind; json parse error: "),
    (
        Raw(200, b""),
        "failed to call webhook: 0-length response with status code: 200 and content type: application/json",
    ),
    (Raw(200, b'"' + b"x" * (9 * 1024 * 1024) + b'"'), "failed to call webhook: "),
    (Raw(302, b"", {"location": "/call"}), "failed to call webhook: Post "),
    (Raw(307, b"", {"location": "/call"}), "failed to call webhook: Post "),
    (Raw(200, b"{}"), "received invalid webhook response: webhook response was absent"),
    (Raw(200, b'{"apiVersion":"v1","kind":"Pod"}'), 'failed to call webhook: no kind "Pod" is registered'),
    (allowed(uid="other"), "received invalid webhook response: expected response.uid="),
    ({"allowed": "yes"}, "failed to call webhook: "),
    (
        patched({"op": "add", "path": "/data/x", "value": "y"}),
        "received invalid webhook response: validating webhook may not return response.patch",
    ),
]


def test_answers_that_are_none(cluster: Cluster, hook: WebhookServer) -> None:
    path = cluster.configure("validating", hook_of("v.all"))
    for answer, message in NO_ANSWERS:
        hook.decide = lambda request, answer=answer: answer

        status = cluster.refused()

        assert (status["code"], status["reason"]) == (500, "InternalError"), status
        assert status["message"].startswith(f"{CALLING}{message}"), status["message"]
        assert status["details"]["causes"] == [{"message": status["message"].removeprefix("Internal error occurred: ")}]
    cluster.remove(path)
    cluster.configure("validating", hook_of("v.all", failurePolicy="Ignore"))
    for answer, _ in NO_ANSWERS:
        hook.decide = lambda request, answer=answer: answer
        cluster.make()


@pytest.mark.parametrize("kind", ["validating", "mutating"])
def test_nobody_there(cluster: Cluster, hook: WebhookServer, kind: str) -> None:
    client = {"url": "https://127.0.0.1:1/call", "caBundle": hook.ca_bundle}
    cluster.configure(kind, hook_of("v.all", clientConfig=client))

    status = cluster.refused()

    said = "dial tcp 127.0.0.1:1: connect: connection refused"
    assert status["message"] == CALLING + POST.format(url="https://127.0.0.1:1") + said


def test_a_certificate_of_somebody_else(cluster: Cluster, hook: WebhookServer, tmp_path: Path) -> None:
    other = WebhookServer(tmp_path / "other")
    client = {"url": f"{other.url}/call", "caBundle": hook.ca_bundle}
    cluster.configure("validating", hook_of("v.all", clientConfig=client))
    try:
        status = cluster.refused()
    finally:
        other.close()

    said = "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    assert status["message"] == CALLING + POST.format(url=other.url) + said
    assert other.reviews == []


def test_a_webhook_that_hangs_has_a_deadline_and_holds_nobody_up(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.make("one")
    slow, quick = hook_of("v.slow", timeoutSeconds=2), {**RULE, "operations": ["UPDATE", "CREATE"]}
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "100"}}}
    cluster.configure("validating", {**slow, "rules": [quick]}, hook_of("v.slower", rules=[quick], timeoutSeconds=2))
    cluster.call("POST", f"/api/v1/namespaces/{cluster.namespace}/resourcequotas", quota)
    _counted(cluster)
    silence = Silence()
    hook.decide = lambda request: silence if request["name"] in ("one", "two") else allowed()

    with AtOnce(
        lambda: cluster.refusal("PATCH", f"{cluster.path}/one", {"data": {"x": "y"}}, MERGE),
        lambda: cluster.refusal("POST", cluster.path, {"metadata": {"name": "two"}}),
    ) as outcomes:
        until(lambda: len(hook.reviews) >= 4, "both requests hang")
        started = time.monotonic()
        cluster.make("three")
        cluster.call("DELETE", f"{cluster.path}/three")
        cluster.call("DELETE", f"{cluster.path}/one")
        elapsed_s = time.monotonic() - started
        assert not outcomes, f"the others waited for it: {elapsed_s:.1f} s"

    for status in outcomes:
        assert status["code"] in (404, 500), status
        if status["code"] == 500:
            assert 'failed calling webhook "v.slow' in status["message"]
            assert status["message"].endswith('/call?timeout=2s": context deadline exceeded')


def test_a_client_that_does_not_wait(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("validating", hook_of("v.all"))
    silence = Silence()
    hook.decide = lambda request: silence

    for _ in range(5):  # the real server hangs up instead, now and then
        with suppress(http.client.RemoteDisconnected):
            status = cluster.refused("?timeout=500ms")
            break

    assert (status["code"], status["reason"]) == (504, "Timeout")
    assert status["message"] == "Timeout: request did not complete within the allotted timeout"


def test_validating_webhooks_are_asked_all_at_once(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("validating", *(hook_of(f"v.n{index}") for index in range(3)))
    silence = Silence()
    hook.decide = lambda request: silence

    with AtOnce(cluster.make) as outcomes:
        until(lambda: len(hook.reviews) >= 3, "all three are asked before one has answered")
        silence.release.set()

    assert outcomes[0]["data"] == {"a": "b"}


def test_a_dry_run_asks_too(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.configure("validating", hook_of("v.all", sideEffects="NoneOnDryRun"))
    hook.decide = lambda request: denied("not even dry")

    assert cluster.refused("?dryRun=All")["message"].endswith("denied the request: not even dry")

    assert hook.reviews[0]["dryRun"] is True


def test_a_change_while_a_webhook_thinks_is_not_lost(cluster: Cluster, hook: WebhookServer) -> None:
    cluster.make("one")
    cluster.configure("validating", hook_of("v.all"))
    silence = Silence()
    hook.decide = lambda request: silence if request["object"]["data"].get("slow") else allowed()

    with AtOnce(lambda: cluster.call("PATCH", f"{cluster.path}/one", {"data": {"slow": "1"}}, MERGE)) as outcomes:
        until(lambda: len(hook.reviews) == 1, "the first is asked about")
        cluster.call("PATCH", f"{cluster.path}/one", {"data": {"quick": "1"}}, MERGE)
        silence.release.set()

    assert outcomes[0]["data"] == {"a": "b", "slow": "1", "quick": "1"}
    assert hook.reviews[-1]["oldObject"]["data"] == {"a": "b", "quick": "1"}, "it was not asked about what was written"


def test_a_new_certificate_and_a_new_authority_are_noticed(
    cluster: Cluster, hook: WebhookServer, tmp_path: Path
) -> None:
    path = cluster.configure("validating", hook_of("v.all"))
    cluster.make()
    other = WebhookServer(tmp_path / "other")
    try:
        client = {"url": f"{other.url}/call", "caBundle": other.ca_bundle}
        operation = {"op": "replace", "path": "/webhooks/0/clientConfig", "value": client}
        cluster.call("PATCH", path, [operation], "application/json-patch+json")
        deadline = time.monotonic() + SEEN_S
        while not other.reviews:
            assert time.monotonic() < deadline
            cluster.make()
    finally:
        other.close()


def _counted(cluster: Cluster) -> None:
    path = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas/q"
    until(lambda: bool((cluster.call("GET", path).get("status") or {}).get("used")), "the quota is counted")
