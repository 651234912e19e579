"""Functions in their processes: what they may not do ends in one line, and the next call works."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from composing_world import LAB
from trimtab.components.infrastructure.composition import sandbox
from trimtab.components.infrastructure.composition.admission import check_definition
from trimtab.components.infrastructure.composition.output import BadOutput, checked
from trimtab.components.infrastructure.composition.sandbox import Functions
from trimtab.components.infrastructure.composition.terms import Failed, Function
from trimtab.runtime import Denied

XR: dict[str, Any] = {"name": "lab", "namespace": "default", "uid": "u", "labels": {}, "annotations": {}, "spec": {}}
ALONE = "; a composition has no network, no files and no other processes (lab.py:"
DEADLINE_S = 60.0

BAD: list[tuple[str, str, str]] = [
    ("import socket\ndef compose(xr, o): socket.create_connection(('127.0.0.1', 80))", "FunctionFailed", f"PermissionError: [Errno 1] Operation not permitted{ALONE}2)"),
    ("import os\ndef compose(xr, o):\n    while True: os.fork()", "FunctionFailed", f"PermissionError: [Errno 1] Operation not permitted{ALONE}3)"),
    ("import subprocess\ndef compose(xr, o): subprocess.run(['true'])", "FunctionFailed", f"PermissionError: [Errno 1] Operation not permitted{ALONE}2)"),
    ("def compose(xr, o): open('/etc/passwd')", "FunctionFailed", f"FileNotFoundError: [Errno 2] No such file or directory: '/etc/passwd'{ALONE}1)"),
    ("def compose(xr, o): open('/x', 'w')", "FunctionFailed", f"OSError: [Errno 30] Read-only file system: '/x'{ALONE}1)"),
    ("def compose(xr, o): return bytearray(1 << 30)", "TooMuchMemory", "compose takes more memory than the 256 MiB that it may"),
    ("x = []\ndef compose(xr, o):\n    while True: x.append('a' * 1000000)", "TooMuchMemory", "compose takes more memory than the 256 MiB that it may"),
    ("import trimtab.engine\ndef compose(xr, o): return []", "FunctionFailed", "lab.py cannot be loaded: there is no trimtab.engine where compositions run: of Trimtab only trimtab.compose (lab.py:1)"),
    ("from trimtab.components.infrastructure import pool\ndef compose(xr, o): return []", "FunctionFailed", "lab.py cannot be loaded: there is no trimtab.components where compositions run: of Trimtab only trimtab.compose (lab.py:1)"),
    ("def compose(xr, o):\n    import requests", "FunctionFailed", "there is no module requests: name it among the package's dependencies (lab.py:2)"),
    ("def compose(xr o): pass", "FunctionFailed", "lab.py cannot be loaded: lab.py:1: invalid syntax"),
    ("def composed(xr, o): pass", "FunctionMissing", "lab.py has no function compose; it has composed: write def compose(xr, observed)"),
    ("compose = 3", "FunctionMissing", "lab.py: compose is no function"),
    ("def compose(xr): pass", "FunctionMissing", "compose has 1 parameters: write def compose(xr, observed)"),
    ("def compose(xr, o): pass", "BadOutput", "compose returned nothing: return a list of resources"),
    ("def compose(xr, o): return 'x'", "BadOutput", "compose returned a str: return a list of resources"),
    ("def compose(xr, o): return [3]", "BadOutput", "compose returned a int at place 0: return Resource, Status, Waiting or a manifest"),
    ("def compose(xr, o): return [{'a': float('nan')}]", "BadOutput", "compose: Out of range float values are not JSON compliant"),
    ("def compose(xr, o): return [{'a': 'x' * 5000000}]", "BadOutput", "compose returned 4 MiB, more than the 4 MiB that are taken"),
    ("def compose(xr, o): raise ValueError('no\\nregion')", "FunctionFailed", "ValueError: no region (lab.py:1)"),
    ("def compose(xr, o): return compose(xr, o)", "FunctionFailed", "RecursionError: maximum recursion depth exceeded (lab.py:1)"),
    ("import sys\ndef compose(xr, o): sys.exit(3)", "FunctionFailed", "SystemExit: 3 (lab.py:2)"),
    ("import os\ndef compose(xr, o): os._exit(3)", "FunctionDied", "the function ended its process"),
    ("import os\ndef compose(xr, o):\n    for fd in range(3, 64):\n        try: os.write(fd, b'xxxx')\n        except OSError: pass", "BadOutput", "the function's process answered what is none"),
    ("import ctypes\ndef compose(xr, o): ctypes.string_at(0)", "FunctionDied", "the function's process was killed (SIGSEGV)"),
    (LAB, "BadField", "spec.region: it is required"),
]  # fmt: skip


@pytest.fixture
async def functions() -> AsyncIterator[Functions]:
    running = Functions()
    try:
        yield running
    finally:
        await running.close()


async def none_left(functions: Functions) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while functions.pids:  # noqa: ASYNC110 (another process tells nobody that it ends)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("cases", [BAD[:9], pytest.param(BAD[9:], marks=pytest.mark.long)], ids=["first", "rest"])
async def test_what_a_function_may_not_do_is_one_line(functions: Functions, cases: list[tuple[str, str, str]]) -> None:
    for source, reason, text in cases:
        with pytest.raises(Failed) as failed:
            await functions.compose(Function("lab.py", source, timeout_s=DEADLINE_S), XR, {})
        assert (failed.value.reason, str(failed.value)) == (reason, text), source


async def test_an_endless_function_is_ended(functions: Functions) -> None:
    endless = Function("lab.py", "def compose(xr, o):\n    while xr.spec['on']: pass\n    return []", timeout_s=0.5)
    with pytest.raises(Failed, match=r"^compose took longer than the 0.5 s that it may$"):
        await functions.compose(endless, XR | {"spec": {"on": True}}, {})
    assert functions.pids == []
    quick = Function("lab.py", endless.source, timeout_s=DEADLINE_S)
    assert await functions.compose(quick, XR | {"spec": {"on": False}}, {}) == {
        "resources": [],
        "status": {},
        "waiting": [],
    }


async def test_one_process_is_kept_warm_and_ends_when_idle() -> None:
    function = Function("lab.py", "n = []\ndef compose(xr, o):\n    n.append(1)\n    return [{'n': len(n)}]")
    functions = Functions(idle_s=0.5)
    try:
        said = [(await functions.compose(function, XR, {}))["resources"][0]["manifest"]["n"] for _ in range(3)]
        assert said == [1, 2, 3]
        await none_left(functions)
        again = await functions.compose(function, XR, {})
        assert again["resources"][0]["manifest"]["n"] == 1, "another process"
    finally:
        await functions.close()
    assert functions.pids == []


async def test_a_killed_process_is_another_the_next_time(functions: Functions) -> None:
    function = Function("lab.py", "def compose(xr, o): return []")
    await functions.compose(function, XR, {})
    (pid,) = functions.pids
    os.kill(pid, signal.SIGKILL)
    await none_left(functions)
    assert (await functions.compose(function, XR, {}))["resources"] == []


async def test_calls_at_once_take_turns(functions: Functions) -> None:
    function = Function("lab.py", "def compose(xr, o): return [{'name': xr.name}]")
    said = await asyncio.gather(*(functions.compose(function, XR | {"name": f"lab-{i}"}, {}) for i in range(20)))
    assert [one["resources"][0]["manifest"]["name"] for one in said] == [f"lab-{i}" for i in range(20)]
    assert len(functions.pids) == 1


async def test_a_function_at_work_is_not_waited_for_when_there_are_too_many(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "RUNNING_MAX", 1)
    endless = Function("lab.py", "def compose(xr, o):\n    while True: pass", timeout_s=DEADLINE_S)
    busy = asyncio.create_task(functions.compose(endless, XR, {}))
    while not functions.pids:  # noqa: ASYNC110 (until it runs)
        await asyncio.sleep(0.01)

    quick = Function("lab.py", "def compose(xr, o): return []")
    assert (await functions.compose(quick, XR, {}))["resources"] == []
    assert not busy.done()

    busy.cancel()
    await asyncio.wait([busy])
    await functions.compose(Function("other.py", quick.source), XR, {})
    assert len(functions.pids) == 1


async def test_what_is_given_is_typed(functions: Functions) -> None:
    spec = {"region": "eu", "hosts": 2}
    observed = {
        "host-0": {"ready": True, "message": "", "kind": "Server", "status": {"atProvider": {"address": "10.0.0.7"}}}
    }
    wanted = checked(await functions.compose(Function("lab.py", LAB), XR | {"spec": spec}, observed), "lab", "default")
    assert [(part.name, part.kind, part.called) for part in wanted.parts] == [
        ("net", "Network", "lab-net"),
        ("host-0", "Server", "lab-host-0"),
        ("host-1", "Server", "lab-host-1"),
    ]
    assert wanted.parts[1].object["spec"]["references"] == [
        {"field": "network", "source": {"kind": "Network", "name": "lab-net", "field": "id"}}
    ]
    assert wanted.status == {"addresses": ["10.0.0.7"]}


async def test_a_function_without_classes_gets_the_fields_of_its_definition(functions: Functions) -> None:
    source = "def compose(xr, o): return [{'n': xr.spec.node_count + 1, 'z': xr.spec.zone, 'd': xr.spec.disk.size}]"
    fields = '{"nodeCount": {"type": "integer", "default": 3}, "zone": {"type": "string"}, "disk": {"type": "object", "required": true, "fields": {"size": {"type": "number"}}}}'
    function = Function("lab.py", source, fields=fields)
    said = await functions.compose(function, XR | {"spec": {"disk": {"size": 2.5}}}, {})
    assert said["resources"][0]["manifest"] == {"n": 4, "d": 2.5}
    for spec, text in (
        ({"disk": {}, "nodeCount": "x"}, "spec.nodeCount: 'x' is no integer"),
        ({"disc": {}}, "spec.disc: there is no such field; there are disk, nodeCount, zone"),
    ):
        with pytest.raises(Failed) as failed:
            await functions.compose(function, XR | {"spec": spec}, {})
        assert str(failed.value) == text


MANIFEST = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
OUTPUTS: list[tuple[Any, str]] = [
    ([MANIFEST, MANIFEST], "a: two resources have this name, a ConfigMap and a ConfigMap: names are unique in a claim"),
    ([MANIFEST | {"metadata": {"name": "a", "namespace": "kube-system"}}], "a: it is in the namespace kube-system: all that a claim is composed of is in its own, default"),
    ([MANIFEST | {"kind": "Secret", "data": {"a": "eA=="}}], "a: a Secret cannot be composed, for a function knows no secrets: refer to one by name, or use spec.connection of the definition"),
    ([MANIFEST | {"data": {"key": "-----BEGIN RSA PRIVATE KEY-----\n"}}], "a: it has a private key in it, which whoever may read it would see: put it in a Secret and refer to that"),
    ([MANIFEST | {"metadata": {"name": "A b"}}], "'A b' is no name of a resource: lower-case letters, digits and dashes"),
    ([MANIFEST | {"metadata": {}}], "None is no name of a resource: lower-case letters, digits and dashes"),
    ([{"metadata": {"name": "a"}, "kind": "ConfigMap"}], "a: None is no apiVersion"),
    ([MANIFEST | {"kind": 3}], "a: 3 is no kind"),
    ([MANIFEST | {"metadata": {"name": "a", "ownerReferences": []}}], "a: metadata.ownerReferences is not a function's to set"),
    ([MANIFEST | {"metadata": {"name": "a", "labels": {"trimtab.dev/owner": "x"}}}], "a: metadata.labels.trimtab.dev/owner: such keys are Trimtab's own"),
    ([MANIFEST | {"metadata": {"name": "a", "labels": {"x": 1}}}], "a: metadata.labels.x: 1 is no text"),
    ([MANIFEST | {"webhooks": []}], "a: ConfigMap with a field webhooks cannot be composed"),
    ([MANIFEST | {"metadata": {"name": "a" * 250}}], f"{'a' * 250}: lab-{'a' * 36}... is longer than the 253 characters that a name may have"),
]  # fmt: skip


def test_what_cannot_be_applied_is_one_line() -> None:
    for manifests, text in OUTPUTS:
        with pytest.raises(BadOutput) as bad:
            checked(
                {"resources": [{"manifest": one} for one in manifests], "status": {}, "waiting": []}, "lab", "default"
            )
        assert str(bad.value) == text
    for whole in (None, [], {"resources": {}}, {"resources": [1], "status": {}, "waiting": []}):
        with pytest.raises(BadOutput, match=r"^compose's answer is none"):
            checked(whole, "lab", "default")
    with pytest.raises(BadOutput, match=r"^Status: conditions is not the function's to set$"):
        checked({"resources": [], "status": {"conditions": []}, "waiting": []}, "lab", "default")
    with pytest.raises(BadOutput, match=r"^compose returned 501 resources, more than 500$"):
        checked({"resources": [{"manifest": {}}] * 501, "status": {}, "waiting": []}, "lab", "default")


def test_resources_stand_in_the_order_in_which_they_need_each_other() -> None:
    def body(name: str, *after: str, spec: Any = None) -> dict[str, Any]:
        return {
            "name": name, "apiVersion": "v1", "kind": "ConfigMap", "labels": {}, "annotations": {}, "after": list(after),
            "body": {"spec": spec or {}},
        }  # fmt: skip

    def order(*resources: dict[str, Any]) -> list[str]:
        return [
            p.name for p in checked({"resources": list(resources), "status": {}, "waiting": []}, "lab", "default").parts
        ]

    kubeconfig = {"connection": {"secretName": "lab-cluster-connection"}}
    assert order(
        body("apps", spec={"kubeconfig": {"name": "lab-cluster-connection", "key": "kubeconfig"}}),
        body("dns", "apps"),
        body("cluster", spec=kubeconfig | {"references": [{"field": "x", "source": {"kind": "ConfigMap", "name": "lab-net", "field": "id"}}]}),
        body("net"),
    ) == ["net", "cluster", "apps", "dns"]  # fmt: skip
    with pytest.raises(BadOutput, match=r"^b -> c -> b: they need each other$"):
        order(body("a"), body("b", "c"), body("c", "b"))
    with pytest.raises(BadOutput, match=r"^b: it comes after d, which compose did not return$"):
        order(body("b", "d"))


def test_a_definition_that_cannot_be_is_refused_when_it_is_written() -> None:
    good = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "CompositeDefinition",
        "metadata": {"name": "labs.acme.example"},
        "spec": {
            "group": "acme.example",
            "names": {"kind": "Lab"},
            "compose": {"source": "def compose(xr, o): return []"},
        },
    }
    assert check_definition(good, None) == []
    for spec, text in (
        ({"fields": {"a": {"type": "text"}}}, "spec.fields.a: type: Invalid enum value 'text'"),
        ({"group": "apps.trimtab.dev"}, "spec.group: apps.trimtab.dev is not yours: take a domain of your own"),
        ({"names": {"kind": "Box"}}, "metadata.name: it has to be boxes.acme.example"),
        ({"compose": {}}, "spec.compose: give either source or package"),
        (
            {"compose": {"package": "a==1"}},
            "spec.compose.function: name the function of the package: acme_platform:compose",
        ),
    ):
        with pytest.raises(Denied) as denied:
            check_definition(good | {"spec": good["spec"] | spec}, None)  # type: ignore[operator]
        assert str(denied.value) == text


SAYS = """
from dataclasses import dataclass
from typing import Any
from trimtab.compose import Claim, ClusterManifests, Composed, Kind, Managed, Observed, definition

@dataclass
class Lab:
    region: str = ""

class Network(Managed[Any]):
    API_VERSION = "cloud.tf.trimtab.dev/v1"
    KIND = "Network"

@definition(group="acme.example"{more})
def compose(xr: Claim[Lab], observed: Observed) -> Composed:
    return []
"""


async def test_the_kinds_that_a_function_composes(functions: Functions) -> None:
    network = {"apiVersion": "cloud.tf.trimtab.dev/v1", "kind": "Network"}
    manifests = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ClusterManifests"}
    moons = {"apiVersion": "example.org/v1", "kind": "Moon", "plural": "moonen"}
    for more, named in (
        ("", [network, manifests]),
        (", composes=[]", []),
        (", composes=[Network, Kind('example.org/v1', 'Moon', 'moonen'), Network]", [network, moons]),
    ):
        said = await functions.describe(Function("lab.py", SAYS.replace("{more}", more)))
        assert said["composes"] == named
    with pytest.raises(Failed) as failed:
        await functions.describe(Function("lab.py", SAYS.replace("{more}", ", composes=['Network']")))
    assert str(failed.value) == (
        'composes: a str is no kind: give a class of a provider\'s stubs, ClusterManifests, or Kind("v1", "ConfigMap")'
    )
