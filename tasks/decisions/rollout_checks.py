"""The questions that a rollout asks at every tick, each answered by a `Check`.

FAIL means that harm is proven, PASS that its absence is, INCONCLUSIVE that neither is so far.
The guardrails look at the running step alone, so that a fault that begins under load is not diluted by the good
hours before; their error rate is shared out over the steps. Accuracy looks at the whole rollout.
"""

from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.accuracy_sequence import accuracy_difference
from tasks.decisions.experiment import (
    Bounds,
    Observation,
    champion_reference,
    error_increase,
    latency_ratio,
    sample_ratio,
)
from tasks.decisions.noninferiority import three_valued
from tasks.decisions.rollout_policy import RolloutPolicy
from tasks.decisions.sequential import rate_lower_bound, rate_upper_bound


def rollout_checks(observation: Observation, weight: float, policy: RolloutPolicy) -> tuple[Check, ...]:
    """Answer all questions about the step of `weight`, in the order in which they decide."""
    return (
        sample_ratio_check(observation, policy.sample_ratio_alpha),
        error_check(observation, weight, policy.max_error_rate_increase, policy.alpha / len(policy.steps)),
        *latency_checks(observation, weight, policy),
        accuracy_check(observation, policy.accuracy_margin, policy.alpha),
        feedback_check(observation, weight, policy),
    )


def sample_ratio_check(observation: Observation, alpha: float) -> Check:
    """Is traffic divided as the route says? FAIL if it is not; never PASS, since that cannot be proven."""
    ratio = sample_ratio(observation, alpha)
    num = sum(step.champion.requests + step.challenger.requests for step in observation.steps if step.weight > 0.0)
    return Check(
        name="sample_ratio",
        verdict=Verdict.FAIL if ratio.mismatch else Verdict.INCONCLUSIVE,
        estimate=ratio.observed / num if num else None,
        bound=ratio.p_value,
        margin=alpha,
        num_rows=num,
        blocking=False,
        detail=f"the challenger got {ratio.observed} requests where {ratio.expected:.0f} were expected "
        f"(always-valid p {ratio.p_value:.2g})",
    )


def error_check(observation: Observation, weight: float, limit: float, alpha: float) -> Check:
    """Does the challenger fail more requests than the champion, by more than `limit`?"""
    bounds = error_increase(observation, weight, alpha)
    champion, challenger = champion_reference(observation, weight), observation.at(weight).challenger
    return _check(
        "errors",
        bounds,
        limit,
        passed=bounds.upper <= limit,
        failed=bounds.lower > limit,
        detail=f"the challenger failed {challenger.errors} of {challenger.requests} requests, "
        f"the champion {champion.errors} of {champion.requests}",
    )


def latency_checks(observation: Observation, weight: float, policy: RolloutPolicy) -> tuple[Check, ...]:
    """Is the challenger slower than the champion, by more than the tolerated ratio?

    Not answered in the shadow step: there the challenger runs off the callers' path, queued behind them and
    beside their next requests, so its times say nothing about how it would serve.
    """
    comparable = weight > 0.0
    alpha = policy.alpha / (len(policy.steps) * len(policy.latency_quantiles))
    limit = policy.max_latency_ratio
    checks = []
    for quantile in policy.latency_quantiles:
        bounds = latency_ratio(observation, weight, quantile, alpha)
        shown = "unknown" if bounds.estimate is None else f"{bounds.estimate:.2f}"
        detail = f"ratio to the champion's {shown}, above {bounds.lower:.2f} for sure; tolerated {limit:g}"
        checks.append(
            _check(
                f"latency_p{100 * quantile:g}",
                bounds,
                limit,
                passed=comparable and bounds.upper <= limit,
                failed=comparable and bounds.lower > limit,
                detail=detail if comparable else f"{detail}; not judged in shadow, off the callers' path",
            )
        )
    return tuple(checks)


def accuracy_check(observation: Observation, margin: float, alpha: float) -> Check:
    """Is the challenger less accurate than the champion, by more than `margin`?"""
    bounds = accuracy_difference(observation, margin, alpha)
    shown = "unknown" if bounds.estimate is None else f"{bounds.estimate:+.4f}"
    return _check(
        "accuracy",
        bounds,
        margin,
        passed=bounds.lower > -margin,
        failed=bounds.upper < -margin,
        detail=f"difference {shown} on {bounds.num_challenger} labelled rows of the challenger and "
        f"{bounds.num_champion} of the champion; above {bounds.lower:+.4f} and below {bounds.upper:+.4f}; "
        f"tolerated -{margin:g}",
        held_lower=True,
    )


def feedback_check(observation: Observation, weight: float, policy: RolloutPolicy) -> Check:
    """Do enough rows of this step have feedback, and alike in both arms?

    FAIL for too few; INCONCLUSIVE for proven unlike shares, as the labelled rows are then no fair sample.
    """
    arms = {"champion": champion_reference(observation, weight), "challenger": observation.at(weight).challenger}
    shares = {name: arm.labelled / arm.rows if arm.rows else 0.0 for name, arm in arms.items()}
    alpha = policy.alpha / 2.0
    lows = {name: rate_lower_bound(arm.labelled, arm.rows, alpha) for name, arm in arms.items()}
    highs = {name: rate_upper_bound(arm.labelled, arm.rows, alpha) for name, arm in arms.items()}
    gap = max(lows["champion"] - highs["challenger"], lows["challenger"] - highs["champion"])
    enough = min(shares.values()) >= policy.min_labelled_share
    return Check(
        name="feedback",
        verdict=three_valued(passed=enough and gap <= policy.max_labelled_gap, failed=not enough),
        estimate=min(shares.values()),
        bound=None,
        margin=policy.min_labelled_share,
        num_rows=min(arm.rows for arm in arms.values()),
        blocking=False,
        detail=f"{shares['challenger']:.0%} of the challenger's rows have feedback and {shares['champion']:.0%} of the "
        f"champion's; wanted {policy.min_labelled_share:.0%} of each, and no more than "
        f"{policy.max_labelled_gap:.0%} apart",
    )


def _check(
    name: str, bounds: Bounds, margin: float, *, passed: bool, failed: bool, detail: str, held_lower: bool = False
) -> Check:
    """Make the check of a comparison; its bound is the one that decided, or the one that a PASS would need."""
    verdict = three_valued(passed=passed, failed=failed)
    lower = held_lower != (verdict is Verdict.FAIL)
    bound = bounds.lower if lower else bounds.upper
    return Check(
        name=name,
        verdict=verdict if bounds.estimate is not None else Verdict.INCONCLUSIVE,
        estimate=bounds.estimate,
        bound=bound if abs(bound) != float("inf") else None,
        margin=margin,
        num_rows=min(bounds.num_champion, bounds.num_challenger),
        detail=detail,
    )
