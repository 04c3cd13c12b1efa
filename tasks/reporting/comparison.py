"""The table of candidates against the baseline, figure by figure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tasks.contracts.evaluation import METRIC_DIRECTIONS, Evaluation, Timing
from tasks.contracts.run import CandidateSummary, RunDossier
from tasks.contracts.verdict import Verdict
from tasks.reporting import figures
from tasks.reporting.check_figures import check_figures
from tasks.reporting.dossier_reading import (
    deployed_evaluation,
    finished_candidates,
    latency_p50_ms,
    on_validation,
    quality_check,
)

_FEW_ZEROS = 0.05
"""Share of zero weights below which they are no news: rounding to int8 makes some of any model's."""

Measured = Evaluation | Timing
"""Eager torch has a timing and no evaluation of its own."""


@dataclass(frozen=True)
class Column:
    """One model of the table."""

    name: str
    note: str = ""
    verdict: Verdict | None = None
    chosen: bool = False
    on_front: bool = False


@dataclass(frozen=True)
class Cell:
    """One figure; `note` stands below it."""

    text: str
    note: str = ""
    best: bool = False
    """The best of the candidates."""


@dataclass(frozen=True)
class Row:
    """One figure of every model."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows that belong together."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Comparison:
    """The whole table."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]


def compare(dossier: RunDossier) -> Comparison:
    """Return every figure of the baseline, of eager torch and of every finished candidate, side by side."""
    finished = _chosen_first(dossier)
    columns = [
        Column(
            one.name,
            " \u2192 ".join(stage.kind for stage in one.stages),
            one.gate.verdict,
            chosen=one.name == dossier.record.chosen,
            on_front=one.pareto,
        )
        for one in finished
    ]
    columns = [Column("baseline", "ONNX Runtime"), *columns, Column("eager torch", "baseline, timing only")]
    table = _table(dossier)
    groups = (
        _quality_group(table),
        Group("Gate", _gate_rows(dossier)),
        _quality_group(_table(on_validation(dossier))),
        Group("Size", tuple(_size_rows(table))),
        *_latency_groups(table),
        Group("Speed-up of p50, batch 1", tuple(_speed_rows(table))),
        Group("Running", tuple(_running_rows(table))),
    )
    return Comparison(tuple(columns), groups)


def _table(dossier: RunDossier) -> "_Table":
    candidates = tuple(deployed_evaluation(one) for one in _chosen_first(dossier))
    return _Table(dossier.record.baseline.evaluation, dossier.eager_timing, candidates)


def _chosen_first(dossier: RunDossier) -> list[CandidateSummary]:
    """Return the finished candidates, the chosen one first: it is what a narrow screen shows beside the baseline."""
    return sorted(finished_candidates(dossier), key=lambda one: one.name != dossier.record.chosen)


@dataclass(frozen=True)
class _Table:
    """The measurements in the order of the columns."""

    base: Evaluation
    eager: Timing
    candidates: tuple[Evaluation, ...]

    def row(
        self,
        label: str,
        read: Callable[[Measured], float | None],
        write: Callable[[float | None], str],
        *,
        better: str = "lower",
        timed: bool = False,
        note: Callable[[float, float], str] | None = None,
    ) -> Row:
        """Return one row.

        Args:
            label: what it shows.
            read: the figure of one measurement.
            write: the figure as text.
            better: which way it improves; the best candidate is marked.
            timed: whether a timing alone has it, so that eager torch has it too.
            note: what to write below a candidate's figure, from the baseline's and its own.
        """
        values = [read(candidate) for candidate in self.candidates]
        known = [value for value in values if value is not None and value == value]
        best = None if len(set(known)) < 2 else max(known) if better == "higher" else min(known)
        before = read(self.base)
        cells = [Cell(write(before))]
        for value in values:
            below = note(before, value) if note and before is not None and value is not None else ""
            cells.append(Cell(write(value), below, best=value is not None and value == best))
        cells.append(Cell(write(read(self.eager)) if timed else figures.MISSING))
        return Row(label, tuple(cells))


def _quality_group(table: _Table) -> Group:
    return Group(f"Quality on {table.base.num_rows:,} {table.base.split} rows", tuple(_quality_rows(table)))


def _quality_rows(table: _Table) -> Iterator[Row]:
    yield from (_metric_row(table, name) for name in table.base.metrics)
    if table.base.ece is not None:
        yield table.row("calibration error (ECE)", lambda one: _evaluation(one).ece, figures.number)
        yield table.row("answers that flipped", lambda one: _evaluation(one).flip_rate, figures.share)


def _metric_row(table: _Table, name: str) -> Row:
    return table.row(
        name.replace("_", " "),
        lambda one: _evaluation(one).metrics.get(name),
        lambda value: figures.metric(name, value),
        better=METRIC_DIRECTIONS.get(name, "higher"),
        note=lambda before, value: figures.metric_change(name, value - before),
    )


def _gate_rows(dossier: RunDossier) -> tuple[Row, ...]:
    blank = Cell(figures.MISSING)
    changes = [blank]
    for candidate in _chosen_first(dossier):
        check = quality_check(dossier, candidate.name)
        shown = check_figures(check) if check else None
        changes.append(Cell(shown.estimate, f"bound {shown.bound}" if shown.bound else "") if shown else blank)
    what = "accuracy" if dossier.dataset.task == "classification" else "RMSE"
    return (Row(f"change of {what}", (*changes, blank)),)


def _size_rows(table: _Table) -> Iterator[Row]:
    def smaller(before: float, value: float) -> str:
        return f"{figures.times(before / value)} smaller"

    yield table.row("at rest", lambda one: _evaluation(one).size_bytes, figures.bytes_text, note=smaller)
    yield table.row("zipped", lambda one: _evaluation(one).size_zip_bytes, figures.bytes_text, note=smaller)
    yield table.row("parameters", lambda one: _evaluation(one).num_parameters, figures.count)
    if any(one.zero_share > _FEW_ZEROS for one in table.candidates):
        yield table.row("zero weights", lambda one: _evaluation(one).zero_share, figures.share)
    yield table.row("operations a row", lambda one: _evaluation(one).flops, figures.operations)


def _latency_groups(table: _Table) -> Iterator[Group]:
    for batch in sorted(table.base.latency_ms, key=int):
        rows = tuple(_quantile_row(table, batch, quantile) for quantile in ("p50", "p95", "p99"))
        yield Group(f"Latency of one call at batch {batch}", rows)


def _speed_rows(table: _Table) -> Iterator[Row]:
    yield _speed_row(table, "baseline", latency_p50_ms(table.base))
    yield _speed_row(table, "eager torch", table.eager.latency_ms["1"].p50)


def _quantile_row(table: _Table, batch: str, quantile: str) -> Row:
    def read(one: Measured) -> float | None:
        quantiles = one.latency_ms.get(batch)
        return None if quantiles is None else float(getattr(quantiles, quantile))

    return table.row(quantile, read, figures.milliseconds, timed=True)


def _speed_row(table: _Table, reference: str, reference_ms: float) -> Row:
    return table.row(
        f"over {reference}",
        lambda one: reference_ms / one.latency_ms["1"].p50,
        figures.times,
        better="higher",
        timed=True,
    )


def _running_rows(table: _Table) -> Iterator[Row]:
    yield table.row("throughput", lambda one: one.throughput_per_s, figures.rate, better="higher", timed=True)
    yield table.row("peak memory", lambda one: one.peak_memory_bytes, figures.bytes_text, timed=True)
    yield table.row("cold start", lambda one: one.cold_start_ms, figures.milliseconds, timed=True)
    yield table.row("nodes in int8", lambda one: _evaluation(one).int8_coverage, figures.share, better="higher")


def _evaluation(one: Measured) -> Evaluation:
    assert isinstance(one, Evaluation), "asked only of rows that a timing does not have"
    return one
