"""Objects and changes that Kubernetes refuses are refused here in the same words.

`recorded/refusals.json` is what kube-apiserver 1.36 answered to the requests of `refusal_cases.py`. On the real server the test checks the
recording; on ours, that it answers the same. `KNOWN` are the cases in which it does not yet: each is refused or accepted otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

import refusal_cases
from webhook_cluster import Cluster, Refused

REAL = bool(os.environ.get("TRIMTAB_KUBERNETES") or os.environ.get("TRIMTAB_CONFORMANCE_KUBECONFIG"))
HERE = Path(__file__).parent / "recorded"
RECORDED: dict[str, dict[str, Any]] = json.loads((HERE / "refusals.json").read_text())
KNOWN: frozenset[str] = frozenset(json.loads((HERE / "refusals_known.json").read_text()))
VARIES = frozenset({"generate name", "job selector", "job template"})
"""The words name something that is random."""


def answered(cluster: Cluster, name: str) -> dict[str, Any]:
    """What the server says to the last request of a case."""
    made: list[str] = []
    said: dict[str, Any] = {"code": 201}
    for method, path, body in refusal_cases.requests(name, cluster.namespace):
        try:
            answer = _asked(cluster, method, path, body)
        except Refused as err:
            details = err.status.get("details") or {}
            causes = [[c.get("field"), c.get("reason"), c.get("message")] for c in details.get("causes") or ()]
            message = err.status["message"].replace(cluster.namespace, "NAMESPACE")
            said = {
                "code": err.status["code"],
                "reason": err.status.get("reason"),
                "message": message,
                "causes": causes,
            }
        else:
            said = {"code": 201 if method == "POST" else 200}
            if method == "POST":
                made.append(f"{path}/{answer['metadata']['name']}")
    for path in made:
        with contextlib.suppress(Refused):  # garbage is collected meanwhile
            cluster.call("DELETE", f"{path}?gracePeriodSeconds=0&propagationPolicy=Background")
    return said


def _asked(cluster: Cluster, method: str, path: str, body: Any) -> Any:
    """One request; it waits for an object of an earlier case that is still being deleted: others take its finalizers away."""
    content_type = refusal_cases.MERGE if method == "PATCH" else "application/json"
    deadline = time.monotonic() + 15
    while True:
        try:
            return cluster.call(method, path, body, content_type)
        except Refused as err:
            if err.status.get("reason") != "AlreadyExists" or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def test_the_table_is_whole() -> None:
    assert RECORDED.keys() == refusal_cases.CASES.keys()
    assert RECORDED.keys() >= KNOWN


def test_refusals_are_those_of_kubernetes(cluster: Cluster) -> None:
    wrong = []
    for name, recorded in RECORDED.items():
        if name in VARIES or (name in KNOWN and not REAL):
            continue
        said = answered(cluster, name)
        if said != recorded:
            wrong.append(f"{name}: {recorded}, but here {said}")
    assert not wrong, "\n".join(wrong)


def test_what_is_known_to_differ_still_does(cluster: Cluster) -> None:
    if REAL:
        pytest.skip("the differences are those of the embedded server")
    same = [name for name in sorted(KNOWN - VARIES) if answered(cluster, name) == RECORDED[name]]
    assert not same, f"these are as in Kubernetes now: take them out of refusals_known.json: {same}"
