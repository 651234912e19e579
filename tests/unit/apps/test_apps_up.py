"""What `trimtab up` says while it works, off a terminal."""

from __future__ import annotations

import pytest

from trimtab.components.apps import up
from trimtab.components.apps.shipping import Step


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that `up` reads from its clock."""
    clock = [100.0]
    monkeypatch.setattr(up.time, "monotonic", lambda: clock[0])
    return clock


def test_off_a_terminal_a_long_build_says_now_and_then_what_it_is_at(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    screen = up.Screen("shop")
    for second in range(13):
        now[0] = 100.0 + second
        screen(Step("image", f"python packages {second * 8}%"))
    screen(Step("image", "built files", done=True))

    assert capsys.readouterr().err.splitlines() == [
        "shop  image           python packages 40%",
        "shop  image           python packages 80%",
        "shop  image           built files  12.0 s",
    ]


def test_each_state_of_the_engine_is_said_once(now: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    screen = up.Screen("shop")
    for text in ("waiting for the database", "waiting for the database", "rolling out"):
        screen(Step("engine", text))

    assert capsys.readouterr().err.splitlines() == [
        "shop  engine          waiting for the database",
        "shop  engine          rolling out",
    ]
