"""Limits of a model that follow from what was measured of it, and from what was not: a sentence each."""

from collections.abc import Iterator

from tasks.contracts.evaluation import Evaluation, Machine
from tasks.contracts.verdict import Check, Verdict
from tasks.reporting import figures
from tasks.reporting.check_figures import CLASS_PREFIX, check_figures, check_title

_ROBUSTNESS = "robustness"
_MOST_NAMED = 10


def limits_of(checks: tuple[Check, ...], evaluation: Evaluation, machine: Machine, *, judged: bool) -> tuple[str, ...]:
    """Return what a user of the model has to know before relying on it.

    Args:
        checks: What the gate asked.
        evaluation: Of the model, on the split that it was judged on.
        machine: Where it was timed.
        judged: Whether a gate judged the model; the baseline is what others are held against.
    """
    return (
        *(_of_the_gate(checks) if judged else ("No gate judged this model: it is the baseline of its run.",)),
        *_of_robustness(checks),
        *_of_calibration(checks, evaluation),
        *_of_the_test_split(checks, evaluation),
        f"Latency, throughput and memory are of {machine.processor} ({machine.num_cpus} CPUs, {machine.provider}); "
        "they say nothing about another machine.",
        "Only rows of the data named above were tried. Rows of another origin were not.",
    )


def _of_the_gate(checks: tuple[Check, ...]) -> Iterator[str]:
    unsettled = [check for check in checks if check.verdict is not Verdict.PASS]
    for verdict, told in (
        (Verdict.FAIL, "that lost more recall than the margin allows"),
        (Verdict.INCONCLUSIVE, "that were seen too seldom to rule out a loss of recall beyond the margin"),
    ):
        classes = [
            check.name.removeprefix(CLASS_PREFIX)
            for check in unsettled
            if check.name.startswith(CLASS_PREFIX) and check.verdict is verdict
        ]
        if classes:
            more = f" and {len(classes) - _MOST_NAMED} more" if len(classes) > _MOST_NAMED else ""
            yield f"Classes {told} ({len(classes)}): {', '.join(classes[:_MOST_NAMED])}{more}."
    for check in unsettled:
        asked = check.margin is not None and not check.name.startswith((CLASS_PREFIX, _ROBUSTNESS))
        if asked and check.name != "test_reuse":
            yield f"The check of {check_title(check.name)} is {check.verdict}{_needed(check)}."


def _of_robustness(checks: tuple[Check, ...]) -> Iterator[str]:
    asked = [check for check in checks if check.name.startswith(_ROBUSTNESS)]
    if not any(check.estimate is not None for check in asked):
        yield "Robustness under corrupted rows was not measured."
        return
    for check in asked:
        if check.verdict is not Verdict.PASS:
            numbers = check_figures(check)
            yield (
                f"Under {check_title(check.name).removeprefix('under ')} it loses {numbers.estimate} more than the "
                f"baseline does ({check.verdict}): {check.detail}."
            )


def _of_calibration(checks: tuple[Check, ...], evaluation: Evaluation) -> Iterator[str]:
    if evaluation.ece is None:
        yield "Calibration was not measured."
    elif not any(check.name == "calibration" and check.estimate is not None for check in checks):
        yield (
            f"Confidences are off by {figures.share(evaluation.ece)} on average (expected calibration error); no check "
            "held this against the baseline."
        )


def _of_the_test_split(checks: tuple[Check, ...], evaluation: Evaluation) -> Iterator[str]:
    reuse = next((check for check in checks if check.name == "test_reuse"), None)
    if reuse is not None and reuse.estimate is not None and reuse.estimate > 1:
        yield f"The {evaluation.split} split has judged models before: {reuse.detail}."
    if not any(check.name == "cross_validation" and check.estimate is not None for check in checks):
        yield "It was made and judged on one division of the data; how much another would change was not measured."


def _needed(check: Check) -> str:
    return f" ({figures.count(check.num_rows_needed)} rows would settle it)" if check.num_rows_needed else ""
