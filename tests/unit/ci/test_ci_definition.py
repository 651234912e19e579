"""What a user writes becomes a graph: steps, what they need, what counts as a change and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.ci import DefinitionError
from trimtab.ci.definition.evaluate import evaluate, load
from trimtab.ci.definition.graph import Graph

Written = Callable[..., Graph]

START = "from trimtab.ci import image, pipeline, secret, service, src, step\n"

SHIP = """
py = image("python:3.11-slim").workdir("/w")
code = src("app/**", exclude=["**/*.pyc"])

@step
def deps():
    return py.add(src("uv.lock")).run("uv sync").output("/w/.venv")

@step(shard=2, timeout="5m")
def unit(shard):
    db = service("postgres:16", env={"POSTGRES_PASSWORD": "t"}, ready=":5432")
    return (py.add(code).add(deps(), to=".venv").with_service("db", db)
              .run("python", "-m", "pytest", f"--part={shard}", junit="report.xml"))

@step(matrix={"variant": ["deep", "upgrade"]})
def e2e(variant):
    return py.add(code).run(f"./e2e.sh {variant}")

@pipeline
def ci(push: bool = False):
    return unit() & e2e()
"""


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str, **values: Any) -> Graph:
        path = tmp_path / "ship.py"
        path.write_text(START + text)
        definition = load(path)
        return evaluate(definition, definition.pipelines["ci"], values, twice=True)

    return write


def test_calls_become_steps_and_what_they_take_becomes_edges(written: Written) -> None:
    graph = written(SHIP)
    assert list(graph.steps) == [
        "deps",
        "unit[1/2]",
        "unit[2/2]",
        "e2e[variant=deep]",
        "e2e[variant=upgrade]",
    ]
    assert graph.needs("unit[2/2]") == ["deps"]
    assert graph.needs("e2e[variant=deep]") == []
    assert graph.order()[0] in ("deps", "e2e[variant=deep]", "e2e[variant=upgrade]")
    assert graph.order().index("deps") < graph.order().index("unit[1/2]")
    assert graph.downstream(["deps"]) == {"deps", "unit[1/2]", "unit[2/2]"}
    assert graph.steps["unit[1/2]"].labels.timeout_s == 300


def test_an_action_says_all_that_counts_as_plain_values(written: Written) -> None:
    action = written(SHIP).steps["unit[1/2]"].action()
    assert action == {
        "v": 1,
        "image": {"reference": "python:3.11-slim"},
        "cwd": "/w",
        "net": "none",
        "inputs": [
            {"to": "/w", "from": {"source": ["app/**"], "exclude": ["**/*.pyc"]}},
            {"to": "/w/.venv", "from": {"step": "deps", "output": "venv"}},
        ],
        "runs": [{"argv": ["python", "-m", "pytest", "--part=1/2"], "junit": "/w/report.xml"}],
        "services": {
            "db": {
                "image": {"reference": "postgres:16"},
                "cwd": "/",
                "env": {"POSTGRES_PASSWORD": "t"},
                "net": "none",
                "ready": ":5432",
            }
        },
        "shard": [1, 2],
    }
    json.dumps(action)


def test_each_command_runs_where_and_as_it_was_said(written: Written) -> None:
    graph = written(
        """
@step
def build():
    return image("a").workdir("/one").run("first").workdir("/two").env(A="1").user("app").run("second")

@pipeline
def ci():
    return build()
"""
    )
    action = graph.steps["build"].action()
    assert (action["cwd"], action["env"], action["user"]) == ("/two", {"A": "1"}, "app")
    assert action["runs"] == [
        {"argv": ["/bin/sh", "-ec", "first"], "cwd": "/one", "env": {}, "user": ""},
        {"argv": ["/bin/sh", "-ec", "second"]},
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("@step\ndef deps", "# a comment\n\n@step\ndef deps"),
        ('timeout="5m"', 'timeout="9m", cpus=2, memory="1Gi"'),
        ("db = service", "base = service"),
    ],
)
def test_what_does_not_change_a_result_does_not_change_the_graph(written: Written, before: str, after: str) -> None:
    changed = SHIP.replace(before, after).replace('("db", db)', '("db", base)' if "base =" in after else '("db", db)')
    assert changed != SHIP
    assert written(changed).canonical() == written(SHIP).canonical()


@pytest.mark.parametrize(
    ("before", "after", "differ"),
    [
        ("uv sync", "uv sync --frozen", {"deps"}),
        (
            'workdir("/w")',
            'workdir("/x")',
            {"deps", "unit[1/2]", "unit[2/2]", "e2e[variant=deep]", "e2e[variant=upgrade]"},
        ),
        ('PASSWORD": "t"', 'PASSWORD": "u"', {"unit[1/2]", "unit[2/2]"}),
        ("e2e.sh", "e2e2.sh", {"e2e[variant=deep]", "e2e[variant=upgrade]"}),
    ],
)
def test_what_changes_a_result_changes_those_steps(written: Written, before: str, after: str, differ: set[str]) -> None:
    old, new = written(SHIP), written(SHIP.replace(before, after))
    assert {id for id in old.steps if old.steps[id].action() != new.steps[id].action()} == differ


def test_the_same_call_is_the_same_step_and_another_is_another(written: Written) -> None:
    graph = written(
        """
@step
def build(arch: str = "amd64", debug: bool = False):
    return image("a").run(f"make {arch}").output("/out")

@step
def pack():
    return image("a").add(build(arch="arm64")).add(build("arm64"), to="/again").add(build()).run("pack")

@pipeline
def ci():
    return pack() & build()
"""
    )
    assert sorted(graph.steps) == ["build", "build[arch=arm64]", "pack"]
    assert graph.needs("pack") == ["build[arch=arm64]", "build"]


def test_then_makes_one_wait_for_the_other(written: Written) -> None:
    graph = written(
        """
@step
def unit():
    return image("a").run("test")

@step
def release():
    return image("a").run("release").network()

@pipeline
def ci():
    return unit().then(release())
"""
    )
    assert graph.needs("release") == ["unit"]
    assert graph.wanted == ("unit", "release")


ONE = """
@step
def unit():
    return {0}

@pipeline
def ci():
    return unit()
"""


@pytest.mark.parametrize(
    ("container", "line", "text"),
    [
        ('image("a").run()', 5, "run() takes a command: one string for the shell, or its arguments one by one"),
        ('image("a").add("app")', 5, "add() takes src(...) or what a step gave, not str"),
        (
            'image("a").add(src("/etc"))',
            5,
            "src('/etc'): patterns are relative to the directory of ship.py and stay below it",
        ),
        ('image("a").cache("/c", key="a b")', 5, "cache key 'a b': letters, digits, '.', '_' and '-' only, at most 63"),
        ("secret('token')", 5, "secret('token'): write FILE#KEY, for example ci/secrets.enc.yaml#token"),
        ("None", 3, "unit() returned nothing; return image(...) with what is to be run"),
        ("image('a').add(unit())", 5, "steps need each other: unit -> unit"),
        ("image('a').env(A=None)", 5, "the value of A is None; write a string"),
        ("imagine('a')", 5, "NameError: name 'imagine' is not defined"),
        (
            "image('a').output('/b').output('/c/b')",
            5,
            "there are two outputs of the name 'b'; say name=... for one of them",
        ),
    ],
)
def test_a_mistake_is_told_at_its_line(written: Written, tmp_path: Path, container: str, line: int, text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        written(ONE.format(container))
    assert str(caught.value) == f"{tmp_path}/ship.py:{line}: {text}"


@pytest.mark.parametrize(
    ("decorated", "text"),
    [
        (
            "@step(timeout='soon')\ndef unit():",
            'the timeout of unit() is \'soon\'; write a number of seconds, or "90s", "5m", "1h"',
        ),
        (
            "@step(memory='much')\ndef unit():",
            'the memory of unit() is \'much\'; write a number of bytes, or "512Mi", "2Gi"',
        ),
        ("@step(cpus=0)\ndef unit():", "@step(cpus=0): a number above 0, at most 1024"),
        ("@step(shard=2)\ndef unit():", "@step(shard=2): unit() has to take shard"),
        ("@step(matrix={'a': ['b']})\ndef unit():", "@step(matrix=...): unit() has to take a"),
    ],
)
def test_a_wrong_decorator_is_told(written: Written, decorated: str, text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        written(ONE.format("image('a').run('b')").replace("@step\ndef unit():", decorated))
    assert caught.value.message == text


def test_a_syntax_error_and_a_missing_file_are_told(written: Written, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"ship\.py:2: '\(' was never closed"):
        written("x = (")
    with pytest.raises(DefinitionError, match=r"No such file or directory; `trimtab ci run` wants a ship\.py"):
        load(tmp_path / "elsewhere" / "ship.py")
