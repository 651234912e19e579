"""A provider's kind as a definition of the API, and its objects on their way to the provider and back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trimtab.api import ObjectMeta
from trimtab.components.infrastructure.commands import enabling
from trimtab.components.infrastructure.kinds import Provider, ProviderSpec
from trimtab.components.infrastructure.loop.connection import TemplateFault, filled
from trimtab.components.infrastructure.protocol.schema import (
    Attribute,
    Block,
    NestedBlock,
    NestedType,
    ProviderSchema,
    Schema,
)
from trimtab.components.infrastructure.protocol.types import (
    BOOL,
    DYNAMIC,
    NUMBER,
    STRING,
    Type,
    list_of,
    map_of,
    object_of,
    set_of,
)
from trimtab.components.infrastructure.schemas.definition import BYTES_MAX, definition
from trimtab.components.infrastructure.schemas.mapping import (
    FieldFault,
    Output,
    api_path,
    configured,
    hidden,
    shown,
    to_type,
)
from trimtab.components.infrastructure.schemas.naming import api_names, kind_name, plural
from trimtab.server.custom_checks import problems

POOL = Block(
    attributes={
        "node_type": Attribute(type=STRING, required=True),
        "node_count": Attribute(type=NUMBER, optional=True),
        "serial": Attribute(type=STRING, computed=True),
        "boot_key": Attribute(type=STRING, optional=True, sensitive=True),
    }
)
CLUSTER = Block(
    attributes={
        "id": Attribute(type=STRING, computed=True),
        "label": Attribute(type=STRING, required=True, description="Its name."),
        "namespace": Attribute(type=STRING, required=True),
        "root_pass": Attribute(type=STRING, required=True, sensitive=True),
        "kube_config": Attribute(type=STRING, computed=True, sensitive=True),
        "ssh_key_ids": Attribute(type=set_of(NUMBER), optional=True),
        "anything": Attribute(type=DYNAMIC, optional=True),
        "labels_all": Attribute(type=map_of(STRING), optional=True, deprecated="Use labels."),
        "control_plane": Attribute(
            nested=NestedType("single", {"high_availability": Attribute(type=BOOL, optional=True)}), optional=True
        ),
        "rules": Attribute(type=list_of(object_of({"from_port": NUMBER, "to_port": NUMBER})), optional=True),
    },
    blocks={"node_pool": NestedBlock("list", POOL, min_items=1, max_items=8), "acl": NestedBlock("single", POOL)},
)
REFERENCES: dict[str, Any] = {
    "references": {
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": "object",
            "required": ["field"],
            "properties": {"field": {"type": "string", "maxLength": 99}},
        },
    }
}
GIVEN = {
    "label": "prod",
    "namespace": "a",
    "rootPassSecretRef": {"name": "root", "key": "password"},
    "sshKeyIds": [1, 2],
    "anything": {"camelCase": [1]},
    "labelsAll": {"snake_case": "kept"},
    "controlPlane": {"highAvailability": True},
    "rules": [{"fromPort": 1, "toPort": 2}],
    "nodePool": [{"nodeType": "g6", "nodeCount": 3}],
}


def made(block: Block = CLUSTER) -> dict[str, Any]:
    return definition("linode", "linode_lke_cluster", Schema(block), REFERENCES, {"id": {"type": "string"}})


def spec_of(crd: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return properties


def secrets(name: str, key: str) -> str:
    if name != "root":
        raise LookupError(f"there is no Secret {name} in this namespace: create it")
    return f"hush-{key}"


def test_an_api_server_takes_it() -> None:
    crd = made()
    assert [str(p) for p in problems(crd, None, lambda *_: None)] == []
    assert crd["metadata"]["name"] == "lkeclusters.linode.tf.trimtab.dev"
    assert crd["spec"]["names"]["kind"] == "LkeCluster"


def test_what_is_given_and_what_is_shown() -> None:
    properties = spec_of(made())
    given, at_provider = (
        properties["spec"]["properties"]["forProvider"]["properties"],
        properties["status"]["properties"]["atProvider"]["properties"],
    )
    assert set(given) == {*GIVEN, "acl"}
    assert "kubeConfig" not in at_provider
    assert "rootPass" not in at_provider
    assert at_provider["id"] == {"type": "string"}
    assert given["sshKeyIds"] == {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "number"}}
    assert given["nodePool"]["maxItems"] == 8
    assert "required" not in given["nodePool"]["items"], "it may be a reference"
    assert given["label"]["description"] == "Its name."
    assert given["labelsAll"]["description"] == "Deprecated: Use labels."
    assert given["anything"] == {"x-kubernetes-preserve-unknown-fields": True}


def test_what_is_required_may_be_a_reference_and_is_named() -> None:
    rules = spec_of(made())["spec"]["x-kubernetes-validations"]
    assert [rule["message"].split(" is")[0] for rule in rules] == [
        "forProvider.label",
        "forProvider.namespace",
        "forProvider.rootPassSecretRef",
    ]
    assert "has(self.forProvider.__namespace__)" in rules[1]["rule"]
    assert "r.field == 'namespace'" in rules[1]["rule"]


def test_a_kind_that_nests_in_itself_is_cut_where_it_would_be_too_big() -> None:
    block = Block(attributes={f"field_{i}": Attribute(type=STRING, optional=True) for i in range(6)})
    for _ in range(11):
        block = Block(
            attributes=block.attributes, blocks={"and": NestedBlock("list", block), "or": NestedBlock("list", block)}
        )
    crd = made(block)
    assert len(msgspec.json.encode(crd)) <= BYTES_MAX
    assert [str(p) for p in problems(crd, None, lambda *_: None)] == []
    deep = configured(block, {"and": [{"or": [{"and": [{"field1": "x"}]}]}]}, secrets)
    assert deep == {"and": [{"or": [{"and": [{"field_1": "x"}]}]}]}


def test_an_object_becomes_a_configuration_with_its_secrets() -> None:
    assert configured(CLUSTER, GIVEN, secrets) == {
        "label": "prod",
        "namespace": "a",
        "root_pass": "hush-password",
        "ssh_key_ids": [1, 2],
        "anything": {"camelCase": [1]},
        "labels_all": {"snake_case": "kept"},
        "control_plane": {"high_availability": True},
        "rules": [{"from_port": 1, "to_port": 2}],
        "node_pool": [{"node_type": "g6", "node_count": 3}],
    }


def test_a_state_is_shown_without_what_is_sensitive() -> None:
    state = configured(CLUSTER, GIVEN, secrets) | {"id": "7", "kube_config": "kc", "acl": None}
    state["node_pool"][0] |= {"serial": "s", "boot_key": "b"}
    out = shown(CLUSTER, state)
    assert out == {
        **{k: v for k, v in GIVEN.items() if k != "rootPassSecretRef"},
        "id": "7",
        "nodePool": [{"nodeType": "g6", "nodeCount": 3, "serial": "s"}],
    }
    assert hidden(CLUSTER, state) == {"root_pass": "hush-password", "kube_config": "kc"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"colour": 1}, "spec.forProvider.colour: there is no such field, or the provider alone sets it"),
        ({"id": "7"}, "spec.forProvider.id: there is no such field, or the provider alone sets it"),
        ({"rootPass": "x"}, "spec.forProvider.rootPass: there is no such field, or the provider alone sets it"),
        (
            {"rootPassSecretRef": {"name": "nowhere", "key": "k"}},
            "spec.forProvider.rootPassSecretRef: there is no Secret nowhere in this namespace: create it",
        ),
        ({"nodePool": [{"serial": "x"}]}, "spec.forProvider.nodePool[0].serial: there is no such field, or the provider alone sets it"),
        ({"nodePool": {"nodeType": "x"}}, "spec.forProvider.nodePool: expected a list"),
        ({"nodePool": [{"nodeCount": 1}]}, "spec.forProvider.nodePool[0].nodeType: is required: give it here, or as a reference"),
        ({"rules": [{"port": 1}]}, "spec.forProvider.rules[0].port: there is no such field, or the provider alone sets it"),
        ({"controlPlane": []}, "spec.forProvider.controlPlane: expected an object"),
    ],
)  # fmt: skip
def test_a_field_at_fault_is_named_as_the_user_wrote_it(given: dict[str, Any], text: str) -> None:
    with pytest.raises(FieldFault) as raised:
        configured(CLUSTER, given, secrets)
    assert str(raised.value) == text


def test_paths_of_the_provider_are_said_in_the_objects_names() -> None:
    assert api_path(CLUSTER, "node_pool[0].node_count") == "nodePool[0].nodeCount"
    assert api_path(CLUSTER, "rules[1].from_port") == "rules[1].fromPort"
    assert api_path(CLUSTER, 'labels_all["a.b"]') == 'labelsAll["a.b"]'
    assert api_path(CLUSTER, "control_plane.high_availability") == "controlPlane.highAvailability"
    assert api_path(CLUSTER, "root_pass") == "rootPassSecretRef"
    assert api_path(CLUSTER, "no_such[0].thing") == "no_such[0].thing"


def test_names() -> None:
    assert kind_name("linode", "linode_lke_cluster") == "LkeCluster"
    assert kind_name("google-beta", "google_beta_dns_policy") == "DnsPolicy"
    assert [plural(k) for k in ("LkeCluster", "DnsPolicy", "Box", "Address", "Key")] == [
        "lkeclusters",
        "dnspolicies",
        "boxes",
        "addresses",
        "keys",
    ]
    assert api_names(["ssh_key", "sshKey", "a"]) == {"a": "a", "sshKey": "sshKey", "ssh_key": "ssh_key"}


def test_two_resources_of_one_name_in_the_api_are_never_enabled_together() -> None:
    schema = ProviderSchema(Schema(Block()), dict.fromkeys(["cloud_a_b", "cloud_ab", "cloud_c"], Schema(Block())))

    def added(enabled: list[str], *names: str) -> list[str]:
        made = Provider(metadata=ObjectMeta(name="cloud"), spec=ProviderSpec(source="acme/cloud", kinds=enabled))
        return [one["metadata"]["name"] for one in enabling.added(made, names, schema)]

    assert added(["cloud_ab"], "cloud_c", "cloud_ab") == ["abs.cloud.tf.trimtab.dev", "cs.cloud.tf.trimtab.dev"]
    with pytest.raises(enabling.NameClash) as told:
        added(["cloud_ab"], "cloud_c", "cloud_a_b")
    both = "would both be abs.cloud.tf.trimtab.dev, as their names differ in underscores alone"
    assert str(told.value) == f"cloud_ab and cloud_a_b {both}: trimtab provider disable cloud cloud_ab first"
    with pytest.raises(enabling.NameClash) as told:
        added([], "cloud_a_b", "cloud_ab")
    assert str(told.value) == f"cloud_a_b and cloud_ab {both}: enable one of the two"


@pytest.mark.parametrize(
    ("of", "output", "is_given"),
    [
        (NUMBER, "1001", 1001),
        (NUMBER, "1.5", 1.5),
        (STRING, 1001, "1001"),
        (STRING, True, "true"),
        (BOOL, "false", False),
        (list_of(NUMBER), ["1", "2"], [1, 2]),
        (map_of(STRING), {"a": 1}, {"a": "1"}),
        (NUMBER, "ten", "ten"),
    ],
)
def test_what_another_resource_gives_becomes_what_the_field_holds(of: Type, output: Any, is_given: Any) -> None:
    assert to_type(of, Output(output), "spec.forProvider.x") == is_given


@pytest.mark.parametrize(
    "templates",
    [
        {"key": "{{ kubeconfig }}" * 20_000},
        {"key": "{{ kubeconfig" + " | b64encode" * 200 + " }}"},
        {"key": "{{ kubeconfig" + " | json" * 60 + " }}"},
        {"key": "x" * (2 << 20)},
        {f"key-{number}": "{{ kubeconfig }}" for number in range(20)},
    ],
    ids=["many", "encoded", "quoted", "long", "keys"],
)
def test_a_template_makes_no_more_than_a_secret_holds(templates: dict[str, str]) -> None:
    with pytest.raises(
        TemplateFault, match=r"^key(-\d+)?: with it the Secret is longer than the 1 MiB that it may have$"
    ):
        filled(templates, {"kubeconfig": '"' * (100 << 10)})
