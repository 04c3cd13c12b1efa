"""Tables for people: the outcome of a run, and the checks of a gate."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.cli.console import bytes_text
from tasks.contracts.evaluation import Evaluation
from tasks.contracts.run import CandidateSummary, RunDossier
from tasks.contracts.verdict import StoredGateReport, Verdict

_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}


def summary(dossier: RunDossier) -> RenderableType:
    """Return the outcome of a run: every candidate beside the baseline, the verdicts, and what happened to the best."""
    parts: list[RenderableType] = [_candidates(dossier)]
    parts += [
        Text(f"{name}: {candidate.failure}", style="red")
        for name, candidate in dossier.candidates.items()
        if candidate.failure
    ]
    parts += _unsettled(dossier)
    if dossier.baseline_moved:
        parts.append(Text(dossier.baseline_moved, style="yellow"))
    parts.append(_ending(dossier))
    return Group(*parts)


def gate_table(candidate: str, stored: StoredGateReport | None, failure: str | None) -> RenderableType:
    """Return the checks of one candidate with their numbers."""
    if stored is None:
        return Text(f"{candidate}: not judged; {failure}", style="red")
    report = stored.report
    table = Table(title=f"{candidate}: {report.verdict} (report {stored.artifact.digest[:12]})", title_justify="left")
    for column in ("check", "verdict", "estimate", "bound", "margin", "rows", "what it says"):
        table.add_column(column, justify="right" if column in ("estimate", "bound", "margin", "rows") else "left")
    for check in report.checks:
        name = check.name if check.blocking else f"{check.name} (reported)"
        numbers = [_number(check.estimate), _number(check.bound), _number(check.margin), str(check.num_rows)]
        table.add_row(Text(name), Text(check.verdict, style=_STYLES[check.verdict]), *numbers, Text(check.detail))
    return table


def _candidates(dossier: RunDossier) -> Table:
    record = dossier.record
    metric = next(iter(record.baseline.evaluation.metrics))
    title = f"{record.plan.name} on {record.dataset.name}, {record.baseline.evaluation.split} split"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("candidate", metric, "size", "smaller", "p50 ms", "faster", "gate")
    for column in columns:
        is_text = column in ("candidate", "gate")
        # on a narrow terminal the name gives way, never a number
        table.add_column(column, justify="left" if is_text else "right", no_wrap=column != "candidate", overflow="fold")
    base = record.baseline.evaluation
    table.add_row("baseline", *_figures(base, base, metric), "")
    for candidate in record.candidates:
        table.add_row(*_row(candidate, base, metric, chosen=candidate.name == record.chosen))
    return table


def _row(candidate: CandidateSummary, base: Evaluation, metric: str, *, chosen: bool) -> list[str | Text]:
    verdict = Text(candidate.gate.verdict, style=_STYLES[candidate.gate.verdict])
    name = Text(f"{candidate.name} *" if chosen else candidate.name, style="bold" if chosen else "")
    if not candidate.stages:
        return [name, *[""] * 5, verdict]
    return [name, *_figures(candidate.stages[-1].evaluation, base, metric), verdict]


def _figures(evaluation: Evaluation, base: Evaluation, metric: str) -> list[str]:
    p50, base_p50 = evaluation.latency_ms["1"].p50, base.latency_ms["1"].p50
    return [
        f"{evaluation.metrics[metric]:.4f}",
        bytes_text(evaluation.size_bytes),
        f"{base.size_bytes / evaluation.size_bytes:.1f}x",
        f"{p50:.3f}",
        f"{base_p50 / p50:.1f}x",
    ]


def _unsettled(dossier: RunDossier) -> list[Text]:
    lines = []
    for name, candidate in dossier.candidates.items():
        for check in candidate.gate.report.checks if candidate.gate else ():
            if check.blocking and check.verdict is not Verdict.PASS:
                needed = f"; {check.num_rows_needed} rows would settle it" if check.num_rows_needed else ""
                lines.append(Text(f"{name}: {check.name} {check.verdict}: {check.detail}{needed}", style="yellow"))
    return lines


def _ending(dossier: RunDossier) -> Text:
    record = dossier.record
    if record.chosen is None or record.registered is None:
        return Text("no candidate passed the gate; the champion stays as it is", style="bold yellow")
    aliases = ", ".join(record.registered.aliases) or "no alias"
    rollout = f"; rollout: {record.rollout.verdict}" if record.rollout else ""
    return Text(
        f"* {record.chosen} is version {record.registered.version} of {record.registered.name} ({aliases}){rollout}",
        style="bold",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
