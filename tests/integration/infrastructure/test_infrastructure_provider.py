"""A provider as a process, in both protocols: the life of a resource, and every way in which a provider can fail."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import cloud_provider
from cloud import Cloud
from eventually import eventually
from trimtab.components.infrastructure.protocol.launch import LaunchError
from trimtab.components.infrastructure.protocol.provider import Provider, ProviderError, State
from trimtab.components.infrastructure.protocol.values import UNKNOWN, ValueFault

PROGRAM = Path(cloud_provider.__file__)
GIVEN = {"name": "web", "region": "eu", "password": "hush", "disk": [{"label": "root", "size": 20}]}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


@asynccontextmanager
async def provider(
    cloud: Cloud | None, directory: Path, *arguments: str, timeout_s: float = 120
) -> AsyncIterator[Provider]:
    path = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, str(PROGRAM), *arguments]
    one = await Provider.start(command, directory, environment={"PYTHONPATH": path}, timeout_s=timeout_s, name="cloud")
    try:
        if cloud is not None:
            await one.configure({"url": cloud.url, "token": "secret"})
        yield one
    finally:
        await one.close()


@pytest.mark.parametrize("protocol", ["5", "6"])
async def test_the_life_of_a_resource(cloud: Cloud, tmp_path: Path, protocol: str) -> None:
    async with provider(cloud, tmp_path, protocol) as one:
        assert one.version == int(protocol)
        schema = await one.schema()
        assert set(schema.resources) == {"cloud_server", "cloud_network", "cloud_cluster", "cloud_bucket"}
        assert schema.resources["cloud_server"].block.blocks["disk"].max_items == 4

        nothing = State(None)
        plan = await one.plan("cloud_server", nothing, GIVEN)
        assert plan.value["id"] is UNKNOWN
        assert plan.value["disk"] == [{"label": "root", "size": 20, "serial": UNKNOWN}]
        made = await one.apply("cloud_server", nothing, plan, GIVEN)
        assert not made.errors
        (there,) = cloud.all("servers")
        assert made.state.value["id"] == there["id"]
        assert made.state.private == b"applied"
        assert made.state.value["password"] == "hush"

        live = await one.read("cloud_server", made.state)
        assert live == made.state
        again = await one.plan("cloud_server", live, GIVEN)
        assert again.value == live.value
        assert again.replace == ()

        cloud.change("servers", there["id"], size="huge")
        live = await one.read("cloud_server", made.state)
        assert live.value["size"] == "huge"
        moved = await one.plan("cloud_server", live, GIVEN | {"region": "us"})
        assert moved.replace == ("region",)

        (imported,) = await one.import_("cloud_server", there["id"])
        assert imported.state.value["name"] == "web"
        assert (await one.upgrade("cloud_server", 0, {"title": "old", "id": "7"}))["name"] == "old"

        gone = await one.apply("cloud_server", live, await one.plan("cloud_server", live, None), None)
        assert gone.state.value is None
        assert cloud.all("servers") == []
        assert (await one.read("cloud_server", live)).value is None


async def test_what_a_provider_refuses_is_said_in_its_words(cloud: Cloud, tmp_path: Path) -> None:
    async with provider(cloud, tmp_path) as one:
        (said,) = await one.validate("cloud_server", GIVEN | {"region": "moon"})
        assert said.error
        assert str(said) == "region: There is no region moon: Regions are eu and us."
        with pytest.raises(ValueFault, match=r"^disk\[0\]\.size: expected number, got \"big\"$"):
            await one.plan("cloud_server", State(None), GIVEN | {"disk": [{"label": "root", "size": "big"}]})
        with pytest.raises(ProviderError, match=r"^cloud has no resource cloud_moon$"):
            await one.plan("cloud_moon", State(None), {})
        with pytest.raises(ProviderError, match=r"^cloud_server 999: There is no cloud_server 999$"):
            await one.import_("cloud_server", "999")


async def test_half_a_resource_is_kept(cloud: Cloud, tmp_path: Path) -> None:
    async with provider(cloud, tmp_path) as one:
        given = GIVEN | {"name": "half"}
        plan = await one.plan("cloud_server", State(None), given)
        done = await one.apply("cloud_server", State(None), plan, given)
        assert [str(e) for e in done.errors] == ["name: The server was made, but not started"]
        assert done.state.value["id"] == cloud.all("servers")[0]["id"]


async def test_an_error_without_a_state_leaves_the_state_as_it_was(cloud: Cloud, tmp_path: Path) -> None:
    async with provider(cloud, tmp_path) as one:
        plan = await one.plan("cloud_server", State(None), GIVEN)
        cloud.faults = {"busy": 1}
        refused = await one.apply("cloud_server", State(None), plan, GIVEN)
        assert [str(e) for e in refused.errors] == ["429 busy"]
        assert refused.state.value is None
        made = await one.apply("cloud_server", State(None), plan, GIVEN)
        cloud.faults = {"broken": 1}
        with pytest.raises(ProviderError, match=r"^cloud_server: 500 broken$"):
            await one.read("cloud_server", made.state)
        changed = GIVEN | {"size": "large"}
        plan = await one.plan("cloud_server", made.state, changed)
        cloud.faults = {"broken": 1}
        refused = await one.apply("cloud_server", made.state, plan, changed)
        assert refused.errors
        assert refused.state == made.state


async def test_a_provider_that_ends_is_quoted(cloud: Cloud, tmp_path: Path) -> None:
    async with provider(cloud, tmp_path, "crash-apply") as one:
        plan = await one.plan("cloud_server", State(None), GIVEN)
        with pytest.raises(ProviderError) as raised:
            await one.apply("cloud_server", State(None), plan, GIVEN)
        await one.plugin.wait()
        assert str(raised.value).startswith("cloud ")
        assert one.plugin.epitaph() == "was ended by SIGKILL, saying 'panic: out of luck'"


async def test_a_provider_that_hangs_is_not_waited_for(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with provider(cloud, tmp_path, "hang-read") as one:
        made = await one.apply("cloud_server", State(None), await one.plan("cloud_server", State(None), GIVEN), GIVEN)
        monkeypatch.setattr(Provider._call, "__kwdefaults__", {"timeout_s": 1.0})
        with pytest.raises(ProviderError, match=r"^cloud did not answer to read within 1 s$"):
            await one.read("cloud_server", made.state)


async def test_a_provider_that_talks_nonsense_is_told_so(cloud: Cloud, tmp_path: Path) -> None:
    async with provider(cloud, tmp_path, "nonsense") as one:
        made = await one.apply("cloud_server", State(None), await one.plan("cloud_server", State(None), GIVEN), GIVEN)
        with pytest.raises(
            ProviderError, match=r"^cloud answers of cloud_server what does not fit its schema: expected object"
        ):
            await one.read("cloud_server", made.state)


@pytest.mark.parametrize(
    ("ending", "said"), [("exit 3", "ended with status 3"), ("echo hello; wait", "it greets with 'hello'")]
)
async def test_what_a_provider_started_ends_with_it(tmp_path: Path, ending: str, said: str) -> None:
    """Also when it ends by itself: then before its number can be another's."""
    program, started = tmp_path / "parent", tmp_path / "started"
    program.write_text(f"#!/bin/sh\nsleep 600 & echo $! > {started}; {ending}")
    program.chmod(0o755)
    with pytest.raises(LaunchError, match=f"^parent: {said}"):
        await Provider.start([str(program)], tmp_path)
    child = int(started.read_text())

    async def ended() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    async def state() -> str:
        return Path(f"/proc/{child}/stat").read_text()

    await eventually(ended, "what it started ends", state)


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("#!/bin/sh\necho hello; sleep 600", "bad: it greets with 'hello', which is no greeting of a Terraform provider"),
        ("#!/bin/sh\necho 'no such thing' >&2; exit 3", "bad: ended with status 3, saying 'no such thing', before it greeted: is it a Terraform provider?"),
        ("#!/bin/sh\necho '1|4|tcp|127.0.0.1:1|netrpc|'; sleep 600", "bad: it speaks protocol 4 over netrpc; 5 and 6 over grpc are known"),
        ("#!/bin/sh\necho '1|5|tcp|10.0.0.1:80|grpc|'; sleep 600", "bad: it listens on tcp '10.0.0.1:80', neither a unix socket nor loopback"),
        ("#!/bin/sh\necho '1|5|unix|/x|grpc|***'; sleep 600", "bad: the certificate in its greeting is not base64"),
        ("#!/bin/sh\nexec sleep 600", "bad: said nothing for 1 s after its start"),
        ("#!/nowhere\n", "bad: cannot be started: No such file or directory"),
        ("#!/bin/sh\nexec dd if=/dev/zero bs=1M count=8 status=none", "bad: greets with a line of more than 65536 bytes"),
    ],
)  # fmt: skip
async def test_what_is_no_provider_is_one_line(tmp_path: Path, program: str, text: str) -> None:
    path = tmp_path / "bad"
    path.write_text(program)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(LaunchError) as raised:
        await Provider.start([str(path)], tmp_path, timeout_s=1.0 if "nothing" in text else 60.0)
    assert str(raised.value).startswith(text)
    assert "\n" not in str(raised.value)
