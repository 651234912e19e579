"""What conditions of webhooks say where the real server has nothing to compare with."""

from __future__ import annotations

import pytest

from trimtab.server.cel import CompileError
from trimtab.server.webhooks.conditions import Conditions, ConditionsFailed, compiled


def test_the_authorizer_is_refused_in_one_line() -> None:
    with pytest.raises(CompileError) as caught:
        compiled("authorizer.path('/healthz').check('get').allowed()")
    assert str(caught.value) == (
        "authorizer is not available here: leave it out, and let the webhook ask with a SubjectAccessReview"
    )


def test_a_condition_that_was_stored_and_does_not_compile_is_a_failure_unless_another_is_false() -> None:
    with pytest.raises(ConditionsFailed) as caught:
        Conditions(["true", "1 + 1"]).hold({}, None, None)
    assert str(caught.value) == "compilation error: must evaluate to bool but got int"
    assert not Conditions(["1 + 1", "false"]).hold({}, None, None)
