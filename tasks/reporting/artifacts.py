"""A run in Prefect's pages: artifacts of the current flow run, whose keys are the same for every run of a plan."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.run import RunDossier
from tasks.contracts.verdict import Check
from tasks.reporting import figures
from tasks.reporting.check_figures import check_figures, check_title
from tasks.reporting.dossier_reading import latency_p50_ms, on_validation, primary_metric
from tasks.reporting.headline import make_headline
from tasks.reporting.pareto_picture import pareto_picture
from tasks.reporting.pareto_points import pareto_points

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")


def publish_artifacts(dossier: RunDossier) -> None:
    """Create the artifacts of a run: the stages, the Pareto picture, the gate's report, and where the page is.

    Needs the context of a flow or task run. The keys `<plan>-stages`, `-pareto`, `-gate` and `-report` are stable,
    so that Prefect shows the runs of a plan as versions of one artifact.

    Raises:
        ServiceUnavailableError: the server is away.
    """
    try:
        _create_artifacts(dossier)
    except (httpx.HTTPError, RuntimeError) as error:  # the client tells of an API that is away by RuntimeError
        raise ServiceUnavailableError(
            f"the Prefect server (PREFECT_API_URL) took no artifacts of run {dossier.record.run_id}: {error}"
        ) from error


def _create_artifacts(dossier: RunDossier) -> None:
    from prefect.artifacts import (
        create_image_artifact,
        create_link_artifact,
        create_markdown_artifact,
        create_table_artifact,
    )

    headline = make_headline(dossier)
    told = escape_markdown(f"{headline.title}. {headline.sentence}")
    plan = dossier.record.plan.name
    create_table_artifact(stage_table(dossier), key=stable_key(plan, "stages"), description=told)
    create_image_artifact(
        pareto_image(dossier),
        key=stable_key(plan, "pareto"),
        description=f"{told} Disc area: p50 latency.",
    )
    create_markdown_artifact(gate_markdown(dossier), key=stable_key(plan, "gate"), description=told)
    create_link_artifact(
        Path(dossier.record.report).absolute().as_uri(),
        link_text="HTML report",
        key=stable_key(plan, "report"),
        description=f"{told} The report is on the host of the run, at `{dossier.record.report}`.",
    )


def stable_key(plan_name: str, kind: str) -> str:
    """Return the key of an artifact: lower-case letters, digits and dashes, as Prefect demands."""
    plan = re.sub(r"[^a-z0-9]+", "-", plan_name.lower()).strip("-")
    return f"{plan or 'plan'}-{kind}"


def stage_table(dossier: RunDossier) -> list[dict[str, Any]]:
    """Return one row for the baseline and for every stage, evaluated on validation; numbers stay numbers."""
    dossier = on_validation(dossier)
    metric, base = primary_metric(dossier), dossier.record.baseline.evaluation
    rows = [
        {
            "candidate": "baseline",
            "stage": dossier.baseline_stage.kind,
            "cached": "",
            "seconds": round(dossier.baseline_stage.seconds, 1),
            "host": dossier.baseline_stage.host,
            "bytes": base.size_bytes,
            metric: round(base.metrics[metric], 6),
            "p50_ms": round(latency_p50_ms(base), 4),
        }
    ]
    rows += [
        {
            "candidate": candidate.name,
            "stage": stage.kind,
            "cached": "yes" if stage.cached else "no",
            "seconds": round(stage.seconds, 1),
            "host": stage.host,
            "bytes": stage.evaluation.size_bytes,
            metric: round(stage.evaluation.metrics[metric], 6),
            "p50_ms": round(latency_p50_ms(stage.evaluation), 4),
        }
        for candidate in dossier.record.candidates
        for stage in candidate.stages
    ]
    return rows


def pareto_image(dossier: RunDossier) -> str:
    """Return the Pareto picture as a data URI, which Prefect's pages show as an image without a network."""
    drawn = pareto_picture(pareto_points(dossier), primary_metric(dossier), standalone=True)
    return f"data:image/svg+xml,{quote(str(drawn), safe=_SAFE_IN_URI)}"


_SAFE_IN_URI = " '()*,-./:;=?@_~!"
"""Characters that a quoted attribute takes as they are: the URI stays short and legible."""


def gate_markdown(dossier: RunDossier) -> str:
    """Return every check of every candidate as Markdown, a table for each."""
    parts = ["# Gate"]
    for candidate in dossier.record.candidates:
        parts.append(f"## {escape_markdown(candidate.name)}: {candidate.gate.verdict}")
        stored = dossier.candidates[candidate.name].gate
        if stored is None:
            parts.append(f"Not judged: {escape_markdown(dossier.candidates[candidate.name].failure or 'unknown')}")
            continue
        head = "| check | verdict | estimate | bound | limit | rows | what it says |\n|---|---|--:|--:|--:|--:|---|"
        parts.append("\n".join([head, *(_markdown_row(check) for check in stored.report.checks)]))
        parts.append(f"Confidence {figures.percent(1.0 - stored.report.alpha)}; report `{stored.artifact.digest}`")
    return "\n\n".join(parts) + "\n"


def _markdown_row(check: Check) -> str:
    numbers = check_figures(check)
    name = f"{check_title(check.name)}{'' if check.blocking else ' (reported)'}"
    rows = figures.count(check.num_rows)
    if check.num_rows_needed:
        rows += f", needs {figures.count(check.num_rows_needed)}"
    cells = (name, check.verdict, numbers.estimate, numbers.bound, numbers.limit, rows, check.detail)
    return f"| {' | '.join(escape_markdown(cell) for cell in cells)} |"


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line and in one table cell."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.splitlines()))
