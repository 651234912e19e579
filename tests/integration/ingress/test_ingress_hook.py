"""The preStop hook's answer: held for as long as the proxy may send requests to a pod that is being deleted, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api_in_process import Api, running_api
from trimtab.api.core import PROXIED
from trimtab.client import Client
from trimtab.client.asgi import AsgiTransport
from trimtab.components.ingress.hook import Hooks
from trimtab.runtime.journal import Journal
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings
from trimtab.server import create_app

PODS = "/api/v1/namespaces/default/pods"
LABELS = "app=web"
WITHIN_S = 60.0
HELD_S = 0.3


async def make_pod(api: Api, name: str, attached: str | None, *, gate: bool = True) -> None:
    """A pod on a node, whose condition says this; the finalizer plays the kubelet that has not stopped it yet."""
    spec: dict[str, Any] = {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]}
    if gate:
        spec["readinessGates"] = [{"conditionType": PROXIED}]
    meta = {"name": name, "labels": {"app": "web"}, "finalizers": ["test/kubelet"]}
    (await api.post(PODS, {"metadata": meta, "spec": spec})).ok()
    if attached is not None:
        await say(api, name, attached)


async def say(api: Api, name: str, attached: str) -> None:
    conditions = [{"type": PROXIED, "status": attached, "reason": "Said"}]
    (await api.patch(f"{PODS}/{name}/status", {"status": {"conditions": conditions}})).ok()


async def with_hooks(story: Any) -> None:
    async with running_api() as api:
        client = Client(AsgiTransport(create_app(api.server, trusted=True)))
        settings = Settings(id="abcdef", data="/nonexistent", run="/nonexistent")
        process = Process(client=client, journal=Journal(None), settings=settings, events=False, observes=False)
        hooks = Hooks(process)
        running = [asyncio.create_task(process.run()), asyncio.create_task(hooks.run())]
        try:
            async with asyncio.timeout(WITHIN_S):
                await story(api, hooks)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await client.close()


def test_it_is_held_until_the_proxy_has_let_go() -> None:
    async def story(api: Api, hooks: Hooks) -> None:
        await make_pod(api, "one", "True")
        await api.delete(f"{PODS}/one")
        held = asyncio.create_task(hooks.hold("default", LABELS))
        await say(api, "one", "Unknown")  # a change that is no answer
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(held), HELD_S)

        await say(api, "one", "False")

        await held

    asyncio.run(with_hooks(story))


def test_a_pod_that_is_gone_holds_nobody() -> None:
    async def story(api: Api, hooks: Hooks) -> None:
        await make_pod(api, "one", "True")
        await api.delete(f"{PODS}/one")
        held = asyncio.create_task(hooks.hold("default", LABELS))

        (await api.patch(f"{PODS}/one", {"metadata": {"finalizers": None}})).ok()
        (await api.delete(f"{PODS}/one", {"gracePeriodSeconds": 0})).ok()

        await held

    asyncio.run(with_hooks(story))


def test_a_container_of_a_pod_that_stays_is_not_held() -> None:
    async def story(api: Api, hooks: Hooks) -> None:
        await make_pod(api, "one", "True")

        await hooks.hold("default", LABELS)

    asyncio.run(with_hooks(story))


def test_a_pod_that_the_proxy_never_knew_or_without_the_gate_is_not_held() -> None:
    async def story(api: Api, hooks: Hooks) -> None:
        await make_pod(api, "unknown", None)
        await make_pod(api, "ungated", "True", gate=False)
        for name in ("unknown", "ungated"):
            await api.delete(f"{PODS}/{name}")

        await hooks.hold("default", LABELS)

    asyncio.run(with_hooks(story))


def test_only_pods_of_the_selector_and_namespace_are_waited_for() -> None:
    async def story(api: Api, hooks: Hooks) -> None:
        await make_pod(api, "one", "True")
        await api.delete(f"{PODS}/one")

        await hooks.hold("default", "app=other")
        await hooks.hold("kube-system", LABELS)

    asyncio.run(with_hooks(story))
