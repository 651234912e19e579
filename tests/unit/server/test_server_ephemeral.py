"""The subresource `ephemeralcontainers` of pods, as `kubectl debug` uses it."""

from __future__ import annotations

from typing import Any

import pytest

from api_in_process import STRATEGIC, Api

PODS = "/api/v1/namespaces/default/pods"
DEBUGGER = {"name": "debugger", "image": "tools:1", "stdin": True, "tty": True, "targetContainerName": "main"}


@pytest.fixture
async def pod(api: Api) -> str:
    spec = {"containers": [{"name": "main", "image": "a:1"}], "volumes": [{"name": "v", "emptyDir": {}}]}
    (await api.post(PODS, {"metadata": {"name": "web"}, "spec": spec})).ok()
    return f"{PODS}/web"


async def add(api: Api, pod: str, *containers: dict[str, Any]) -> Any:
    body = {"spec": {"ephemeralContainers": list(containers)}}
    return await api.patch(f"{pod}/ephemeralcontainers", body, STRATEGIC)


async def test_containers_are_added_one_after_the_other(api: Api, pod: str) -> None:
    before = (await api.get(pod)).ok()
    first = (await add(api, pod, DEBUGGER)).ok()
    second = (await add(api, pod, {"name": "more", "image": "tools:1"})).ok()

    assert {c["name"] for c in second["spec"]["ephemeralContainers"]} == {"debugger", "more"}
    [made] = first["spec"]["ephemeralContainers"]
    assert made.items() >= DEBUGGER.items()
    assert (made["terminationMessagePath"], made["imagePullPolicy"]) == ("/dev/termination-log", "IfNotPresent")
    assert first["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert (await api.get(f"{pod}/ephemeralcontainers")).ok()["spec"] == second["spec"]


async def test_only_the_ephemeral_containers_of_a_body_count(api: Api, pod: str) -> None:
    body = (await api.get(pod)).ok()
    body["spec"]["ephemeralContainers"] = [DEBUGGER]
    body["spec"]["containers"][0]["image"] = "b:1"
    body["metadata"]["labels"] = {"a": "b"}

    after = (await api.put(f"{pod}/ephemeralcontainers", body)).ok()

    assert after["spec"]["containers"][0]["image"] == "a:1"
    assert "labels" not in after["metadata"]
    assert after["spec"]["ephemeralContainers"][0]["name"] == "debugger"


NEVER = "Forbidden: cannot be set for an Ephemeral Container"


@pytest.mark.parametrize(
    ("container", "text"),
    [
        ({**DEBUGGER, "name": "main"}, 'spec.ephemeralContainers[0].name: Duplicate value: "main"'),
        (
            {**DEBUGGER, "targetContainerName": "no"},
            'spec.ephemeralContainers[0].targetContainerName: Not found: "no"',
        ),
        ({**DEBUGGER, "ports": [{"containerPort": 1}]}, f"spec.ephemeralContainers[0].ports: {NEVER}"),
        ({**DEBUGGER, "resources": {"limits": {"cpu": "1"}}}, f"spec.ephemeralContainers[0].resources: {NEVER}"),
        (
            {**DEBUGGER, "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}]},
            f"spec.ephemeralContainers[0].volumeMounts[0].subPath: {NEVER}",
        ),
        ({"name": "debugger"}, "spec.ephemeralContainers[0].image: Required value"),
    ],
)
async def test_what_an_ephemeral_container_may_not_say(
    api: Api, pod: str, container: dict[str, Any], text: str
) -> None:
    answer = await add(api, pod, container)

    assert (answer.status, answer.message) == (422, f'Pod "web" is invalid: {text}')


async def test_what_was_added_stays_as_it_is(api: Api, pod: str) -> None:
    (await add(api, pod, DEBUGGER)).ok()
    changed = await add(api, pod, {**DEBUGGER, "image": "other:1"})
    assert changed.message == (
        'Pod "web" is invalid: spec.ephemeralContainers: Forbidden: existing ephemeral containers "debugger" may not be changed'
    )
    body = (await api.get(pod)).ok()
    del body["spec"]["ephemeralContainers"]
    removed = await api.put(f"{pod}/ephemeralcontainers", body)
    assert removed.message == (
        'Pod "web" is invalid: spec.ephemeralContainers: Forbidden: existing ephemeral containers "debugger" may not be removed'
    )
    assert (await api.put(pod, body)).status == 422, "nor by the pod itself"


async def test_a_new_pod_has_none(api: Api) -> None:
    spec = {"containers": [{"name": "main", "image": "a:1"}], "ephemeralContainers": [DEBUGGER]}

    answer = await api.post(PODS, {"metadata": {"name": "web"}, "spec": spec})

    assert answer.message == 'Pod "web" is invalid: spec.ephemeralContainers: Forbidden: cannot be set on create'
