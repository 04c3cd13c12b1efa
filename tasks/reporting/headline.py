"""What came out of a run, in one sentence and three figures."""

from dataclasses import dataclass
from typing import Literal

from tasks.contracts.run import CandidateSummary, RunDossier
from tasks.contracts.verdict import Verdict
from tasks.reporting.check_figures import allowed_loss, check_figures
from tasks.reporting.dossier_reading import (
    chosen_candidate,
    deployed_evaluation,
    finished_candidates,
    latency_p50_ms,
    quality_check,
)
from tasks.reporting.figures import bytes_text, milliseconds, percent, times

Tone = Literal["pass", "fail", "inconclusive"]

_ROLLOUTS = {
    "promote": "The rollout promoted it to champion.",
    "roll_back": "The rollout gave all traffic back to the champion.",
    "hold": "The rollout is not settled yet.",
    "unchanged": "It is the champion already, so there was nothing to roll out.",
    "skipped": "The rollout was skipped.",
}


@dataclass(frozen=True)
class Figure:
    """One of the three figures that count."""

    name: str
    value: str
    label: str
    """What the value says, such as `smaller`."""
    detail: str


@dataclass(frozen=True)
class Headline:
    """The top of the page."""

    tone: Tone
    title: str
    sentence: str
    figures: tuple[Figure, ...]
    """Empty when no candidate was chosen."""
    ending: str
    """What became of it in the registry and in the traffic."""


def make_headline(dossier: RunDossier) -> Headline:
    """Return the outcome of a run as its headline."""
    chosen = chosen_candidate(dossier)
    if chosen is None:
        return _nothing_chosen(dossier)
    figures = (_smaller(dossier, chosen), _faster(dossier, chosen), _quality(dossier, chosen))
    return Headline(
        tone="pass",
        title=f"{chosen.name} passed the gate",
        sentence=f"It is {figures[0].value} {figures[0].label} and {figures[1].value} {figures[1].label} than the "
        f"baseline; {figures[2].label} changed by {figures[2].value}{_at_worst(dossier, chosen)}.",
        figures=figures,
        ending=_ending(dossier),
    )


def _smaller(dossier: RunDossier, chosen: CandidateSummary) -> Figure:
    before, after = dossier.record.baseline.evaluation.size_bytes, deployed_evaluation(chosen).size_bytes
    value, label = _compared(before / after, "smaller", "larger")
    return Figure("size", value, label, f"{bytes_text(after)} at rest instead of {bytes_text(before)}")


def _faster(dossier: RunDossier, chosen: CandidateSummary) -> Figure:
    before, after = latency_p50_ms(dossier.record.baseline.evaluation), latency_p50_ms(deployed_evaluation(chosen))
    value, label = _compared(before / after, "faster", "slower")
    eager = times(dossier.eager_timing.latency_ms["1"].p50 / after)
    detail = f"p50 at batch 1: {milliseconds(after)} instead of {milliseconds(before)} in ONNX Runtime"
    return Figure("speed", value, label, f"{detail}; {eager} against eager torch")


def _compared(ratio: float, better: str, worse: str) -> tuple[str, str]:
    return (times(ratio), better) if ratio >= 1.0 else (times(1.0 / ratio), worse)


def _quality(dossier: RunDossier, chosen: CandidateSummary) -> Figure:
    check = quality_check(dossier, chosen.name)
    stored = dossier.candidates[chosen.name].gate
    if check is None or stored is None:
        return Figure("quality", "unknown change", "quality", "the gate's report is not in the dossier")
    figures = check_figures(check)
    what = "accuracy" if check.name == "accuracy" else "RMSE"
    confidence = percent(1.0 - stored.report.alpha)
    bound = f", at worst {figures.bound} with {confidence} confidence" if figures.bound else ""
    detail = (
        f"on {check.num_rows:,} test rows{bound}; "
        f"a {'drop' if what == 'accuracy' else 'rise'} of {allowed_loss(check)} is allowed"
    )
    return Figure("quality", figures.estimate, f"test {what}", detail)


def _at_worst(dossier: RunDossier, chosen: CandidateSummary) -> str:
    check = quality_check(dossier, chosen.name)
    return f" ({check_figures(check).bound} at worst)" if check and check.bound is not None else ""


def _ending(dossier: RunDossier) -> str:
    record = dossier.record
    if record.registered is None:
        return "It is not registered yet."
    aliases = ", ".join(record.registered.aliases) or "no alias"
    registered = f"Registered as version {record.registered.version} of {record.registered.name} ({aliases})."
    if record.rollout is None:
        return f"{registered} There was no rollout in this run."
    return f"{registered} {_ROLLOUTS.get(record.rollout.verdict, f'Rollout: {record.rollout.verdict}.')}"


def _nothing_chosen(dossier: RunDossier) -> Headline:
    finished = finished_candidates(dossier)
    verdicts = [candidate.gate.verdict for candidate in finished]
    counts = {
        "failed the gate": verdicts.count(Verdict.FAIL),
        "could not be settled": verdicts.count(Verdict.INCONCLUSIVE),
        "passed but was not chosen": verdicts.count(Verdict.PASS),
        "did not finish": len(dossier.record.candidates) - len(finished),
    }
    told = ", ".join(f"{num} {what}" for what, num in counts.items() if num)
    total = len(dossier.record.candidates)
    return Headline(
        tone="inconclusive" if Verdict.INCONCLUSIVE in verdicts else "fail",
        title="No candidate passed the gate",
        sentence=f"Of {total} {'candidate' if total == 1 else 'candidates'}: {told}.",
        figures=(),
        ending="Nothing was registered or rolled out; the champion stays as it is.",
    )
