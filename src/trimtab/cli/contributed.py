"""The commands that components contribute: name -> (target, help).

What `Component.commands` declares, written down once more so that help and completion need not import every component;
a test holds the two together.
"""

CONTRIBUTED: dict[str, tuple[str, str]] = {
    "up": ("trimtab.components.apps.up:up", "Ship the app in a directory and keep it up."),
    "remote": ("trimtab.components.pipelines.remote:remote", "Let git push to a Pipeline of the engine."),
    "profile": ("trimtab.components.profiling.commands:profile", "What every process spends its time on."),
    "provider": (
        "trimtab.components.infrastructure.commands.provider:provider",
        "Terraform providers, whose resources become kinds.",
    ),
    "composition": (
        "trimtab.components.infrastructure.composition.commands:composition",
        "APIs of your own, each from one Python function.",
    ),
}
