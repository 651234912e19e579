"""Providers that misbehave, in a whole engine: what a user reads of it, that others go on, and that nothing is made twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import wait_for
from infrastructure_engine import CloudEngine, bare_engine, misbehaving_program, server

pytestmark = pytest.mark.engine

SAID = {
    "type-at-plan": "cloud answers of cloud_server what does not fit its schema: tags: expected map of string, got 7",
    "null-at-plan": "cloud_server: the provider produced an invalid plan, which is a bug of its: it plans nothing where something is given",
    "garbage-at-plan": "cloud answers of cloud_server what does not fit its schema: the provider sent no msgpack: ",
    "nan-at-plan": "cloud answers of cloud_server what does not fit its schema: disk[0].size: expected number, got NaN",
    "latin-at-plan": "cloud answers of cloud_server what does not fit its schema: the provider sent no msgpack: 'utf-8' codec ",
    "protobuf-at-plan": "cloud answers to plan with what is no message of its protocol",
    "utf8-at-plan": "cloud answers to plan with what is no message of its protocol",
    "long-at-plan": "cloud_server: name: It did not work. xxx",
    "raise-at-plan": "cloud broke off at plan: Exception calling application: a bug of the provider",
    "huge-at-plan": "cloud broke off at plan: ",
    "memory-at-plan": "cloud ",
    "type-at-read": "cloud answers of cloud_server what does not fit its schema: tags: expected map of string, got 7",
    "protobuf-at-read": "cloud answers to read with what is no message of its protocol",
}
"""What the condition Synced says of a server that the provider is mad about."""
HEARD_WRONG = ("type-at-apply", "null-at-apply", "garbage-at-apply", "protobuf-at-apply", "raise-at-apply")
"""The cloud makes these, and what the provider says of it is nonsense."""
DEADLY = {
    "crash-at-plan": "was ended by SIGKILL, saying 'panic: out of luck'",
    "exit-at-read": "ended with status 3",
    "children-at-plan": "was ended by",
}


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with bare_engine() as made:
        program, reads = misbehaving_program(made.folder)
        made.engine.run("provider", "install", "trimtab/cloud@1.0.0", "--path", str(program), *reads)
        made.engine.run("apply", "-f", "-", input=SMALL)
        made.enable("cloud_server")
        made.credential()
        made.apply(server("steady"))
        made.until("Server", "steady")
        yield made


SMALL = """
apiVersion: trimtab.dev/v1alpha1
kind: Provider
metadata: {name: cloud}
spec: {memory: 1Gi}
"""


def mended(world: CloudEngine) -> bool:
    """Whether what somebody changes of the steady server goes back."""
    [mine] = [one for one in world.cloud.all("servers") if one["name"] == "steady"]
    world.cloud.change("servers", mine["id"], tags={"owner": "nobody"})

    def back() -> bool:
        [now] = [one for one in world.cloud.all("servers") if one["name"] == "steady"]
        return "owner" not in (now.get("tags") or {})

    wait_for(back, 120, lambda: f"the steady server mended\n{world.get('Server', 'steady')}\n{world.engine.logs()}")
    return True


def left_alone(world: CloudEngine, *names: str) -> None:
    """Deletes the objects, and leaves their servers to the cloud."""
    world.apply(*(server(name, spec={"policy": {"delete": "orphan"}}) for name in names))
    world.engine.run("delete", "Server", *names, "-n", "default")
    wait_for(lambda: not any(world.get("Server", name) for name in names), 60, "the objects are gone")


def test_nonsense_is_said_in_one_line_and_the_others_go_on(world: CloudEngine) -> None:
    world.apply(*map(server, SAID))
    for name, text in SAID.items():
        said = world.until("Server", name, "Synced", "False", "ProviderError")["message"]
        assert said.startswith(text), said
        assert "\n" not in said
        assert "\x1b" not in said
        assert len(said) < 3000
    assert mended(world)
    told = world.engine.run("describe", "Server", "raise-at-plan", "-n", "default").stdout
    assert (
        "ProviderError   1       cloud broke off at plan: Exception calling application: a bug of the provider" in told
    )
    left_alone(world, *SAID)


def test_what_was_made_and_answered_with_nonsense_is_found_and_kept(world: CloudEngine) -> None:
    world.apply(*map(server, HEARD_WRONG))
    for name in HEARD_WRONG:
        world.until("Server", name)
    found = Counter(one["name"] for one in world.cloud.all("servers"))
    assert {name: found[name] for name in HEARD_WRONG} == dict.fromkeys(HEARD_WRONG, 1)
    world.engine.run("delete", "Server", *HEARD_WRONG, "-n", "default")
    wait_for(lambda: not set(HEARD_WRONG) & {one["name"] for one in world.cloud.all("servers")}, 60, "all are deleted")


@pytest.mark.long
def test_those_that_take_the_program_down_hold_up_no_other(world: CloudEngine) -> None:
    """Three at once take minutes until each is asked about seldom enough."""
    world.apply(*map(server, DEADLY))
    for name in DEADLY:

        def suspected(name: str = name) -> bool:
            said = world.condition("Server", name, "Synced").get("message", "")
            return said.startswith(f"cloud {DEADLY[name]}") and "; about this object it is asked again in " in said

        wait_for(suspected, 120, lambda name=name: f"{name} is asked about less and less: {world.get('Server', name)}")  # type: ignore[misc]
    assert mended(world)
    assert mended(world)
    assert not children("children-at-plan")
    left_alone(world, *DEADLY)


def children(mark: str) -> list[str]:
    """Processes that a provider left behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if f"left-by-{mark}" in line:
            found.append(path.parent.name)
    return found


def test_what_hangs_holds_up_no_other_and_says_what_it_is_at(world: CloudEngine) -> None:
    world.apply(server("hang-at-create"), server("hang-at-plan"))
    making = world.until("Server", "hang-at-create", "Ready", "False", "Creating")
    assert making["message"] == "cloud_server is being made"
    assert world.get("Server", "hang-at-create")["status"]["plan"]["action"] == "create"  # type: ignore[index]

    began = time.monotonic()
    slow = world.apply(server("hang-at-validate"))

    assert time.monotonic() - began < 60
    assert "the provider did not say within 4.5 s whether it takes this" in slow.stderr
    assert mended(world)


def test_floods_are_read_and_thrown_away(world: CloudEngine) -> None:
    names = ("stderr-at-plan", "stdout-at-plan")
    world.apply(*map(server, names))
    for name in names:
        world.until("Server", name)
    assert mended(world)
    logs = sum(path.stat().st_size for path in (world.engine.data / "log").glob("*.log"))
    assert logs < 8 << 20
    world.engine.run("delete", "Server", *names, "-n", "default")


def test_a_provider_that_may_have_too_little_memory_says_so(world: CloudEngine) -> None:
    def memory(size: str) -> Any:
        return world.engine.run("apply", "-f", "-", input=SMALL.replace("1Gi", size), check=False)

    assert "spec.memory" in memory("lots").stderr
    memory("4Mi")
    world.credential("tight")
    tight = world.until("ProviderConfig", "tight", "Ready", "False", "ProviderFailed")
    assert tight["message"].startswith("cloud: "), tight
    assert "before it greeted" in tight["message"]
    memory("1Gi")
