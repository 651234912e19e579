"""A small component with everything that the runtime offers: owned objects, effects, status, and the classical bugs to switch on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import field

from trimtab.api import JSON, Condition, Model, ObjectMeta, Ref, Resource, resource
from trimtab.api.core import ConfigMap, Secret
from trimtab.api.networking import Ingress
from trimtab.runtime import Component, Context, Desired, FieldWrite, Owned, Writes, reconciler
from trimtab.runtime.component import Outcome
from trimtab.runtime.contract import Scenario, Stage


class SiteSpec(Model):
    pages: list[str] = []
    color: str = "white"


class SiteStatus(Model):
    pages: int = 0
    address: str = ""
    conditions: list[Condition] = []


@resource("sample.trimtab.dev/v1", "sites")
class Site(Resource):
    """A site with pages."""

    spec: SiteSpec = field(default_factory=SiteSpec)
    status: SiteStatus = field(default_factory=SiteStatus)


class Zone(Protocol):
    """Names registered with somebody outside."""

    async def find(self, owner: str) -> JSON | None: ...
    async def register(self, owner: str) -> JSON: ...
    async def remove(self, address: str) -> None: ...


def carry(before: Mapping[type, Any], fresh: Mapping[type, Any]) -> None:
    """The zone is somebody else's: it is still there when our machine is not."""
    fresh[Zone].registered |= before[Zone].registered
    fresh[Zone].count = before[Zone].count


class FakeZone:
    """Hands out an address for every registration, whoever asks, as often as asked."""

    def __init__(self) -> None:
        self.registered: dict[str, str] = {}
        self.count = 0

    async def find(self, owner: str) -> JSON | None:
        return next(({"address": a} for a, o in self.registered.items() if o == owner), None)

    async def register(self, owner: str) -> JSON:
        self.count += 1
        address = f"address-{self.count}"
        self.registered[address] = owner
        return {"address": address}

    async def remove(self, address: str) -> None:
        self.registered.pop(address, None)


def page(site: Site, name: str, color: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=f"{site.name}-{name}"), data={"page": name, "color": color})


def component(bug: str = "") -> Component:
    """The component, with one `bug`: "undeclared read", "undeclared field", "blind effect", "forgotten effect", "flip-flop",
    "lazy undo", "mutation", "restless", "undocumented reason", "memory", "chance"."""
    remembered: dict[str, str] = {}

    @reconciler(Site, owns=[Owned(ConfigMap)], writes=[Writes(Secret, ("data.a",))], effects=True)
    async def publish(site: Site, ctx: Context) -> Outcome:
        zone = ctx.adapter(Zone)
        owner = site.metadata.uid

        async def find() -> Any:
            return None if bug == "blind effect" else await zone.find(owner)

        async def undo(outcome: Any) -> None:
            if bug != "lazy undo":
                await zone.remove(outcome["address"])

        if bug == "forgotten effect" and ctx.deleting:
            return Desired()
        outcome = await ctx.effect("register", find=find, do=lambda: zone.register(owner), undo=undo)
        if ctx.deleting:
            return Desired()
        if bug == "undeclared read":
            await ctx.get(Ingress, "some")
        if bug == "mutation":
            site.spec.pages.append("extra")
        if bug == "undeclared field":
            target = Ref("v1", "Secret", "default", "others")
            return Desired(writes=[FieldWrite(target, {"data": {"a": "MQ==", "b": "Mg=="}})])
        color = site.spec.color
        if bug == "flip-flop":
            pages = await ctx.owned(ConfigMap)
            color = "black" if any(p.data.get("color") == "white" for p in pages) else "white"
        if bug == "memory":
            color = remembered.setdefault(owner, color)
        if bug == "chance":
            await asyncio.sleep(random.random())
        if bug == "restless":
            color = str(ctx.now.timestamp())
        reason = "Registered" if site.spec.pages else "NoPages"
        if bug == "undocumented reason":
            reason = "Mystery"
        return Desired(
            objects=[page(site, name, color) for name in site.spec.pages],
            status={
                "pages": len(site.spec.pages),
                "address": outcome["address"],
                "conditions": [{"type": "Ready", "status": "True", "reason": reason, "message": "all there"}],
            },
            requeue_after_s=5.0 if bug == "restless" else None,
        )

    return Component(
        name="sample",
        summary="Sites",
        kinds=(Site,),
        reconcilers=(publish,),
        conditions={"Registered": "The name is registered.", "NoPages": "The Site lists no pages."},
    )


def site(name: str = "one", pages: tuple[str, ...] = ("index", "about"), color: str = "white") -> Site:
    return Site(metadata=ObjectMeta(name=name, namespace="default"), spec=SiteSpec(pages=list(pages), color=color))


async def repaint(stage: Stage) -> None:
    await stage.apply(site(pages=("index", "news"), color="green"))


async def goal(stage: Stage) -> str | None:
    found = await stage.get(Site, "one")
    if found is None or found.status.pages != 2 or not found.status.address:
        return "the site has no address or page count"
    pages = sorted(p.name for p in await stage.list(ConfigMap, "default") if p.name.startswith("one-"))
    if pages != ["one-index", "one-news"]:
        return f"pages are {pages}"
    zone = stage.adapter(Zone)
    assert isinstance(zone, FakeZone)
    if len(zone.registered) != 1:
        return f"{len(zone.registered)} names are registered instead of one"
    return None


def leaks(stage: Stage) -> list[str]:
    zone = stage.adapter(Zone)
    assert isinstance(zone, FakeZone)
    return sorted(zone.registered)


SCENARIO = Scenario(
    name="publish",
    objects=[site()],
    steps=[repaint],
    goal=goal,
    adapters=lambda clock: {Zone: FakeZone()},
    carry=carry,
    leaks=leaks,
    aliases=lambda obj: None,
)
