"""Classes of a provider's kinds: what the type checker accepts is what the API takes, and a wrong field is found before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trimtab
from trimtab import compose
from trimtab.components.infrastructure.composition.stubs import stubs
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
    NUMBER,
    STRING,
    Type,
    list_of,
    map_of,
    object_of,
    set_of,
)

SERVER = Block(
    attributes={
        "id": Attribute(STRING, computed=True),
        "name": Attribute(STRING, required=True, description='Its "name", \\ and more.'),
        "size_gb": Attribute(NUMBER, optional=True),
        "from": Attribute(STRING, optional=True),
        "password": Attribute(STRING, optional=True, sensitive=True),
        "labels": Attribute(map_of(STRING), optional=True),
        "zones": Attribute(set_of(STRING), optional=True),
        "rules": Attribute(list_of(object_of({"port": NUMBER, "open": BOOL})), optional=True),
        "network": Attribute(STRING, optional=True),
        "anything": Attribute(Type("dynamic"), optional=True),
        "boot": Attribute(nested=NestedType("single", {"image_id": Attribute(STRING, required=True)}), optional=True),
    },
    blocks={
        "disk": NestedBlock("list", Block({"label": Attribute(STRING, required=True), "size": Attribute(NUMBER, optional=True)}), min_items=1),
        "timeouts": NestedBlock("single", Block({"create": Attribute(STRING, optional=True)})),
    },
)  # fmt: skip
NETWORK = Block({"id": Attribute(STRING, computed=True), "range": Attribute(STRING, optional=True)})
SCHEMA = ProviderSchema(Schema(Block()), {"cloud_server": Schema(SERVER), "cloud_network": Schema(NETWORK)})

COMPOSITION = """
from dataclasses import dataclass

from cloud import Network, NetworkFields, Server, ServerBoot, ServerDisk, ServerFields, ServerRules
from trimtab.compose import Claim, Composed, Observed, SecretKey, definition


@dataclass
class Lab:
    hosts: int = 1


@definition(group="acme.example")
def compose(xr: Claim[Lab], observed: Observed) -> Composed:
    net = Network("net", NetworkFields(range="10.0.0.0/16"))
    fields = ServerFields(
        name=xr.name,
        disk=[ServerDisk(label="root", size=20)],
        size_gb=4,
        from_="image",
        password_secret_ref=SecretKey(name="s", key="k"),
        labels={"a": "b"},
        zones=["x"],
        rules=[ServerRules(port=80, open=True)],
        network=net.output("id"),
        boot=ServerBoot(image_id="i"),
    )
    return [net, *(Server(f"host-{i}", fields, interval="30s") for i in range(xr.spec.hosts))]
"""
WRONG = [
    ("size_gb=4", 'size_gb="four"', 'incompatible type "str"; expected "float | None"'),
    ("name=xr.name,", "", 'Missing named argument "name" for "ServerFields"'),
    ('label="root"', 'label="root", lable=1', 'Unexpected keyword argument "lable" for "ServerDisk"'),
    ('range="10.0.0.0/16"', "range=10", 'incompatible type "int"; expected "str | None"'),
    ("xr.spec.hosts", "xr.spec.host", '"Lab" has no attribute "host"'),
    ("-> Composed", "-> int", "Incompatible return value type"),
]  # fmt: skip


def checked(folder: Path, composition: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mypy", reason="mypy is not installed: make setup-lint")
    (folder / "cloud.py").write_text(stubs("cloud", "1.2.3", SCHEMA, SCHEMA.resources))
    (folder / "lab.py").write_text(composition)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={folder.parent / 'mypy'}", "lab.py", "cloud.py"],
        cwd=folder, env={"MYPYPATH": str(Path(trimtab.__file__).parents[1])}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_what_is_wrong_is_found_and_nothing_else(tmp_path: Path) -> None:
    """All of it in one file: a type checker takes seconds to start."""
    text = COMPOSITION
    for right, wrong, _ in WRONG:
        assert right in COMPOSITION
        text = text.replace(right, wrong, 1)
    done = checked(tmp_path, text)
    assert done.returncode == 1
    for _, _, said in WRONG:
        assert said in done.stdout, (said, done.stdout)
    assert done.stdout.count(": error: ") == len(WRONG), done.stdout


def test_the_classes_say_what_the_api_takes(tmp_path: Path) -> None:
    made: dict[str, object] = {}
    names = {"__name__": "cloud_stubs"}
    module = type(sys)("cloud_stubs")
    sys.modules["cloud_stubs"] = module
    try:
        exec(stubs("cloud", "1.2.3", SCHEMA, SCHEMA.resources), module.__dict__ | names, made)
        module.__dict__.update(made)
        server, fields, disk = made["Server"], made["ServerFields"], made["ServerDisk"]
        net = made["Network"]("net", made["NetworkFields"](range="10.0.0.0/8"))  # type: ignore[operator]
        one = server(  # type: ignore[operator]
            "host",
            fields(  # type: ignore[operator]
                name="web", disk=[disk(label="root")], from_="x", size_gb=4, network=net.output("id"),  # type: ignore[operator]
                password_secret_ref=compose.SecretKey(name="s", key="k"),
            ),
        )  # fmt: skip
    finally:
        del sys.modules["cloud_stubs"]
    xr: compose.Claim[None] = compose.Claim("lab", "default", None)
    assert one.place() == ("cloud.tf.trimtab.dev/v1", "Server")
    assert one.body(xr)["spec"] == {
        "providerRef": {"name": "default"},
        "forProvider": {
            "name": "web",
            "disk": [{"label": "root"}],
            "from": "x",
            "sizeGb": 4,
            "passwordSecretRef": {"name": "s", "key": "k"},
        },
        "references": [{"field": "network", "source": {"kind": "Network", "name": "lab-net", "field": "id"}}],
    }


def test_an_output_may_be_within_a_field() -> None:
    class Host(compose.Managed[dict[str, Any]]):
        API_VERSION, KIND = "cloud.tf.trimtab.dev/v1", "Host"

    first, second = Host("a", {}), Host("b", {})
    xr: compose.Claim[None] = compose.Claim("lab", "default", None)

    def spec(**given: Any) -> Any:
        return Host("c", given).body(xr)["spec"]

    made = spec(
        vpc=[{"subnets": ["s-1", first.output("id"), second.output("id")]}], labels={"a.b": first.output("name")}
    )
    assert made["forProvider"] == {"vpc": [{"subnets": ["s-1"]}], "labels": {}}
    assert [(one["field"], one["source"]["name"]) for one in made["references"]] == [
        ("vpc[0].subnets[1]", "lab-a"),
        ("vpc[0].subnets[2]", "lab-b"),
        ('labels["a.b"]', "lab-a"),
    ]
    with pytest.raises(ValueError, match=r"^subnets: outputs of other resources have to be the last of a list$"):
        spec(subnets=[first.output("id"), "s-1"])
