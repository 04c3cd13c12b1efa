"""The text of a model card, as Markdown."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.contracts.data import SPLIT_NAMES
from tasks.contracts.evaluation import METRIC_DIRECTIONS, Evaluation
from tasks.reporting import figures
from tasks.reporting.check_figures import CLASS_PREFIX, check_figures, check_title
from tasks.reporting.model_card import ModelCard

NOT_MEASURED = "not measured"
_MOST_CLASSES = 20
_BREAKS = re.compile(r"[\r\n\t\v\f\u0085\u2028\u2029]+")
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*_`<>[]#"})


def card_markdown(card: ModelCard) -> str:
    """Write the card as Markdown; all that the user named is escaped."""
    parts = [
        [f"# {_plain(card.model_name)}: {_plain(card.candidate or 'baseline')}", "", summary_of(card)],
        ["## Intended use", "", _use(card)],
        ["## Limits", "", *(f"- {_plain(limit)}" for limit in card.limits)],
        ["## Quality", "", *_quality(card)],
        ["## Gate", "", *_gate(card)],
        ["## Classes", "", *_classes(card)],
        ["## Size and speed", "", *_speed(card)],
        ["## How it was made", "", *_chain(card)],
        ["## Data", "", *_data(card)],
        ["## Lineage", "", *_lineage(card)],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def summary_of(card: ModelCard) -> str:
    """Return the card in two sentences, as a registry's description."""
    name, base = primary_metric(card), card.baseline_evaluation
    judged = f"The gate says {card.verdict}." if card.verdict else "No gate judged it."
    chain = " > ".join(stage.kind for stage in card.stages)
    return (
        f"{_plain(chain)} on {_plain(card.data.name)}: {_metric(name, card.evaluation)} on "
        f"{card.evaluation.num_rows:,} {card.evaluation.split} rows (baseline {_metric(name, base)}), "
        f"{figures.bytes_text(card.evaluation.size_bytes)} (baseline {figures.bytes_text(base.size_bytes)}). {judged}"
    )


def primary_metric(card: ModelCard) -> str:
    """Return the metric that the gate looks at first."""
    return "accuracy" if card.data.task == "classification" else "rmse"


def _metric(name: str, evaluation: Evaluation) -> str:
    value = evaluation.metrics.get(name)
    return f"{name} {NOT_MEASURED if value is None else figures.metric(name, value)}"


def _use(card: ModelCard) -> str:
    shape = " x ".join(map(str, card.data.input_shape))
    rows = f"rows of {shape} {card.data.input_dtype} values like those of {_plain(card.data.name)}"
    kinds = len(card.data.class_names)
    what = f"put {rows} into {kinds} classes" if kinds else f"estimate one number for {rows}"
    if card.candidate is None:
        return f"To {what}."
    return f"To {what}, in place of the baseline {card.baseline[:12]}, whose mistakes it may share."


def _quality(card: ModelCard) -> Iterator[str]:
    model, base = card.evaluation, card.baseline_evaluation
    rows = [
        [name, figures.metric(name, value), figures.metric(name, base.metrics.get(name))]
        for name in METRIC_DIRECTIONS
        if (value := model.metrics.get(name)) is not None
    ]
    rows.append(["expected calibration error", _share(model.ece), _share(base.ece)])
    rows.append(["predictions that differ from the baseline's", _share(model.flip_rate), figures.MISSING])
    yield from _table([f"{model.split} split, {model.num_rows:,} rows", "model", "baseline"], rows)


def _gate(card: ModelCard) -> Iterator[str]:
    if card.verdict is None:
        yield "Not judged: the baseline is what candidates are held against."
        return
    assert card.alpha is not None
    yield (
        f"{card.verdict} by report `{card.gate_report}`; each bound holds with "
        f"{figures.percent(1.0 - card.alpha)} confidence."
    )
    yield ""
    rows = []
    for check in card.checks:
        if not check.name.startswith(CLASS_PREFIX):
            numbers = check_figures(check)
            told = "" if check.blocking else " (reported)"
            estimate = NOT_MEASURED if check.estimate is None else numbers.estimate
            figure = [estimate, numbers.bound, numbers.limit]
            rows.append([check_title(check.name) + told, str(check.verdict), *figure, check.detail])
    yield from _table(["check", "verdict", "estimate", "bound", "limit", "what it says"], rows)


def _classes(card: ModelCard) -> Iterator[str]:
    if not card.classes:
        yield "There are none: the model gives a number." if card.data.task == "regression" else NOT_MEASURED
        return
    rows = [
        [
            one.name,
            figures.count(one.num_rows),
            figures.share(one.model),
            figures.share(one.baseline),
            figures.points(one.model - one.baseline),
            str(one.verdict or "not asked"),
        ]
        for one in card.classes[:_MOST_CLASSES]
    ]
    yield from _table(["class", "rows", "recall", "baseline", "change", "check"], rows)
    left_out = len(card.classes) - len(rows)
    if left_out:
        yield ""
        yield f"{left_out} more classes changed by {rows[-1][4]} or better."


def _speed(card: ModelCard) -> Iterator[str]:
    model, base, machine = card.evaluation, card.baseline_evaluation, card.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    yield f"{_plain(machine.processor)}, {machine.num_cpus} CPUs, {machine.provider}, {_plain(versions)}."
    yield ""
    rows = [
        ["size at rest", figures.bytes_text(model.size_bytes), figures.bytes_text(base.size_bytes)],
        ["size zipped", figures.bytes_text(model.size_zip_bytes), figures.bytes_text(base.size_zip_bytes)],
        ["parameters", figures.count(model.num_parameters), figures.count(base.num_parameters)],
        ["operations a row", figures.operations(model.flops), figures.operations(base.flops)],
        ["nodes that run in int8", figures.share(model.int8_coverage), figures.share(base.int8_coverage)],
        ["peak memory", figures.bytes_text(model.peak_memory_bytes), figures.bytes_text(base.peak_memory_bytes)],
        ["cold start", figures.milliseconds(model.cold_start_ms), figures.milliseconds(base.cold_start_ms)],
    ]
    for batch, latency in sorted(model.latency_ms.items(), key=lambda item: int(item[0])):
        before = base.latency_ms.get(batch)
        rows.append([f"latency p50 / p95 / p99, batch {batch}", _quantiles(latency), _quantiles(before)])
    yield from _table(["", "model", "baseline"], rows)


def _chain(card: ModelCard) -> Iterator[str]:
    for position, stage in enumerate(card.stages, start=1):
        settings = ", ".join(f"{name} {value}" for name, value in _flat(stage.settings))
        yield f"{position}. {_plain(stage.kind)}: {_plain(settings) or 'no settings recorded'} -> `{stage.model[:12]}`"


def _data(card: ModelCard) -> Iterator[str]:
    data = card.data
    splits = ", ".join(f"{name} {data.splits[name]:,}" for name in SPLIT_NAMES if name in data.splits)
    yield from _table(
        ["", ""],
        [
            ["name", data.name],
            ["SHA-256 of the splits", data.digest],
            ["DVC revision", data.revision],
            ["licence", data.license or "not recorded; set `dataset.license` in the plan"],
            ["rows", splits],
        ],
    )


def _lineage(card: ModelCard) -> Iterator[str]:
    named = {
        "model": card.digest,
        "run": card.run_id,
        "finished": card.finished_at,
        "plan": f"{card.plan.name} ({card.plan.digest})",
        "baseline": card.baseline,
        "gate report": card.gate_report or "none",
    }
    rows = [[name, value] for name, value in (named | dict(sorted(card.lineage.items()))).items()]
    yield from _table(["", ""], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _line(head)
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield _line(row)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _share(value: float | None) -> str:
    return NOT_MEASURED if value is None else figures.share(value)


def _quantiles(latency: Any) -> str:
    if latency is None:
        return NOT_MEASURED
    return " / ".join(figures.milliseconds(value) for value in (latency.p50, latency.p95, latency.p99))


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            yield f"{prefix}{name}", value


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would take for markup."""
    return _BREAKS.sub(" ", text).translate(_MARKDOWN)
