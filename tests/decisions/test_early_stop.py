import pytest

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.errors import BudgetError
from tasks.contracts.evaluation import Quality
from tasks.decisions.early_stop import EarlyStop, require_within_budget


def quality(**metrics: float) -> Quality:
    return Quality(
        model="0" * 64, split="validation", num_rows=10, metrics=metrics, per_class={}, num_parameters=1, flops=1,
        size_bytes=1, size_zip_bytes=1, int8_coverage=0, ece=None, flip_rate=None,
        predictions=ArtifactRef(digest="0" * 64, size_bytes=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("now", "baseline"),
    [
        ({"accuracy": 0.75}, {"accuracy": 0.8125}),
        ({"accuracy": 0.9}, {"accuracy": 0.8}),
        ({"rmse": 1.4}, {"rmse": 1.0}),
    ],
)
def test_require_within_budget_passes_up_to_the_limit(now: dict[str, float], baseline: dict[str, float]) -> None:
    assert require_within_budget("s", quality(**now), quality(**baseline), EarlyStop(max_accuracy_drop=0.0625)) is None


def test_require_within_budget_names_the_stage_both_figures_and_the_remedy() -> None:
    with pytest.raises(BudgetError, match=r"chain: prune has accuracy 0.7000 against the baseline's 0.9000.*raise the"):
        require_within_budget("chain: prune", quality(accuracy=0.7), quality(accuracy=0.9), EarlyStop())


def test_require_within_budget_holds_the_error_of_regression_against_the_baseline() -> None:
    with pytest.raises(BudgetError, match=r"RMSE 1.6 against the baseline's 1 .*early_stop.max_rmse_increase=0.5"):
        require_within_budget("s", quality(rmse=1.6), quality(rmse=1.0), EarlyStop())
