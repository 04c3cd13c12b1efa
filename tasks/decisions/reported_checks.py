"""The checks that are reported beside the verdict and do not block: what an average accuracy can hide."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.calibration import overconfidence
from tasks.decisions.gate_checks import deciding_bound, enough_resamples, no_data
from tasks.decisions.noninferiority import PairedTable, mcnemar_p_value, three_valued
from tasks.decisions.paired_loss import judge_loss_increase
from tasks.decisions.per_class import judge_classes


def mcnemar_check(table: PairedTable, alpha: float) -> Check:
    """Reported: is there any difference at all? INCONCLUSIVE if none is shown, which proves no equality."""
    if table.total == 0:
        return no_data("mcnemar", None, blocking=False)
    p_value = mcnemar_p_value(table)
    shown = p_value < alpha
    return Check(
        name="mcnemar",
        verdict=three_valued(passed=shown and table.difference > 0.0, failed=shown and table.difference < 0.0),
        estimate=table.difference,
        bound=None,
        margin=None,
        num_rows=table.total,
        blocking=False,
        detail=f"exact p-value of equal accuracy {p_value:.4g}",
    )


def flip_check(
    candidate_outputs: NDArray[np.float32], baseline_outputs: NDArray[np.float32], limit: float, alpha: float
) -> Check:
    """Reported: at most the share `limit` of all rows gets another answer (Clopper-Pearson bounds)."""
    num = len(candidate_outputs)
    if num == 0:
        return no_data("flips", limit, blocking=False)
    flips = int(np.count_nonzero(candidate_outputs.argmax(axis=1) != baseline_outputs.argmax(axis=1)))
    lower = float(betaincinv(flips, num - flips + 1, alpha)) if flips else 0.0
    upper = float(betaincinv(flips + 1, num - flips, 1.0 - alpha)) if flips < num else 1.0
    verdict = three_valued(passed=upper <= limit, failed=lower > limit)
    return Check(
        name="flips",
        verdict=verdict,
        estimate=flips / num,
        bound=lower if verdict is Verdict.FAIL else upper,
        margin=limit,
        num_rows=num,
        blocking=False,
        detail=f"{flips} rows whose answer differs from the baseline's, right or wrong",
    )


def calibration_check(
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    limit: float,
    alpha: float,
    power: float,
    num_resamples: int,
) -> Check:
    """Reported: confidence minus accuracy rises by at most `limit` on average."""
    finite = np.isfinite(candidate_outputs).all(axis=1) & np.isfinite(baseline_outputs).all(axis=1)
    if not finite.any():
        return no_data("calibration", limit, blocking=False)
    outcome = judge_loss_increase(
        overconfidence(candidate_outputs[finite], labels[finite]),
        overconfidence(baseline_outputs[finite], labels[finite]),
        limit,
        alpha,
        statistic="mean",
        relative=False,
        power=power,
        num_resamples=enough_resamples(num_resamples, alpha),
    )
    return Check(
        name="calibration",
        verdict=outcome.verdict,
        estimate=outcome.estimate,
        bound=outcome.lower if outcome.verdict is Verdict.FAIL else outcome.upper,
        margin=limit,
        num_rows=outcome.num_rows,
        blocking=False,
        num_rows_needed=outcome.num_rows_needed,
        detail="increase of overconfidence: mean confidence minus accuracy",
    )


def class_checks(
    labels: NDArray[np.int64],
    baseline_right: NDArray[np.bool_],
    candidate_right: NDArray[np.bool_],
    class_names: tuple[str, ...],
    margin: float,
    alpha: float,
    power: float,
) -> list[Check]:
    """Reported: no class's recall drops by more than `margin` (Holm over the classes)."""
    checks = []
    for answer in judge_classes(labels, baseline_right, candidate_right, class_names, margin, alpha, power):
        name = f"class:{answer.name}"
        if answer.outcome is None:
            checks.append(no_data(name, margin, blocking=False))
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
                blocking=False,
                num_rows_needed=answer.outcome.num_rows_needed if unsettled else None,
                detail=f"recall; bound at alpha {alpha / len(class_names):.3g}, verdict by Holm's procedure",
            )
        )
    return checks
