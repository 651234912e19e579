"""CEL by itself, and that no rule stalls the server. What rules say is compared with the real one in tests/conformance."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api_in_process import Api
from trimtab.server.cel import (
    BOOL,
    DYN,
    CompileError,
    CostExceeded,
    Declared,
    Environment,
    EvaluationError,
    Lazy,
)

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
LOOPS = "self.l.all(x, self.l.all(y, self.l.all(z, x + y + z >= 0)))"


def definition(rule: str) -> dict[str, Any]:
    numbers = {"type": "array", "maxItems": 100, "items": {"type": "integer"}}
    spec = {"type": "object", "properties": {"l": numbers}, "x-kubernetes-validations": [{"rule": rule}]}
    schema = {"type": "object", "properties": {"spec": spec}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "loops", "kind": "Loop"}
    return {
        "metadata": {"name": "loops.rules.example"},
        "spec": {"group": "rules.example", "scope": "Cluster", "names": names, "versions": [version]},
    }


async def test_requests_are_answered_while_a_rule_uses_up_its_budget(api: Api) -> None:
    (await api.post(CRDS, definition(LOOPS))).ok()
    body = {"metadata": {"name": "one"}, "spec": {"l": list(range(100))}}

    slow = asyncio.create_task(api.post("/apis/rules.example/v1/loops", body))
    answered = 0
    while not slow.done():
        (await api.get("/api/v1/namespaces/default")).ok()
        answered += 1
        await asyncio.sleep(0)

    [cause] = slow.result().body["details"]["causes"]
    assert cause["message"] == (
        "Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run "
        f"due to call cost exceeds limit for rule: {LOOPS}"
    )
    assert answered > 1


async def test_rules_that_take_long_are_applied_all_the_same(api: Api) -> None:
    (await api.post(CRDS, definition(LOOPS))).ok()

    def body(name: str, *numbers: int) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"l": numbers}}

    (await api.post("/apis/rules.example/v1/loops", body("good", *range(25)))).ok()
    bad = await api.post("/apis/rules.example/v1/loops", body("bad", *range(25), -90))

    assert bad.body["details"]["causes"][0]["message"] == f"Invalid value: failed rule: {LOOPS}"


def test_variables_of_any_type_and_those_made_when_they_are_read() -> None:
    made: list[str] = []
    environment = Environment({"object": Declared(DYN), "late": Declared(DYN)})

    def late() -> int:
        made.append("late")
        return 2

    program = environment.compile("object.a[0] == 1 && late + late == 4", BOOL)
    value, cost = program.evaluate({"object": {"a": [1]}, "late": Lazy(late)})

    assert (value, made) == (True, ["late"])
    assert 0 < cost < 20
    assert program.names == {"object", "late"}
    assert environment.compile("object.x == 1 || true", BOOL).evaluate({"object": {}})[0] is True
    with pytest.raises(EvaluationError, match="no such key: x"):
        environment.compile("object.x").evaluate({"object": {}})
    with pytest.raises(CompileError, match="must evaluate to bool"):
        environment.compile("1 + 1", BOOL)


@pytest.mark.parametrize(
    "expression",
    [
        "lists.range(100000000).size() > 1",
        "text.replace('', text).size() > 1",
        "[1,2,3,4,5,6,7,8,9].all(a, lists.range(1000).all(b, lists.range(1000).all(c, a + b + c >= 0)))",
        "lists.range(20000).distinct().size() > 1",
    ],
)
def test_what_costs_too_much_ends(expression: str) -> None:
    program = Environment({"text": Declared(DYN)}).compile(expression)

    with pytest.raises(CostExceeded):
        program.evaluate({"text": "x" * 10_000}, limit=50_000)


def test_a_pattern_that_would_take_years_takes_a_moment() -> None:
    program = Environment({"text": Declared(DYN)}).compile("text.matches('^(a+)+$')")

    assert program.evaluate({"text": "a" * 5_000 + "b"})[0] is False


@pytest.mark.parametrize(
    "expression", ["(" * 500 + "1" + ")" * 500, "1" + " + 1" * 5000, "!" * 5000 + "true && [" * 400]
)
def test_expressions_too_deep_to_read_are_refused_in_words(expression: str) -> None:
    with pytest.raises(CompileError):
        Environment({}).compile(expression)
