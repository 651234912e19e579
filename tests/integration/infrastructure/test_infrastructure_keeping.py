"""A resource kept true against a cloud with faults: made, changed, drifted, gone, made anew, deleted; and killed at every step."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import cloud_provider
from cloud import Cloud
from trimtab.components.infrastructure.loop import finding, keeping
from trimtab.components.infrastructure.loop.finding import Finder, ids_in
from trimtab.components.infrastructure.loop.keeping import Failed, Keeper
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.loop.permission import Policy, gate
from trimtab.components.infrastructure.protocol.provider import Provider, ProviderError, State
from trimtab.components.infrastructure.protocol.schema import Attribute, Block
from trimtab.components.infrastructure.protocol.types import NUMBER, STRING, list_of, object_of, set_of

NAMED = "servers.cloud.tf.trimtab.dev web -n default"
GIVEN = {"name": "web", "region": "eu", "password": "hush", "disk": [{"label": "root", "size": 20}]}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


@pytest.fixture(params=["5", "6"])
async def keeper(request: pytest.FixtureRequest, cloud: Cloud, tmp_path: Path) -> AsyncIterator[Keeper]:
    async with running(cloud, tmp_path, request.param) as one:
        yield one


@asynccontextmanager
async def running(
    cloud: Cloud, tmp_path: Path, *arguments: str, kind: str = "cloud_server", finds: bool = False
) -> AsyncIterator[Keeper]:
    command = [sys.executable, cloud_provider.__file__, *arguments]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    provider = await Provider.start(command, tmp_path, environment=environment, name="cloud", timeout_s=120)
    try:
        await provider.configure({"url": cloud.url, "token": "secret"})
        schema = await provider.schema()
        finder = Finder(provider, schema, kind) if finds else None
        yield Keeper(provider, kind, schema.resources[kind], finder, schema.identities.get(kind))
    finally:
        await provider.close()


class Memory:
    """What was saved, as bytes, and every one of them."""

    def __init__(self) -> None:
        self.saved: list[bytes] = [Kept.fresh().encode()]

    async def save(self, kept: Kept) -> None:
        self.saved.append(kept.encode())

    @property
    def kept(self) -> Kept:
        return Kept.decode(self.saved[-1])


async def once(keeper: Keeper, memory: Memory, given: Any, policy: Policy | None = None) -> str:
    """One round; what was done, or why not."""
    look = await keeper.look(memory.kept, given)
    verdict = gate(look, policy or Policy(), "", NAMED)
    if not verdict.go:
        return verdict.reason
    await keeper.carry_out(memory.kept, look, memory.save)
    return look.action


async def test_the_life_of_a_server(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    assert await once(keeper, memory, GIVEN) == "create"
    (server,) = cloud.all("servers")
    for _ in range(20):
        assert await once(keeper, memory, GIVEN) == "none"

    cloud.change("servers", server["id"], tags={"by": "hand"}, name="hacked")
    look = await keeper.look(memory.kept, GIVEN)
    assert [(c.path, c.before, c.after, c.cause) for c in look.lines] == [
        ("name", "hacked", "web", "drift"),
        ("tags", {"by": "hand"}, None, "drift"),
    ]
    assert await once(keeper, memory, GIVEN) == "update"
    assert cloud.all("servers")[0]["name"] == "web"

    assert await once(keeper, memory, GIVEN | {"size": "large"}) == "update"
    look = await keeper.look(memory.kept, GIVEN | {"size": "large", "password": "other"})
    assert [(c.path, c.before, c.after, c.cause) for c in look.lines] == [
        ("password", "(sensitive)", "(sensitive)", "spec")
    ]

    cloud.remove("servers", server["id"])
    look = await keeper.look(memory.kept, GIVEN)
    assert (look.action, look.gone) == ("create", True)
    assert await once(keeper, memory, GIVEN) == "create"
    assert cloud.all("servers")[0]["id"] != server["id"]

    assert await once(keeper, memory, None) == "delete"
    assert cloud.all("servers") == []
    assert await once(keeper, memory, None) == "none"
    assert memory.kept.state is None


async def test_what_is_made_anew_is_asked_for(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    await once(keeper, memory, GIVEN)
    moved = GIVEN | {"region": "us"}
    look = await keeper.look(memory.kept, moved)
    assert look.action == "replace"
    assert [c.path for c in look.lines if c.replaces] == ["region"]
    denied = gate(look, Policy(), "", NAMED)
    assert denied.reason == "ReplaceDenied"
    assert denied.message == "a change of region would delete it and make it anew; spec.policy.replace is deny"
    asked = gate(look, Policy(replace="approve"), "", NAMED)
    assert asked.reason == "ApprovalNeeded"
    assert look.digest in asked.message
    assert not gate(look, Policy(replace="approve"), "hmac-sha256:of-another-plan", NAMED).go
    assert gate(look, Policy(replace="approve"), look.digest, NAMED).go
    before = cloud.all("servers")[0]["id"]
    await keeper.carry_out(memory.kept, look, memory.save)
    (after,) = cloud.all("servers")
    assert (after["region"], after["id"] != before) == ("us", True)
    assert await once(keeper, memory, moved) == "none"


async def test_policies(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    assert await once(keeper, memory, GIVEN, Policy(apply="never")) == "ApplyNever"
    assert await once(keeper, memory, GIVEN, Policy(apply="onApproval")) == "ApprovalNeeded"
    assert cloud.all("servers") == []
    await once(keeper, memory, GIVEN)
    assert await once(keeper, memory, None, Policy(delete="deny")) == "DeleteDenied"
    assert len(cloud.all("servers")) == 1


async def test_half_a_server_is_made_anew(keeper: Keeper, cloud: Cloud) -> None:
    memory, half = Memory(), GIVEN | {"name": "half"}
    with pytest.raises(Failed, match=r"^name: The server was made, but not started$"):
        await once(keeper, memory, half)
    assert memory.kept.tainted
    assert len(cloud.all("servers")) == 1
    assert await once(keeper, memory, GIVEN) == "replace"
    assert [one["name"] for one in cloud.all("servers")] == ["web"]
    assert not memory.kept.tainted


async def test_what_the_cloud_refuses_changes_nothing(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    cloud.faults = {"busy": 1}
    with pytest.raises(Failed, match=r"^429 busy$"):
        await once(keeper, memory, GIVEN)
    assert memory.kept.state is None
    assert await once(keeper, memory, GIVEN) == "create"
    cloud.faults = {"broken": 1}
    with pytest.raises(ProviderError, match="500 broken"):
        await once(keeper, memory, GIVEN)
    assert await once(keeper, memory, GIVEN) == "none"
    look = await keeper.look(memory.kept, None)
    cloud.faults = {"broken": 1}
    with pytest.raises(Failed, match="500 broken"):
        await keeper.carry_out(memory.kept, look, memory.save)
    assert memory.kept.state is not None
    assert await once(keeper, memory, None) == "delete"


async def test_a_deletion_that_the_cloud_only_says_it_did_is_done_again(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    await once(keeper, memory, GIVEN)
    (there,) = cloud.all("servers")
    reads: list[State] = []

    async def after(state: State) -> State:
        reads.append(await keeper._provider.read("cloud_server", state))
        return reads[-1]

    async def ended() -> None:
        await keeper.carry_out(memory.kept, await keeper.look(memory.kept, None), memory.save, after=after)

    cloud.faults = {"kept": 1}
    with pytest.raises(Failed, match=r"^the provider says that it deleted it, and it is there still: it is looked at"):
        await ended()
    assert (memory.kept.pending, memory.kept.state["id"]) == ("delete", there["id"])
    await ended()
    assert cloud.all("servers") == []
    assert memory.kept.state is None
    assert [one.value is None for one in reads] == [False, True]


async def test_a_cloud_that_shows_for_long_what_is_gone_is_believed_in_the_end(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    await once(keeper, memory, GIVEN)
    cloud.faults = {"kept": 100}

    async def after(state: State) -> State:
        return state

    for _ in range(keeping.DISBELIEVED_MAX):
        look = await keeper.look(memory.kept, None)
        with pytest.raises(Failed, match="it is there still"):
            await keeper.carry_out(memory.kept, look, memory.save, after=after)
    await keeper.carry_out(memory.kept, await keeper.look(memory.kept, None), memory.save, after=after)
    assert memory.kept.state is None


async def test_what_reads_as_gone_and_is_there_when_it_is_made_anew_is_not_forgotten(
    cloud: Cloud, tmp_path: Path
) -> None:
    """As of a bucket that a credential may not look at: some providers take that for gone."""
    memory = Memory()
    async with running(cloud, tmp_path, "5", kind="cloud_bucket") as keeper:
        assert await once(keeper, memory, {"name": "logs"}) == "create"
        kept = memory.kept
        cloud.faults = {"gone": 1}
        with pytest.raises(Failed, match="there is a bucket logs already"):
            await once(keeper, memory, {"name": "logs"})
        assert (memory.kept.state, memory.kept.refused) == (kept.state, True), "what policy.adopt names is taken for it"
        assert await once(keeper, memory, {"name": "logs"}) == "none"


async def test_what_is_ignored_may_drift(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    await once(keeper, memory, GIVEN)
    cloud.change("servers", cloud.all("servers")[0]["id"], disk=[{"label": "root", "size": 99}], name="theirs")
    look = await keeper.look(memory.kept, GIVEN, ignored=["disk[*].size"])
    assert [c.path for c in look.lines] == ["name"]
    await keeper.carry_out(memory.kept, look, memory.save)
    assert cloud.all("servers")[0]["disk"][0]["size"] == 99


async def test_before_anything_is_done_it_is_written_down(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    await once(keeper, memory, GIVEN)
    begun, done = (Kept.decode(raw) for raw in memory.saved[1:])
    assert (begun.pending, begun.state, done.pending) == ("create", None, "")
    await once(keeper, memory, None)
    begun, done = (Kept.decode(raw) for raw in memory.saved[3:])
    assert (begun.pending, begun.state is not None, done.state) == ("delete", True, None)


async def test_a_state_of_an_older_schema_is_upgraded(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    await once(keeper, memory, GIVEN)
    state = dict(memory.kept.state)
    state["title"] = state.pop("name")
    older = Kept(state=state, version=0, key=memory.kept.key)
    look = await keeper.look(older, GIVEN)
    assert look.action == "none"


async def test_a_state_whose_types_changed_without_another_version_is_upgraded(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    await once(keeper, memory, GIVEN)
    kept = memory.kept
    numbers = {**kept.state, "title": kept.state["name"], "name": ["no", "text"]}
    look = await keeper.look(Kept(state=numbers, version=kept.version, key=kept.key), GIVEN)
    assert look.action == "none"


async def test_an_identity_of_an_older_provider_is_upgraded(cloud: Cloud, tmp_path: Path) -> None:
    memory = Memory()
    async with running(cloud, tmp_path, "6") as keeper:
        await once(keeper, memory, GIVEN)
    assert (set(memory.kept.identity), memory.kept.identity_version) == ({"id"}, 1)
    async with running(cloud, tmp_path, "6", "identity-2") as keeper:
        look = await keeper.look(memory.kept, GIVEN)
        assert look.action == "none"
        newer = keeper.keep(memory.kept, look.live)
    assert (set(newer.identity), newer.identity_version) == ({"uid"}, 2)
    async with running(cloud, tmp_path, "6") as keeper:  # and back: it is told anew
        assert (await keeper.look(newer, GIVEN)).live.identity == memory.kept.identity


async def test_what_a_provider_tells_that_it_must_not_is_not_kept_or_said(cloud: Cloud, tmp_path: Path) -> None:
    memory = Memory()
    async with running(cloud, tmp_path, "6", "pins", "tells-pins") as keeper:
        await once(keeper, memory, GIVEN | {"pin": "4711"})
        assert not any(b"4711" in raw for raw in memory.saved)
        assert (await keeper.look(memory.kept, GIVEN | {"pin": "4711"})).action == "none"
    async with running(cloud, tmp_path, "6", "odd-passwords") as keeper:
        with pytest.raises(ProviderError) as said:
            await keeper.look(memory.kept, GIVEN)
    assert "hush" not in str(said.value)
    assert str(said.value).endswith("what does not fit its schema: password: is of another type")


async def test_only_a_kept_state_is_read(keeper: Keeper) -> None:
    with pytest.raises(ValueError, match=r"^the kept state cannot be read: "):
        Kept.decode(b"{")


async def test_what_a_provider_leaves_unknown_is_said_and_nothing_is_lost(cloud: Cloud, tmp_path: Path) -> None:
    memory = Memory()
    async with running(cloud, tmp_path, "6", "vague") as keeper:
        with pytest.raises(Failed, match=r"^the provider applied it and left unknown: size$"):
            await once(keeper, memory, GIVEN)
    assert memory.kept.state["id"] == cloud.all("servers")[0]["id"]


async def test_a_provider_whose_plans_never_end_is_known_by_the_next_plan(cloud: Cloud, tmp_path: Path) -> None:
    memory = Memory()
    async with running(cloud, tmp_path, "6", "restless") as keeper:
        assert await once(keeper, memory, GIVEN) == "create"
        assert (await keeper.look(memory.kept, GIVEN)).action == "update"


async def test_what_is_only_written_is_nowhere_and_sent_again_when_it_changes(cloud: Cloud, tmp_path: Path) -> None:
    async with running(cloud, tmp_path, "6", "pins") as keeper:
        memory = Memory()
        first = await keeper.look(memory.kept, GIVEN | {"pin": "1234"})
        assert [(c.before, c.after, c.cause) for c in first.lines if c.path == "pin"] == [(None, "(sensitive)", "spec")]
        assert await once(keeper, memory, GIVEN | {"pin": "1234"}) == "create"
        assert cloud.all("servers")[0]["pin"] == "1234"
        assert await once(keeper, memory, GIVEN | {"pin": "1234"}) == "none"

        look = await keeper.look(memory.kept, GIVEN | {"pin": "5678"})
        assert (look.action, [(c.path, c.before, c.after, c.cause) for c in look.lines]) == (
            "update",
            [("pin", "(sensitive)", "(sensitive)", "spec")],
        )
        assert look.digest != (await keeper.look(memory.kept, GIVEN | {"pin": "9999"})).digest
        assert await once(keeper, memory, GIVEN | {"pin": "5678"}) == "update"
        assert cloud.all("servers")[0]["pin"] == "5678"
        assert await once(keeper, memory, GIVEN | {"pin": "5678"}) == "none"
        assert await once(keeper, memory, GIVEN) == "none"
        assert not any(b"1234" in raw or b"5678" in raw for raw in memory.saved)


@pytest.mark.parametrize("left_alone", ["initial", "ignored"])
async def test_what_is_only_written_when_it_is_made_is_not_missed_afterwards(
    cloud: Cloud, tmp_path: Path, left_alone: str
) -> None:
    given = GIVEN | {"pin": "1234", "puk": "8888"}
    async with running(cloud, tmp_path, "6", "pins", "puks") as keeper:
        memory = Memory()
        alone: dict[str, Any] = {left_alone: ["puk"]}
        look = await keeper.look(memory.kept, given, **alone)
        assert {c.path for c in look.lines} >= {"pin", "puk"}
        await keeper.carry_out(memory.kept, look, memory.save)
        assert (await keeper.look(memory.kept, given, **alone)).action == "none"
        assert (await keeper.look(memory.kept, given | {"puk": "9999"}, **alone)).action == "none"
        assert (await keeper.look(memory.kept, given | {"pin": "5678"}, **alone)).action == "update"


async def test_what_a_provider_cannot_plan_yet_waits(cloud: Cloud, tmp_path: Path) -> None:
    async with running(cloud, tmp_path, "6", "defers") as keeper:
        memory = Memory()
        look = await keeper.look(memory.kept, GIVEN)
        verdict = gate(look, Policy(), "", NAMED)
        assert (verdict.go, verdict.reason) == (False, "Deferred")
        assert verdict.message == "nothing can be planned yet: something it needs is not there yet"
        cloud.serve("POST", "/networks", "Bearer secret", {"name": "main"})
        assert await once(keeper, memory, GIVEN) == "create"


async def test_a_plan_that_does_not_keep_what_is_given_is_refused_in_one_line(cloud: Cloud, tmp_path: Path) -> None:
    told = "cloud_server: the provider produced an invalid plan, which is a bug of its: region: given is 'eu', planned is 'mars'"
    async with running(cloud, tmp_path, "6", "twisted") as keeper:
        with pytest.raises(ProviderError) as err:
            await once(keeper, Memory(), GIVEN)
    assert str(err.value) == told
    assert cloud.all("servers") == []


async def test_nothing_and_what_is_empty_are_one_to_the_older_sdk(cloud: Cloud, tmp_path: Path) -> None:
    memory = Memory()
    async with running(cloud, tmp_path, "5", "legacy") as keeper:
        assert await once(keeper, memory, GIVEN) == "create"
        for _ in range(100):
            look = await keeper.look(memory.kept, GIVEN)
            assert (look.action, look.drifted) == ("none", ())
        assert look.live.value["network"] == ""
        cloud.change("servers", cloud.all("servers")[0]["id"], network="7")
        look = await keeper.look(memory.kept, GIVEN)
        assert [(c.path, c.cause) for c in look.lines] == [("network", "drift")]


# What was made and whose answer never came


@asynccontextmanager
async def clusters(cloud: Cloud, tmp_path: Path) -> AsyncIterator[Keeper]:
    """Of these the provider has a data source that gives all of them, and no other way to look."""
    async with running(cloud, tmp_path, "6", "plural", kind="cloud_cluster", finds=True) as keeper:
        yield keeper


async def _unheard(keeper: Keeper, cloud: Cloud) -> Memory:
    """What is remembered when the cloud did not say whether it made a cluster."""
    memory = Memory()
    look = await keeper.look(memory.kept, {"name": "prod"})
    cloud.faults = {"lost": 1}
    with pytest.raises(Failed):
        await keeper.carry_out(memory.kept, look, memory.save, now=1000.0)
    return memory


async def test_what_a_data_source_of_all_lists_is_found_after_a_lost_answer(cloud: Cloud, tmp_path: Path) -> None:
    cloud.serve("POST", "/clusters", "Bearer secret", {"name": "prod"})
    cloud.serve("POST", "/clusters", "Bearer secret", {"name": "other"})
    async with clusters(cloud, tmp_path) as keeper:
        memory = await _unheard(keeper, cloud)
        assert memory.kept.pending == "create"
        found = await keeper.recover(memory.kept, "uid", 1001.0)
        assert (found.outcome, found.names) == ("found", ("103",))
        assert found.kept is not None
        assert (found.kept.pending, found.kept.state["id"], found.kept.state["name"]) == ("", "103", "prod")

        cloud.serve("POST", "/clusters", "Bearer secret", {"name": "prod"})
        found = await keeper.recover(memory.kept, "uid", 1001.0)
        assert (found.outcome, found.names) == ("unknown", ("103", "104"))


async def test_what_has_its_name_as_its_id_is_found_by_it_and_by_nothing_else(cloud: Cloud, tmp_path: Path) -> None:
    """Of a kind that the provider has no way to look for: that nothing has the name says nothing, for ids may be others."""
    given = {"name": "web", "size": "big"}
    async with running(cloud, tmp_path, "6", "coy", kind="cloud_bucket", finds=True) as keeper:
        memory = Memory()
        look = await keeper.look(memory.kept, given)
        cloud.faults = {"lost": 1}
        with pytest.raises(Failed):
            await keeper.carry_out(memory.kept, look, memory.save, now=1000.0)
        attempt = memory.kept.attempt
        assert attempt is not None
        assert (attempt.expected, attempt.before, attempt.name) == ("", None, "web")
        found = await keeper.recover(memory.kept, "uid", 1001.0)
        assert (found.outcome, found.names) == ("found", ("web",))
        assert found.kept is not None
        assert (found.kept.pending, found.kept.state) == ("", {"id": "web", "name": "web", "size": "big"})

        cloud.change("buckets", "web", size="small")
        early = await keeper.recover(memory.kept, "uid", 1001.0)
        assert early.outcome == "early"
        assert early.kept is not None
        assert (await keeper.recover(early.kept, "uid", 1001.0 + keeping.SETTLE_S)).outcome == "unknown"

        # What was there before is nobody's of ours.
        other = Memory()
        look = await keeper.look(other.kept, given)
        with pytest.raises(Failed, match="409"):
            await keeper.carry_out(other.kept, look, other.save, now=1000.0)
        assert other.kept.pending == ""
        begun = Kept.decode(other.saved[1]).attempt
        assert begun is not None
        assert (begun.before, begun.name) == (None, "")


async def test_what_another_keeps_is_not_what_was_made_unheard(cloud: Cloud, tmp_path: Path) -> None:
    async with clusters(cloud, tmp_path) as keeper:
        memory = await _unheard(keeper, cloud)
        cloud.serve("POST", "/clusters", "Bearer secret", {"name": "prod"})
        taken = {"101"}

        async def another_keeps(key: str) -> bool:
            return key in taken

        found = await keeper.recover(memory.kept, "uid", 1001.0, another_keeps)
        assert (found.outcome, found.names) == ("found", ("102",))
        taken.add("102")
        assert (await keeper.recover(memory.kept, "uid", 1001.0, another_keeps)).outcome == "early"


async def test_what_is_not_found_is_waited_for_from_the_first_look_on(cloud: Cloud, tmp_path: Path) -> None:
    async with clusters(cloud, tmp_path) as keeper:
        memory = await _unheard(keeper, cloud)
        cloud.remove("clusters", "101")  # it is not shown yet
        hour = 1000.0 + 3600.0
        early = await keeper.recover(memory.kept, "uid", hour)
        assert early.outcome == "early"
        assert early.kept is not None
        again = await keeper.recover(early.kept, "uid", hour + keeping.SETTLE_S - 1)
        assert (again.outcome, again.kept) == ("early", early.kept)
        nothing = await keeper.recover(early.kept, "uid", hour + keeping.SETTLE_S)
        assert nothing.outcome == "nothing"
        assert nothing.kept is not None
        assert (nothing.kept.pending, nothing.kept.attempt) == ("", None)


async def test_a_clock_that_was_set_back_holds_up_nothing_for_as_long(cloud: Cloud, tmp_path: Path) -> None:
    day = 86400.0
    async with clusters(cloud, tmp_path) as keeper:
        memory = await _unheard(keeper, cloud)
        cloud.remove("clusters", "101")
        early = await keeper.recover(memory.kept, "uid", 1000.0 + day)
        assert early.kept is not None
        # The clock says less than it did when nothing was found: the time begins anew, and is no longer than ever.
        back = early.kept.as_of(1000.0)
        assert (await keeper.recover(back, "uid", 1000.0 + keeping.SETTLE_S - 1)).outcome == "early"
        assert (await keeper.recover(back, "uid", 1000.0 + keeping.SETTLE_S)).outcome == "nothing"


async def test_what_is_gone_is_not_taken_for_unseen_because_a_clock_was_set_back(keeper: Keeper, cloud: Cloud) -> None:
    memory = Memory()
    look = await keeper.look(memory.kept, GIVEN)
    await keeper.carry_out(memory.kept, look, memory.save, now=90000.0)
    cloud.remove("servers", cloud.all("servers")[0]["id"])
    assert (await keeper.look(memory.kept, GIVEN, now=90001.0)).unseen

    set_back = memory.kept.as_of(1000.0)
    assert (await keeper.look(set_back, GIVEN, now=1000.0 + keeping.UNSEEN_S - 1)).unseen
    look = await keeper.look(set_back, GIVEN, now=1000.0 + keeping.UNSEEN_S)
    assert (look.action, look.gone, look.unseen) == ("create", True, False)


async def test_a_list_that_may_be_one_page_of_many_says_nothing(cloud: Cloud, tmp_path: Path) -> None:
    for n in range(20):
        cloud.serve("POST", "/clusters", "Bearer secret", {"name": f"other-{n}"})
    async with clusters(cloud, tmp_path) as keeper:
        memory = await _unheard(keeper, cloud)
        assert memory.kept.attempt is not None
        assert memory.kept.attempt.before is None
        early = await keeper.recover(memory.kept, "uid", 1001.0)
        assert early.kept is not None
        assert (await keeper.recover(early.kept, "uid", 1001.0 + keeping.SETTLE_S)).outcome == "unknown"


async def test_a_data_source_that_waits_for_what_is_not_there_holds_up_no_creation(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AWS's of IAM policies, which waits two minutes: longer than an answer is waited for. What was there before, nobody knows then."""
    monkeypatch.setattr(finding, "HURRIED_S", 0.2)
    async with running(cloud, tmp_path, "5", "lingers", kind="cloud_network", finds=True) as keeper:
        memory = Memory()
        look = await keeper.look(memory.kept, {"name": "main"})
        cloud.faults = {"lost": 1}
        with pytest.raises(Failed):
            await keeper.carry_out(memory.kept, look, memory.save, now=1000.0)
        assert len(cloud.all("networks")) == 1
        assert memory.kept.attempt is not None
        assert memory.kept.attempt.before is None
        early = await keeper.recover(memory.kept, "uid", 1001.0)
        assert early.kept is not None
        assert (await keeper.recover(early.kept, "uid", 1001.0 + keeping.SETTLE_S)).outcome == "unknown"


def test_the_field_of_a_data_source_that_has_all_ids() -> None:
    rows = Attribute(type=list_of(object_of({"id": STRING, "label": STRING})), computed=True)
    numbered = Attribute(type=set_of(object_of({"id": NUMBER})), computed=True)
    nameless = Attribute(type=list_of(object_of({"label": STRING})), computed=True)
    ids = Attribute(type=list_of(STRING), computed=True)
    given = Attribute(type=list_of(STRING), optional=True)
    assert ids_in(Block({"clusters": rows, "other": nameless})) == "clusters"
    assert ids_in(Block({"clusters": numbered, "ids": ids})) == "clusters"
    assert ids_in(Block({"ids": ids, "names": ids})) == "ids"
    assert ids_in(Block({"a": rows, "b": rows})) is None
    assert ids_in(Block({"a": rows, "b": rows, "ids": ids})) is None
    assert ids_in(Block({"ids": given})) is None
    assert ids_in(Block({"other": nameless})) is None
