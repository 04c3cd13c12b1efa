"""Guard against over-tuning to a test split: every look at it makes a lucky pass likelier.

A run that gates models which were never gated on the split before is a look. Within a run the error rate is shared
by its candidates already; over runs it is either told (`warn`) or shared as well (`share`).
"""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tasks.contracts.value import Digest, Value
from tasks.contracts.verdict import Check, Verdict

Reuse = Literal["warn", "share"]


class Look(Value):
    """One run's models that a test split judged."""

    models: tuple[Digest, ...] = Field(min_length=1)
    """Candidates, in rising order."""
    at: str
    """UTC, ISO 8601."""


class Looks(Value):
    """Every look at a test split, oldest first."""

    looks: tuple[Look, ...] = ()

    def number_of(self, models: Sequence[Digest]) -> int | None:
        """Return which look at the split, from 1, judged all of these models first; None if none did.

        A run that judges what an earlier one judged, or less, learns nothing new.
        """
        wanted = set(models)
        return next((number for number, look in enumerate(self.looks, 1) if wanted <= set(look.models)), None)

    def with_look(self, models: Sequence[Digest], at: str) -> "Looks":
        """Return the looks with one more at the end."""
        return Looks(looks=(*self.looks, Look(models=tuple(sorted(set(models))), at=at)))


def share_of_look(number: int) -> float:
    """Return the share of the error rate that look `number` may spend: 6 / (pi n)^2, whose sum over all n is 1.

    However often the split is used, the chance that any bad candidate ever passes stays at most the plan's alpha.
    """
    return 6.0 / (math.pi * number) ** 2


def reuse_check(number: int, limit: int, alpha: float, reuse: Reuse) -> Check:
    """The test split was looked at `limit` times at most, this time included.

    Args:
        number: which look this is, from 1.
        limit: looks after which the split counts as worn out.
        alpha: error rate of one run.
        reuse: what is done about earlier looks.
    """
    ever = alpha if reuse == "share" else min(1.0, number * alpha)  # union bound: looks at the same rows depend
    told = "shared over all looks" if reuse == "share" else "spent at every look"
    detail = (
        f"look {number} at this test split, alpha {told}: a bad candidate has passed by luck at some look with a "
        f"chance of at most {ever:.1%}"
    )
    if number > limit:
        detail += "; draw a new test split, or let gate.test_reuse share alpha"
    return Check(
        name="test_reuse",
        verdict=Verdict.PASS if number <= limit else Verdict.FAIL,
        estimate=number,
        bound=None,
        margin=limit,
        num_rows=1,
        detail=detail,
    )
