"""The presets of `trimtab token --role`: what components bring is shown and changed, but not what guards the cluster."""

from __future__ import annotations

from trimtab.api import JSON
from trimtab.components import apps, backups, node
from trimtab.engine.access_roles import presets


def verbs_on(role: JSON, group: str, plural: str) -> set[str]:
    rules = [one for one in role["rules"] if group in one["apiGroups"] and plural in one["resources"]]
    return {verb for one in rules for verb in one["verbs"]}


def test_who_ships_changes_apps_and_no_image_policy() -> None:
    roles = {one["metadata"]["name"]: one for one in presets([apps.COMPONENT, backups.COMPONENT, node.COMPONENT])}

    guard = ("policy.sigstore.dev", "clusterimagepolicies")
    assert verbs_on(roles["trimtab:aggregate-to-view"], *guard) == {"get", "list", "watch"}
    for name in ("trimtab:aggregate-to-edit", "trimtab:aggregate-to-deploy"):
        assert verbs_on(roles[name], *guard) == set()
        assert "create" in verbs_on(roles[name], "trimtab.dev", "apps")
