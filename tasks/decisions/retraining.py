"""When a model may be trained anew: a pause after each time, and so many times a week."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import Field

from tasks.contracts.value import Value

_WEEK = timedelta(days=7)


class RetrainingPolicy(Value):
    """How often a plan's model is trained anew, and from what."""

    cooldown_hours: float = Field(default=24.0, ge=0, description="Pause after the start of the last retraining.")
    max_per_week: int = Field(default=3, ge=0, description="Retrainings in any seven days; 0 allows none.")
    min_new_rows: int = Field(
        default=100, ge=1, description="New labelled rows of traffic that are worth a version of the data."
    )
    epochs_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Epochs of the warm-started baseline, as a share of baseline.train.schedule.epochs, unless the "
        "plan has a warm_start of its own.",
    )
    learning_rate_share: float = Field(
        default=0.3, gt=0, le=1, description="Its peak learning rate, likewise as a share of the schedule's."
    )


def why_not_now(policy: RetrainingPolicy, starts: Sequence[datetime], now: datetime) -> str | None:
    """Say why no retraining may start at `now`, after earlier ones at `starts`; None if one may."""
    recent = sorted(start for start in starts if now - start < _WEEK)
    if len(recent) >= policy.max_per_week:
        free = f"the next may start at {_shown(recent[-policy.max_per_week] + _WEEK)}" if recent else "none is allowed"
        return (
            f"{len(recent)} retrainings started within seven days, and retraining.max_per_week is "
            f"{policy.max_per_week}; {free}"
        )
    pause = timedelta(hours=policy.cooldown_hours)
    if recent and now - recent[-1] < pause:
        return (
            f"the last retraining started at {_shown(recent[-1])}, and retraining.cooldown_hours is "
            f"{policy.cooldown_hours:g}; the next may start at {_shown(recent[-1] + pause)}"
        )
    return None


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
