"""What the dashboard's table of workloads says, on a real API in this process."""

from __future__ import annotations

from simulated_api import make_api
from trimtab.api.core import Container
from trimtab.api.labels import LabelSelector
from trimtab.api.workloads import Deployment
from trimtab.client import Client, SystemClock
from trimtab.components.workloads.views import COLUMNS, workloads


async def test_a_deployment_that_is_stuck_says_why() -> None:
    api = await make_api(SystemClock())
    client = Client(api.transport())
    made = Deployment()
    made.metadata.name, made.metadata.namespace = "web", "default"
    made.spec.selector = LabelSelector(match_labels={"app": "web"})
    made.spec.template.metadata.labels = {"app": "web"}
    made.spec.template.spec.containers = [Container(name="c", image="trimtab.local/web@sha256:0123456789abcdef")]
    await client.create(made, manager="test")
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "no progress"}
    await client.patch(made, {"status": {"conditions": [stuck]}}, manager="test", subresource="status")
    table = await workloads(client)
    assert table == {
        "columns": COLUMNS,
        "rows": [["Deployment", "default", "web", "0/1", "trimtab.local/web@0123456789ab", "no progress"]],
    }
    await api.close()
