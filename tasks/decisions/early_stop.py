"""When a chain is not worth going on with: a stage that lost more than can be made good."""

from pydantic import Field

from tasks.contracts.errors import BudgetError
from tasks.contracts.evaluation import Quality
from tasks.contracts.value import Value


class EarlyStop(Value):
    """What any one stage of a chain may lose against the baseline, on the validation split."""

    max_accuracy_drop: float = Field(
        default=0.1, gt=0, lt=1, description="Drop of accuracy, as a fraction: 0.1 is ten points."
    )
    max_rmse_increase: float = Field(
        default=0.5, gt=0, description="Regression: increase of the RMSE, relative to the baseline's."
    )


def require_within_budget(stage: str, quality: Quality, baseline: Quality, budget: EarlyStop) -> None:
    """Check a stage's model against the baseline; both were evaluated on the same split.

    Raises:
        BudgetError: it lost more than `budget` allows; the message has both figures and the remedy.
    """
    if "accuracy" in baseline.metrics:
        name, limit = "max_accuracy_drop", budget.max_accuracy_drop
        lost = baseline.metrics["accuracy"] - quality.metrics["accuracy"]
        told = f"accuracy {quality.metrics['accuracy']:.4f} against the baseline's {baseline.metrics['accuracy']:.4f}"
    else:
        name, limit = "max_rmse_increase", budget.max_rmse_increase
        lost = quality.metrics["rmse"] / baseline.metrics["rmse"] - 1
        told = f"RMSE {quality.metrics['rmse']:.4g} against the baseline's {baseline.metrics['rmse']:.4g}"
    if lost > limit:
        raise BudgetError(
            f"{stage} has {told} on the {quality.split} split, a loss of {lost:.4f}; early_stop.{name}={limit:g} ends "
            "the chain here. Compress less in this stage, train it longer, or raise the limit"
        )
