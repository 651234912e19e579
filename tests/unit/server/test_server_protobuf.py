"""Protobuf request bodies: what kubectl sends becomes the JSON it means, and no bytes crash the reader."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.server import protobuf
from trimtab.server.protobuf import DEPTH_MAX, ProtobufError, decode
from trimtab.server.schemas import builtin


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = b""
    while True:
        byte, number = number & 0x7F, number >> 7
        out += bytes([byte | (0x80 if number else 0)])
        if not number:
            return out


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(*parts: tuple[int, int | str | bytes]) -> bytes:
    return b"".join(field(number, value) for number, value in parts)


def pair(key: str, value: str | bytes) -> bytes:
    return message((1, key), (2, value))


def envelope(api_version: str, kind: str, raw: bytes, content_type: str = "") -> bytes:
    type_meta = message((1, api_version), (2, kind))
    return b"k8s\0" + message((1, type_meta), (2, raw), (3, ""), (4, content_type))


META = message(
    (1, "web"), (2, ""), (3, "shop"), (4, ""), (5, ""), (6, ""), (7, 0), (8, b""), (11, pair("app", "web")), (14, "x/y")
)
META_JSON = {"name": "web", "namespace": "shop", "labels": {"app": "web"}, "finalizers": ["x/y"]}


def test_a_config_map() -> None:
    raw = message((1, META), (2, pair("a", "1")), (2, pair("b", "")), (3, pair("raw", b"\0\xff")), (4, 0))

    assert decode(envelope("v1", "ConfigMap", raw)) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": META_JSON,
        "data": {"a": "1", "b": ""},
        "binaryData": {"raw": "AP8="},
        "immutable": False,  # a pointer in the API: false says something
    }


def test_a_deployment() -> None:
    probe = message((1, message((2, message((1, "/"), (2, message((1, 0), (2, 8080), (3, ""))))))), (2, 0), (3, 5))
    quantity = message((1, "100m"))
    container = message(
        (1, "web"),
        (2, "nginx"),
        (3, "run"),
        (3, "-v"),
        (6, message((1, ""), (2, 0), (3, 80), (4, "TCP"), (5, ""))),
        (7, message((1, "E"), (2, ""), (3, message((4, message((1, message((1, "s"))), (2, "k"))))))),
        (8, message((1, pair("cpu", quantity)))),
        (10, probe),
        (18, 0),
    )
    pod = message((1, message((1, "v"), (2, message((2, message((1, "")))))))) + message(
        (2, container), (3, "Always"), (4, 0)
    )
    strategy = message((1, "RollingUpdate"), (2, message((1, message((1, 1), (2, 0), (3, "25%"))))))
    selector = message((1, pair("app", "web")))
    spec = message((1, 0), (2, selector), (3, message((1, b""), (2, pod))), (4, strategy), (5, 0), (7, 0), (9, 600))

    assert decode(envelope("apps/v1", "Deployment", message((1, META), (2, spec), (3, message((1, 0), (2, 0)))))) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": META_JSON,
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {},
                "spec": {
                    "volumes": [{"name": "v", "emptyDir": {}}],
                    "containers": [
                        {
                            "name": "web",
                            "image": "nginx",
                            "command": ["run", "-v"],
                            "ports": [{"containerPort": 80, "protocol": "TCP"}],
                            "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                            "resources": {"limits": {"cpu": "100m"}},
                            "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "timeoutSeconds": 5},
                        }
                    ],
                    "restartPolicy": "Always",
                    "terminationGracePeriodSeconds": 0,
                },
            },
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
            "progressDeadlineSeconds": 600,
        },
        "status": {},
    }


@pytest.mark.parametrize(
    ("api_version", "kind", "raw", "expected"),
    [
        ("v1", "Namespace", message((1, META)), {"metadata": META_JSON}),
        ("v1", "Secret", message((2, pair("k", b"hi")), (3, "Opaque")), {"data": {"k": "aGk="}, "type": "Opaque"}),
        (
            "autoscaling/v1",
            "Scale",
            message((2, message((1, 3))), (3, message((1, 0), (2, "")))),
            {"spec": {"replicas": 3}, "status": {"replicas": 0}},
        ),
        (
            "authorization.k8s.io/v1",
            "SelfSubjectAccessReview",
            message((2, message((1, message((1, "shop"), (2, "get"), (5, "pods")))))),
            {"spec": {"resourceAttributes": {"namespace": "shop", "verb": "get", "resource": "pods"}}},
        ),
        ("authentication.k8s.io/v1", "TokenReview", message((2, message((1, "t")))), {"spec": {"token": "t"}}),
        (
            "authentication.k8s.io/v1",
            "TokenRequest",
            message((2, message((1, "aud"), (4, 600), (3, message((1, "Pod"), (2, "v1"), (3, "p"), (4, "u")))))),
            {
                "spec": {
                    "audiences": ["aud"],
                    "expirationSeconds": 600,
                    "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u"},
                }
            },
        ),
        (
            "policy/v1",
            "Eviction",
            message((1, message((1, "p"))), (2, message((1, 0)))),
            {"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}},
        ),
        ("v1", "Binding", message((2, message((1, "Node"), (3, "n")))), {"target": {"kind": "Node", "name": "n"}}),
        (
            "apps/v1",
            "DeleteOptions",
            message((1, 0), (2, message((1, "u"))), (4, "Foreground"), (5, "All")),
            {
                "gracePeriodSeconds": 0,
                "preconditions": {"uid": "u"},
                "propagationPolicy": "Foreground",
                "dryRun": ["All"],
            },
        ),
        (
            "batch/v1",
            "CronJob",
            message((2, message((1, "* * * * *"), (4, 0), (5, message((2, message((1, 0)))))))),
            {"spec": {"schedule": "* * * * *", "suspend": False, "jobTemplate": {"spec": {"parallelism": 0}}}},
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "Role",
            message((2, message((1, "get"), (1, "list"), (2, ""), (3, "pods")))),
            {"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]},
        ),
        (
            "networking.k8s.io/v1",
            "Ingress",
            message((2, message((3, message((1, "x.y"), (2, message((1, message((1, message((1, "/")))))))))))),
            {"spec": {"rules": [{"host": "x.y", "http": {"paths": [{"path": "/"}]}}]}},
        ),
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            message((2, message((1, b""), (4, "Ingress")))),
            {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            message((2, message((1, message((1, 1), (3, "50%")))))),
            {"spec": {"minAvailable": "50%"}},
        ),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            message((2, message((1, message((1, "Deployment"), (2, "web"))), (3, 3)))),
            {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 3}},
        ),
        (
            "v1",
            "Event",
            message((6, message((1, 1700000000), (2, 0))), (8, 2), (10, message((1, 1700000000), (2, 123456000)))),
            {"firstTimestamp": "2023-11-14T22:13:20Z", "count": 2, "eventTime": "2023-11-14T22:13:20.123456Z"},
        ),
        (
            "apps/v1",
            "ControllerRevision",
            message((2, message((1, b'{"a": [1]}'))), (3, 7)),
            {"data": {"a": [1]}, "revision": 7},
        ),
    ],
)
def test_each_kind_that_clients_send(api_version: str, kind: str, raw: bytes, expected: dict[str, Any]) -> None:
    assert decode(envelope(api_version, kind, raw)) == {"apiVersion": api_version, "kind": kind, **expected}


def test_negative_numbers_and_fractions() -> None:
    job = message((2, message((1, -1))))
    fraction = varint(1 << 3 | 1) + struct.pack("<d", 1.5)

    assert decode(envelope("batch/v1", "Job", job))["spec"] == {"parallelism": -1}
    assert protobuf._read_double(fraction[1:], 1, "x", 0) == 1.5


def test_packed_lists_are_read_too() -> None:
    security = message((4, varint(10) + varint(20)))
    pod = message((2, message((14, security))))

    assert decode(envelope("v1", "Pod", pod))["spec"]["securityContext"] == {"supplementalGroups": [10, 20]}


def test_fields_of_a_newer_api_are_ignored() -> None:
    assert decode(envelope("v1", "Namespace", message((1, META), (99, "new")))) == {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": META_JSON,
    }


def test_json_in_the_envelope_is_taken_as_it_is() -> None:
    body = envelope("x.dev/v1", "Widget", b'{"kind": "Widget", "spec": 1}', "application/json")

    assert decode(body) == {"kind": "Widget", "spec": 1}


def test_every_message_has_fields_that_the_schemas_know() -> None:
    for definition, fields in protobuf._numbers().items():
        if definition.rpartition(".")[2] not in INLINE:
            names = [name for name in fields.split() if not name.startswith("@")]
            assert len(protobuf._plan(definition, definition)) == len(names)


INLINE = {
    "EphemeralContainerCommon",
    "IngressRuleValue",
    "LocalObjectReference",
    "PersistentVolumeSource",
    "ProbeHandler",
    "Rule",
    "RuleWithOperations",
    "VolumeSource",
}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the body does not start with the protobuf envelope of Kubernetes"),
        (b"{}", "the body does not start with the protobuf envelope of Kubernetes"),
        (b"k8s\0\xff", "Unknown: a number is cut off or too long at byte 1"),
        (b"k8s\0" + field(1, "abc")[:-1], "Unknown: field 1 is cut off"),
        (b"k8s\0\x0b", "Unknown: field 1 has wire type 3, which is not used"),
        (b"k8s\0\0\0", "Unknown: field number 0 is out of range"),
        (envelope("v1", "Gizmo", b""), "v1 Gizmo is not read as protobuf; send JSON"),
        (envelope("", "", b""), "no apiVersion no kind is not read as protobuf; send JSON"),
        (envelope("v1", "Namespace", field(1, 5)), "Namespace.metadata: has wire type 0, expected 2"),
        (envelope("v1", "Namespace", field(1, field(1, b"\xff"))), "Namespace.metadata.name: the text is not UTF-8"),
        (envelope("v1", "Secret", field(2, field(1, 5))), "Secret.data: has wire type 0, expected 2"),
        (
            envelope("apps/v1", "ControllerRevision", field(2, field(1, "{"))),
            "ControllerRevision.data: the embedded JSON is not valid",
        ),
        (envelope("x/v1", "X", b"[]", "application/json"), "Unknown.raw: the JSON is not an object"),
        (
            envelope("v1", "Event", field(6, message((1, 2**62), (2, 1)))),
            "Event.firstTimestamp: 4611686018427387904 seconds is no time of the calendar",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(body: bytes, text: str) -> None:
    with pytest.raises(ProtobufError) as caught:
        decode(body)

    assert str(caught.value) == text


def test_the_longest_claim_allocates_nothing() -> None:
    with pytest.raises(ProtobufError, match="is cut off"):
        decode(b"k8s\0" + varint(2 << 3 | 2) + varint(2**62))


def test_nesting_ends() -> None:
    # No message of the table nests in itself, so the limit is met from the inside.
    with pytest.raises(ProtobufError, match="nested deeper than 100 messages"):
        protobuf._message("io.k8s.api.core.v1.Secret", memoryview(b""), "Secret", DEPTH_MAX + 1)


PROBED = message((1, "c"), (2, "i"), (12, message((1, message((1, message((1, "x"))))))))
PORT = message((1, "http"), (3, 80), (4, message((1, 1), (3, "h"))))
GOOD = [
    envelope("v1", "Pod", message((1, META), (2, message((2, PROBED))))),
    envelope("v1", "Service", message((2, message((1, PORT))))),
    envelope("v1", "Event", message((6, message((1, 1700000000))), (10, message((1, 5), (2, 5))))),
]


def refusal(body: bytes) -> str:
    """The words of a refusal, or nothing when the body is read; any other exception fails the test."""
    try:
        decode(body)
    except ProtobufError as err:
        return str(err)
    return ""


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(GOOD), st.data())
def test_damaged_bodies_are_read_or_refused(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))

    assert "\n" not in refusal(bytes(damaged))
    assert "\n" not in refusal(bytes(damaged[:cut]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["Pod", "Service", "Event", "Node", "Secret", "PersistentVolume"]), st.binary(max_size=80))
def test_any_bytes_as_an_object_are_read_or_refused(kind: str, raw: bytes) -> None:
    body = envelope("v1", kind, raw)
    if refusal(body):
        return

    schema = builtin("v1", kind)
    assert schema is not None
    obj = decode(body)
    schema.prune(obj)
    schema.default(obj)
    schema.validate(obj)


def test_a_definition_of_a_custom_kind() -> None:
    def schema(*parts: tuple[int, int | str | bytes]) -> bytes:
        return message((1, ""), (2, ""), (5, ""), (10, 0), *parts)

    size = schema((5, "integer"), (8, message((1, "5")))) + varint(11 << 3 | 1) + struct.pack("<d", 0.0)
    root = schema(
        (5, "object"),
        (29, pair("size", size)),
        (29, pair("tags", schema((5, "array"), (24, message((1, schema((5, "string")))))))),
        (29, pair("kind", schema((20, message((1, '"a"'))), (20, message((1, "null")))))),
        (29, pair("more", schema((5, "object"), (30, message((2, schema((5, "string")))))))),
        (30, message((1, 0))),
        (38, 0),
    )
    version = message((1, "v1"), (2, 1), (3, 1), (4, message((1, root))), (5, message((1, b""))), (7, 0))
    names = message((1, "widgets"), (2, ""), (4, "Widget"), (5, ""))
    spec = message((1, "x.dev"), (3, names), (4, "Namespaced"), (7, version), (10, 0))

    found = decode(envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", message((1, META), (2, spec))))

    assert found["spec"] == {
        "group": "x.dev",
        "names": {"plural": "widgets", "kind": "Widget"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "size": {"type": "integer", "default": 5, "minimum": 0},
                            "tags": {"type": "array", "items": {"type": "string"}},
                            "kind": {"enum": ["a", None]},
                            "more": {"type": "object", "additionalProperties": {"type": "string"}},
                        },
                        "additionalProperties": False,
                        "x-kubernetes-preserve-unknown-fields": False,
                    }
                },
                "subresources": {"status": {}},
            }
        ],
    }
    broken = message((1, "v1"), (4, message((1, schema((8, message((1, "{"))))))))
    bad = envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", message((2, message((7, broken)))))
    with pytest.raises(ProtobufError, match="the embedded JSON is not valid"):
        decode(bad)


def test_a_time_of_year_one_is_written_with_four_digits() -> None:
    long_ago = message((1, -62135596800 + 5), (2, 7000))
    lease = message((1, message((1, "held"))), (2, message((4, long_ago))))
    assert decode(envelope("coordination.k8s.io/v1", "Lease", lease))["spec"] == {
        "renewTime": "0001-01-01T00:00:05.000007Z"
    }
    pod = message((1, message((1, "old"), (8, message((1, -62135596800 + 5))))))
    assert decode(envelope("v1", "Pod", pod))["metadata"]["creationTimestamp"] == "0001-01-01T00:00:05Z"
