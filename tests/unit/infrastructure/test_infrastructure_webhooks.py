"""What a foreign API server is told to ask us about, and how much it hands on of what we say."""

from __future__ import annotations

from trimtab.api import ObjectMeta
from trimtab.components.infrastructure.kinds import Provider, ProviderSpec
from trimtab.components.infrastructure.questions.webhooks import CUT, configuration, rules, within_limits


def provider(name: str, *kinds: str) -> Provider:
    return Provider(metadata=ObjectMeta(name=name), spec=ProviderSpec(source=f"x/{name}", kinds=list(kinds)))


def test_it_is_asked_about_enabled_kinds_alone() -> None:
    found = rules([provider("linode"), provider("cloud", "cloud_server", "cloud_network")])

    assert [(one["apiGroups"], one["resources"]) for one in found] == [
        (["cloud.tf.trimtab.dev"], ["networks", "servers"])
    ]
    assert rules([provider("linode")]) == []


def test_a_write_waits_for_nobody_who_does_not_answer() -> None:
    made = configuration(rules([provider("cloud", "cloud_server")]), "https://10.0.0.1:9443/key", "PEM")

    hooks = {hook["name"].partition(".")[0]: hook for hook in made["webhooks"]}
    assert {(h["failurePolicy"], h["sideEffects"], h["matchPolicy"]) for h in hooks.values()} == {
        ("Ignore", "None", "Equivalent")
    }
    assert {name: (h["clientConfig"]["url"], h["timeoutSeconds"]) for name, h in hooks.items()} == {
        "takes": ("https://10.0.0.1:9443/key/takes", 5),
        "plans": ("https://10.0.0.1:9443/key/plans", 30),
        "reached": ("https://10.0.0.1:9443/key/reached", 5),
    }
    assert hooks["takes"]["rules"][0]["operations"] == ["CREATE", "UPDATE", "DELETE"]
    assert hooks["plans"]["rules"][0]["operations"] == ["CREATE", "UPDATE"]


def test_warnings_keep_to_what_an_api_server_hands_on() -> None:
    short = {"allowed": True, "warnings": ["one", "two"]}
    assert within_limits(short) == short
    assert within_limits({"allowed": True}) == {"allowed": True}

    long = within_limits({"allowed": True, "warnings": ["ä" * 300, *(f"{n:250d}" for n in range(40))]})["warnings"]

    assert long[0] == "ä" * 255 + "…"
    assert long[-1] == CUT
    assert all(len(one) <= 256 for one in long)
    assert 3500 < sum(len(one.encode()) for one in long) <= 4096
