"""Who may do what with a definition's kind and with what its claims are composed of: given by an administrator, definition by definition.

    render, grant --roles--> ClusterRoles that an administrator applies --aggregated by labels--> trimtab:compositions (the controllers),
                                                                      trimtab:compositions:view (the dashboard), view, edit, admin
    the controllers --lacking--> may I? of every rule of theirs, before anything is published

The controllers write no role: whoever grants has to hold what is granted, which is Kubernetes' own rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import ClassVar

import msgspec

from trimtab.api import JSON, ObjectMeta, Resource, ResourceType
from trimtab.api.cluster import ClusterRole, CustomResourceDefinition, PolicyRule
from trimtab.client.wire import WireClient, encode
from trimtab.components.infrastructure.composition.kinds import CompositeDefinition, plural, plural_of

AGGREGATE = "trimtab.dev/aggregate-to-compositions"
"""On what the controllers are to hold; with `-view`, the dashboard."""
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
ASKED_AT_ONCE = 16
_PEOPLE = "rbac.authorization.k8s.io/aggregate-to-"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "update", "patch", "delete", "deletecollection"]
_CONTROL = ["get", "list", "watch", "patch", "update", "delete"]
_CHILDREN = ["get", "list", "watch", "create", "patch", "delete"]
_PUBLISH = ["create", "patch", "delete"]


class Grant(Resource, omit_defaults=True):
    """A ClusterRole that an administrator gave to the controllers for a definition."""

    resource_type: ClassVar[ResourceType] = ClusterRole.resource_type
    watched: ClassVar[str] = AGGREGATE
    rules: list[PolicyRule] = []


def role_name(definition: str) -> str:
    """Of the ClusterRole that lets the controllers do what a definition needs."""
    return f"trimtab:composition:{definition}"


def command(definition: str) -> str:
    """What gives it what it lacks."""
    return f"trimtab composition grant {definition} | kubectl apply -f -"


def control(made: CompositeDefinition) -> list[PolicyRule]:
    """What the controllers need: the definition's one CustomResourceDefinition, its claims, and what those are composed of."""
    own = plural(made.spec)
    group = made.spec.group
    parts: dict[str, set[str]] = {}
    for one in made.spec.composes:
        parts.setdefault(one.api_version.rpartition("/")[0], set()).add(plural_of(one))
    crd = CustomResourceDefinition.resource_type
    return [
        PolicyRule(api_groups=[crd.group], resources=[crd.plural], resource_names=[f"{own}.{group}"], verbs=_PUBLISH),
        PolicyRule(api_groups=[group], resources=[own], verbs=_CONTROL),
        PolicyRule(api_groups=[group], resources=[f"{own}/status"], verbs=["patch", "update"]),
        PolicyRule(api_groups=[group], resources=[f"{own}/finalizers"], verbs=["update"]),
        *(PolicyRule(api_groups=[one], resources=sorted(parts[one]), verbs=_CHILDREN) for one in sorted(parts)),
    ]


def roles(made: CompositeDefinition) -> list[ClusterRole]:
    """The roles that go with a definition: the controllers', and those of who views and edits claims."""
    name, group, own = role_name(made.name), made.spec.group, [plural(made.spec)]
    view, edit = (
        PolicyRule(api_groups=[group], resources=own, verbs=_READ),
        PolicyRule(api_groups=[group], resources=own, verbs=[*_READ, *_WRITE]),
    )
    return [
        ClusterRole(metadata=_labelled(name, [AGGREGATE]), rules=control(made)),
        ClusterRole(metadata=_labelled(f"{name}:view", [f"{AGGREGATE}-view", f"{_PEOPLE}view"]), rules=[view]),
        ClusterRole(metadata=_labelled(f"{name}:edit", [f"{_PEOPLE}edit", f"{_PEOPLE}admin"]), rules=[edit]),
    ]


def _labelled(name: str, labels: Iterable[str]) -> ObjectMeta:
    return ObjectMeta(name=name, labels=dict.fromkeys(labels, "true"))


async def lacking(wire: WireClient, made: CompositeDefinition) -> list[str]:
    """What whoever asks may not do of what a definition needs: `create servers.cloud.tf.trimtab.dev`, in order; empty when it has all."""
    at_once = asyncio.Semaphore(ASKED_AT_ONCE)

    async def refused(asked: Mapping[str, str]) -> str:
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        async with at_once:
            answer = await wire.send("POST", REVIEWS, {}, encode(body | {"spec": {"resourceAttributes": dict(asked)}}))
        status: JSON = msgspec.json.decode(answer.body).get("status") or {}
        return "" if status.get("allowed") else _told(asked)

    found = await asyncio.gather(*(refused(one) for rule in control(made) for one in _asked(rule)))
    return [one for one in found if one]


def _asked(rule: PolicyRule) -> Iterable[Mapping[str, str]]:
    """A rule as questions, each with its verb."""
    for name in rule.resource_names or [""]:
        for resource in rule.resources:
            place, _, part = resource.partition("/")
            for verb in rule.verbs:
                asked = {
                    "verb": verb,
                    "group": rule.api_groups[0],
                    "resource": place,
                    "subresource": part,
                    "name": name,
                }
                yield {key: value for key, value in asked.items() if value}


def _told(asked: Mapping[str, str]) -> str:
    part = f"/{asked['subresource']}" if "subresource" in asked else ""
    group = f".{asked['group']}" if "group" in asked else ""
    name = f" {asked['name']}" if "name" in asked else ""
    return f"{asked['verb']} {asked['resource']}{part}{group}{name}"
