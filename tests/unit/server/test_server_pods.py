"""What a pod may not say, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest

from api_in_process import Api

PODS = "/api/v1/namespaces/default/pods"


def pod(ports: Any = (), **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "c", "image": "a:1", "ports": ports}], **spec},
    }


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            pod(dnsPolicy="None"),
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
        ),
        (
            pod(dnsConfig={"nameservers": ["10.0.0.1", "dns.example.org"]}),
            'spec.dnsConfig.nameservers[1]: Invalid value: "dns.example.org": must be a valid IP address, '
            "(e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            pod(dnsConfig={"nameservers": ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]}),
            "spec.dnsConfig.nameservers: Invalid value: must not have more than 3 nameservers",
        ),
        (
            pod(hostAliases=[{"ip": "x", "hostnames": ["a"]}]),
            'spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
        ),
        (
            pod([{"containerPort": 70000}]),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            pod([{"containerPort": 80, "hostPort": 81}], hostNetwork=True),
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ),
        (
            pod([{"containerPort": 80, "hostPort": 81}, {"containerPort": 82, "hostPort": 81}]),
            'spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//81"',
        ),
    ],
)
async def test_what_is_wrong_with_a_pods_network_is_named(api: Api, body: dict[str, Any], text: str) -> None:
    answer = await api.post(PODS, body)

    assert (answer.status, answer.message) == (422, f'Pod "web" is invalid: {text}')


async def test_a_hook_does_not_sleep_longer_than_the_pod_may_take(api: Api) -> None:
    body = pod()
    body["spec"]["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": 31}}}

    answer = await api.post(PODS, body)

    assert answer.message == (
        'Pod "web" is invalid: spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: '
        "must be non-negative and less than terminationGracePeriodSeconds (30)"
    )
    body["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] = 30
    assert "warning" not in (await api.post(PODS, body)).headers


async def test_the_same_port_twice_is_fine_on_two_addresses_or_protocols(api: Api) -> None:
    ports = [
        {"containerPort": 80, "hostPort": 81, "hostIP": "127.0.0.1"},
        {"containerPort": 82, "hostPort": 81, "hostIP": "127.0.0.2"},
        {"containerPort": 80, "hostPort": 81, "protocol": "UDP"},
    ]

    assert (await api.post(PODS, pod(ports))).status == 201


def showing(**volume: Any) -> dict[str, Any]:
    return pod(volumes=[{"name": "v", **volume}])


def facts(*items: dict[str, Any]) -> dict[str, Any]:
    return showing(downwardAPI={"items": list(items)})


NAME = {"fieldRef": {"fieldPath": "metadata.name"}}
AT = "spec.volumes[0]"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            facts({"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}),
            f'{AT}.downwardAPI.items[0].fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: '
            '"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"',
        ),
        (
            facts({"path": "x"}),
            f"{AT}.downwardAPI.items[0]: Required value: must specify one of: fieldRef and resourceFieldRef",
        ),
        (
            facts({"path": "x", "resourceFieldRef": {"resource": "limits.cpu"}}),
            f"{AT}.downwardAPI.items[0].resourceFieldRef.containerName: Required value",
        ),
        (
            facts({"path": "/x", **NAME}),
            f'{AT}.downwardAPI.items[0].path: Invalid value: "/x": must be a relative path',
        ),
        (
            facts({"path": "a/../x", **NAME}),
            f"{AT}.downwardAPI.items[0].path: Invalid value: \"a/../x\": must not contain '..'",
        ),
        (
            facts({"path": "..x", **NAME}),
            f"{AT}.downwardAPI.items[0].path: Invalid value: \"..x\": must not start with '..'",
        ),
        (
            showing(configMap={"name": "c", "defaultMode": 0o1777}),
            f"{AT}.configMap.defaultMode: Invalid value: 1023: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            showing(projected={"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]}),
            f"{AT}.projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: "
            "may not specify a duration less than 10 minutes or larger than 2^32 seconds",
        ),
        (
            showing(
                projected={
                    "sources": [
                        {"serviceAccountToken": {"path": "t"}},
                        {"downwardAPI": {"items": [{"path": "t", **NAME}]}},
                    ]
                }
            ),
            f'{AT}.projected.sources[1].path: Invalid value: "t": conflicting duplicate paths with {AT}.projected.sources[0]',
        ),
    ],
)
async def test_what_is_wrong_with_shown_files_is_named(api: Api, body: dict[str, Any], text: str) -> None:
    answer = await api.post(PODS, body)

    assert (answer.status, answer.message) == (422, f'Pod "web" is invalid: {text}')


async def test_labels_by_key_may_be_shown(api: Api) -> None:
    items = [{"path": "a", "fieldRef": {"fieldPath": "metadata.labels['app']"}}, {"path": "n", **NAME}]

    assert (await api.post(PODS, facts(*items))).status == 201


async def test_a_variable_may_stand_twice_and_the_later_one_is_said_to_win(api: Api) -> None:
    body = pod([{"containerPort": 80, "name": "a"}, {"containerPort": 80, "name": "b"}])
    body["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]

    answer = await api.post(PODS, body)

    assert answer.status == 201
    assert [one["value"] for one in answer.body["spec"]["containers"][0]["env"]] == ["1", "2"]
    assert answer.headers["warning"] == (
        '299 - "spec.containers[0].env[1]: hides previous definition of \\"A\\", which may be dropped when using apply"'
    )
    applied = await api.apply(
        f"{PODS}/other", {"apiVersion": "v1", "kind": "Pod", **body, "metadata": {"name": "other"}}
    )
    assert applied.status >= 400, "an apply must know which one is meant"
