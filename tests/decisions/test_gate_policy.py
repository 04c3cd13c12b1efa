import pytest
from pydantic import ValidationError

from tasks.decisions.gate_policy import Constraints, GatePolicy, why_quality_is_unguarded


def test_severity_is_the_plans_where_it_says_so():
    policy = GatePolicy(checks={"flips": "block", "latency": "warn", "brier": "skip"})
    kinds = ("flips", "latency", "brier", "accuracy", "classes")
    assert [policy.severity(kind) for kind in kinds] == ["block", "warn", "skip", "block", "warn"]


def test_gate_policy_refuses_a_difference_test_that_blocks():
    with pytest.raises(ValidationError, match="mcnemar asks whether there is any difference"):
        GatePolicy(checks={"mcnemar": "block"})


@pytest.mark.parametrize("num", [1, 2, 21])
def test_gate_policy_refuses_a_number_of_data_splits_that_says_nothing_or_costs_too_much(num):
    with pytest.raises(ValidationError, match="data_splits"):
        GatePolicy(data_splits=num)


@pytest.mark.parametrize(("name", "severity"), [("flip", "block"), ("flips", "stop")])
def test_gate_policy_refuses_what_it_does_not_know(name, severity):
    with pytest.raises(ValidationError, match="Input should be"):
        GatePolicy(checks={name: severity})


@pytest.mark.parametrize(
    ("task", "constraints", "checks", "guarded"),
    [
        ("classification", Constraints(), {}, True),
        ("classification", Constraints(), {"accuracy": "warn"}, False),
        ("classification", Constraints(max_macro_f1_drop=0.01), {"accuracy": "warn"}, True),
        ("classification", Constraints(max_macro_f1_drop=0.01), {"accuracy": "skip", "macro_f1": "warn"}, False),
        ("classification", Constraints(max_mae_increase=0.01), {"accuracy": "skip"}, False),
        ("regression", Constraints(), {"accuracy": "skip"}, True),
        ("regression", Constraints(), {"rmse": "skip"}, False),
        ("regression", Constraints(max_mae_increase=0.02), {"rmse": "skip"}, True),
    ],
)
def test_why_quality_is_unguarded_when_no_check_of_quality_blocks(task, constraints, checks, guarded):
    reason = why_quality_is_unguarded(task, constraints, GatePolicy(checks=checks))
    assert (reason is None) is guarded
    assert guarded or "however wrong its answers are" in reason
