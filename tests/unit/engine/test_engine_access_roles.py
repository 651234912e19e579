"""The presets of `trimtab token --role`: what components bring is shown and changed, but not what guards the cluster; the engine's own roles."""

from __future__ import annotations

from trimtab.api import JSON
from trimtab.components import apps, backups, node
from trimtab.components.infrastructure import COMPONENT as INFRASTRUCTURE
from trimtab.components.infrastructure.composition.grants import AGGREGATE
from trimtab.engine.access_roles import CONTROLLERS, presets, roles


def verbs_on(role: JSON, group: str, plural: str) -> set[str]:
    rules = [one for one in role["rules"] if group in one["apiGroups"] and plural in one["resources"]]
    return {verb for one in rules for verb in one["verbs"]}


def test_who_ships_changes_apps_and_no_image_policy() -> None:
    found = {one["metadata"]["name"]: one for one in presets([apps.COMPONENT, backups.COMPONENT, node.COMPONENT])}

    guard = ("policy.sigstore.dev", "clusterimagepolicies")
    assert verbs_on(found["trimtab:aggregate-to-view"], *guard) == {"get", "list", "watch"}
    for name in ("trimtab:aggregate-to-edit", "trimtab:aggregate-to-deploy"):
        assert verbs_on(found[name], *guard) == set()
        assert "create" in verbs_on(found[name], "trimtab.dev", "apps")


def test_the_controllers_come_to_no_more_by_themselves() -> None:
    made = {role["metadata"]["name"]: role for role in roles((INFRASTRUCTURE,)) if role["kind"] == "ClusterRole"}
    granting = {"escalate", "bind", "impersonate"}
    for role in made.values():
        assert not granting & {verb for rule in role["rules"] for verb in rule["verbs"]}
    held = made[CONTROLLERS]["rules"]
    for group, resource in (
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
    ):
        found = {verb for r in held if group in r["apiGroups"] and resource in r["resources"] for verb in r["verbs"]}
        assert found == {"get", "list", "watch"}
    composed = made["trimtab:compositions"]
    assert composed["rules"] == []
    (selector,) = composed["aggregationRule"]["clusterRoleSelectors"]
    assert selector == {"matchLabels": {AGGREGATE: "true"}}
