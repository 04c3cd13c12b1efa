"""The checks of what an average accuracy can hide; they only warn unless the plan lets them block."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.calibration import brier_scores, overconfidence
from tasks.decisions.gate_checks import deciding_bound, increase_check, no_data
from tasks.decisions.gate_policy import Certainty
from tasks.decisions.noninferiority import PairedTable, mcnemar_p_value, three_valued
from tasks.decisions.paired_loss import MIN_ROWS, judge_loss_increase, judge_means, too_few
from tasks.decisions.per_class import judge_classes


def mcnemar_check(table: PairedTable, sure: Certainty) -> Check:
    """Is there any difference at all? INCONCLUSIVE if none is shown, which proves no equality."""
    if table.total == 0:
        return no_data("mcnemar", None)
    p_value = mcnemar_p_value(table)
    shown = p_value < sure.alpha
    return Check(
        name="mcnemar",
        verdict=three_valued(passed=shown and table.difference > 0.0, failed=shown and table.difference < 0.0),
        estimate=table.difference,
        bound=None,
        margin=None,
        num_rows=table.total,
        detail=f"exact p-value of equal accuracy {p_value:.4g}",
    )


def flip_check(
    candidate_outputs: NDArray[np.float32], baseline_outputs: NDArray[np.float32], limit: float, sure: Certainty
) -> Check:
    """At most the share `limit` of all rows gets another answer (Clopper-Pearson bounds)."""
    num = len(candidate_outputs)
    if num == 0:
        return no_data("flips", limit)
    flips = int(np.count_nonzero(candidate_outputs.argmax(axis=1) != baseline_outputs.argmax(axis=1)))
    lower = float(betaincinv(flips, num - flips + 1, sure.alpha)) if flips else 0.0
    upper = float(betaincinv(flips + 1, num - flips, 1.0 - sure.alpha)) if flips < num else 1.0
    verdict = three_valued(passed=upper <= limit, failed=lower > limit)
    return Check(
        name="flips",
        verdict=verdict,
        estimate=flips / num,
        bound=lower if verdict is Verdict.FAIL else upper,
        margin=limit,
        num_rows=num,
        detail=f"{flips} rows whose answer differs from the baseline's, right or wrong",
    )


def calibration_check(
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    limit: float,
    sure: Certainty,
) -> Check:
    """Confidence minus accuracy rises by at most `limit` on average."""
    detail = "increase of overconfidence: mean confidence minus accuracy"
    return _mean_check("calibration", overconfidence, candidate_outputs, baseline_outputs, labels, limit, sure, detail)


def brier_check(
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    limit: float,
    sure: Certainty,
) -> Check:
    """The Brier score, which pays for wrong answers and for dishonest confidences, rises by at most `limit`."""
    detail = "increase of the Brier score, from 0 to 2"
    return _mean_check("brier", brier_scores, candidate_outputs, baseline_outputs, labels, limit, sure, detail)


def class_checks(
    labels: NDArray[np.int64],
    baseline_right: NDArray[np.bool_],
    candidate_right: NDArray[np.bool_],
    class_names: tuple[str, ...],
    margin: float,
    sure: Certainty,
) -> list[Check]:
    """No class's recall drops by more than `margin` (Holm over the classes)."""
    checks = []
    for answer in judge_classes(labels, baseline_right, candidate_right, class_names, margin, sure.alpha, sure.power):
        name = f"class:{answer.name}"
        if answer.outcome is None:
            checks.append(no_data(name, margin))
            continue
        unsettled = answer.verdict is Verdict.INCONCLUSIVE
        checks.append(
            Check(
                name=name,
                verdict=answer.verdict,
                estimate=answer.outcome.estimate,
                bound=deciding_bound(answer.outcome),
                margin=margin,
                num_rows=answer.outcome.num_rows,
                num_rows_needed=answer.outcome.num_rows_needed if unsettled else None,
                detail=f"recall; bound at alpha {sure.alpha / len(class_names):.3g}, verdict by Holm's procedure",
            )
        )
    return checks


def robustness_checks(
    candidate_losses: Mapping[str, NDArray[np.generic]],
    baseline_losses: Mapping[str, NDArray[np.generic]],
    limit: float,
    sure: Certainty,
    *,
    statistic: Literal["mean", "root_mean"],
) -> list[Check]:
    """Under each corruption the candidate loses at most `limit` more than the baseline loses under it.

    Args:
        candidate_losses: [N] loss of every row by the name of the corruption; under "" that of the clean rows.
        baseline_losses: the same of the baseline, on the same rows.
        limit: tolerated excess.
        sure: how sure to be.
        statistic: `mean` of wrong answers is the error rate, and the excess is in its unit; `root_mean` of squared
            errors is the RMSE, and the excess is a share of the baseline's on clean rows.
    """
    names = [name for name in baseline_losses if name]
    if not names:
        return [no_data("robustness", limit, "no outputs on corrupted rows")]
    return [_robustness_check(name, candidate_losses, baseline_losses, limit, sure, statistic) for name in names]


def _mean_check(
    name: str,
    score: Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float64]],
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    limit: float,
    sure: Certainty,
    detail: str,
) -> Check:
    """Hold the increase of a mean over the rows for which both models' outputs are finite against its limit."""
    finite = np.isfinite(candidate_outputs).all(axis=1) & np.isfinite(baseline_outputs).all(axis=1)
    if not finite.any():
        return no_data(name, limit)
    outcome = judge_loss_increase(
        score(candidate_outputs[finite], labels[finite]),
        score(baseline_outputs[finite], labels[finite]),
        limit,
        sure.alpha,
        statistic="mean",
        relative=False,
        power=sure.power,
        num_resamples=sure.num_resamples,
    )
    return increase_check(name, outcome, limit, detail)


def _robustness_check(
    name: str,
    candidate: Mapping[str, NDArray[np.generic]],
    baseline: Mapping[str, NDArray[np.generic]],
    limit: float,
    sure: Certainty,
    statistic: Literal["mean", "root_mean"],
) -> Check:
    title, num = f"robustness:{name}", len(baseline[""])
    if name not in candidate:
        return no_data(title, limit, "the candidate has no outputs on these rows")
    losses = np.stack(
        [rows.astype(np.float64) for rows in (candidate[name], candidate[""], baseline[name], baseline[""])]
    )
    if not np.isfinite(losses[1:]).all():
        return no_data(title, limit, "an output that is not finite leaves nothing to compare with")
    if statistic == "root_mean" and not losses[3].any():
        return no_data(title, limit, "the baseline makes no error, of which an increase could be a share")
    if num < MIN_ROWS:
        return increase_check(title, too_few(num), limit, "too few rows")

    def excess(means: NDArray[np.float64]) -> NDArray[np.float64]:
        quality = np.sqrt(means) if statistic == "root_mean" else means
        corrupted, clean, their_corrupted, their_clean = quality
        beyond: NDArray[np.float64] = (corrupted - clean) - (their_corrupted - their_clean)
        return beyond / their_clean if statistic == "root_mean" else beyond

    outcome = judge_means(excess, losses, limit, sure.alpha, sure.power, sure.num_resamples, seed=0)
    means = losses.mean(axis=1)
    told = np.sqrt(means) if statistic == "root_mean" else means
    what = "RMSE" if statistic == "root_mean" else "error rate"
    detail = f"{what} {told[1]:.4g} to {told[0]:.4g}; the baseline's {told[3]:.4g} to {told[2]:.4g}"
    return increase_check(title, outcome, limit, detail)
