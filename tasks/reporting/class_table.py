"""The table of classes, worst first: what the average hides."""

from dataclasses import dataclass

from markupsafe import Markup

from tasks.contracts.data import SplitName
from tasks.contracts.run import CandidateSummary, RunDossier
from tasks.contracts.verdict import Check
from tasks.reporting import figures
from tasks.reporting.charts import deviation_bar
from tasks.reporting.check_figures import CLASS_PREFIX
from tasks.reporting.dossier_reading import (
    chosen_candidate,
    deployed_evaluation,
    finished_candidates,
    gate_checks,
    primary_metric,
)

_MOST_SHOWN = 20


@dataclass(frozen=True)
class ClassRow:
    """One class."""

    name: str
    num_rows: str
    baseline: str
    candidate: str
    change: str
    bar: Markup
    check: Check | None
    """The gate's check of the class."""


@dataclass(frozen=True)
class ClassTable:
    """The worst classes of one candidate."""

    candidate: str
    chosen: bool
    """False: nothing was chosen, and this is the candidate that is best in the metric that counts."""
    split: SplitName
    rows: tuple[ClassRow, ...]
    num_left_out: int
    left_out: str
    """What can be said of the classes that are not shown."""


def make_class_table(dossier: RunDossier) -> ClassTable | None:
    """Return the classes ordered by how much recall they lost, the 20 worst of more; None without classes."""
    candidate = chosen_candidate(dossier) or _best(dossier)
    before = dossier.record.baseline.evaluation.per_class
    if candidate is None or not before:
        return None
    after = deployed_evaluation(candidate).per_class
    changes = {name: after[name] - recall for name, recall in before.items() if name in after}
    worst_first = sorted(changes, key=lambda name: (changes[name], after[name], name))
    shown, rest = worst_first[:_MOST_SHOWN], worst_first[_MOST_SHOWN:]
    largest = max((abs(change) for change in changes.values()), default=0.0)
    return ClassTable(
        candidate=candidate.name,
        chosen=candidate.name == dossier.record.chosen,
        split=deployed_evaluation(candidate).split,
        rows=tuple(_row(dossier, candidate, name, largest) for name in shown),
        num_left_out=len(rest),
        left_out=f"their change is {figures.points(changes[rest[0]])} or better" if rest else "",
    )


def _best(dossier: RunDossier) -> CandidateSummary | None:
    """Return the finished candidate that is best in the metric that counts, for a run that chose none."""
    metric = primary_metric(dossier)
    finished = [one for one in finished_candidates(dossier) if metric == "accuracy"]
    return max(finished, key=lambda one: deployed_evaluation(one).metrics[metric], default=None)


def _row(dossier: RunDossier, candidate: CandidateSummary, name: str, largest: float) -> ClassRow:
    evaluation = deployed_evaluation(candidate)
    before, after = dossier.record.baseline.evaluation.per_class[name], evaluation.per_class[name]
    split = dossier.dataset.splits.get(evaluation.split)
    checks = {check.name: check for check in gate_checks(dossier, candidate.name)}
    change = figures.points(after - before)
    return ClassRow(
        name=name,
        num_rows=figures.count(split.composition.get(name) if split else None),
        baseline=figures.share(before),
        candidate=figures.share(after),
        change=change,
        bar=deviation_bar(after - before, largest, f"{change} of recall", better=after >= before),
        check=checks.get(f"{CLASS_PREFIX}{name}"),
    )
