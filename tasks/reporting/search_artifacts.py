"""A search in Prefect's pages: artifacts of the flow run, whose keys are the same for every search of a plan."""

from typing import Any

import httpx

from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.search import SearchRecord, Trial
from tasks.reporting.artifacts import escape_markdown, stable_key


def publish_search(record: SearchRecord, found: str | None) -> None:
    """Create the artifacts `<plan>-trials` and, where something was found, `<plan>-found`, the plan as YAML.

    Needs the context of a flow or task run.

    Raises:
        ServiceUnavailableError: the server is away.
    """
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    told = escape_markdown(headline(record))
    trials_key, found_key = (stable_key(record.plan.name, kind) for kind in ("trials", "found"))
    try:
        create_table_artifact(trial_table(record), key=trials_key, description=told)
        if found is not None:
            create_markdown_artifact(f"```yaml\n{found}```\n", key=found_key, description=told)
    except (httpx.HTTPError, RuntimeError) as error:  # the client tells of an API that is away by RuntimeError
        raise ServiceUnavailableError(
            f"the Prefect server (PREFECT_API_URL) took no artifacts of search {record.run_id}: {error}"
        ) from error


def headline(record: SearchRecord) -> str:
    """Say in a sentence or two what a search came to."""
    within = sum(trial.is_within_limits for trial in record.trials)
    failed = sum(trial.figures is None for trial in record.trials)
    counted = f"{len(record.trials)} chains tried, {within} within the plan's limits on both halves of validation"
    counted += f", {failed} did not get to their end" if failed else ""
    if record.finalists:
        return f"{counted}. For the gate: {', '.join(trial.name for trial in record.chosen)}."
    nearest = nearest_miss(record)
    if nearest is None:
        return f"{counted}. No chain got to its end; the first says: {record.trials[0].failure}"
    return f"{counted}. Nearest: {nearest.name}, {beyond(record, nearest)}. Widen the space, or raise the limit."


def nearest_miss(record: SearchRecord) -> Trial | None:
    """Return the chain that is least beyond its worst limit; None if none got to its end."""
    finished = [(trial, trial.excess) for trial in record.trials if trial.excess is not None]
    if not finished:
        return None
    return min(finished, key=lambda one: max(one[1].tuned, one[1].held, one[1].size))[0]


def beyond(record: SearchRecord, trial: Trial) -> str:
    """Say which limits a chain is beyond, and by how much."""
    assert trial.excess is not None
    lost = "points of accuracy" if record.metric == "accuracy" else "% of RMSE"
    parts = []
    for amount, half in ((trial.excess.tuned, "tuned"), (trial.excess.held, "held-out")):
        if amount > 0:
            parts.append(f"{100 * amount:.2g} {lost} beyond the tolerated loss on the {half} half")
    if trial.excess.size > 0:
        parts.append(f"{trial.excess.size:.0%} over the allowed size")
    return " and ".join(parts) or "within every limit"


def trial_table(record: SearchRecord) -> list[dict[str, Any]]:
    """Return one row for the baseline and for every trial; numbers stay numbers."""
    base = record.baseline
    names = {"tuned": f"{record.metric} tuned", "held": f"{record.metric} held out"}
    rows: list[dict[str, Any]] = [
        {"chain": "baseline", names["tuned"]: round(base.scores.tuned, 6), names["held"]: round(base.scores.held, 6),
         "bytes": base.size_bytes, "flops": base.flops, "seconds": "", "state": "", "values": ""}
    ]  # fmt: skip
    for trial in record.trials:
        figures = trial.figures
        rows.append(
            {
                "chain": trial.name,
                names["tuned"]: round(figures.scores.tuned, 6) if figures else "",
                names["held"]: round(figures.scores.held, 6) if figures else "",
                "bytes": figures.size_bytes if figures else "",
                "flops": figures.flops if figures else "",
                "seconds": round(trial.seconds, 1),
                "state": state_of(record, trial),
                "values": ", ".join(f"{place}={value}" for place, value in trial.values.items()),
            }
        )
    return rows


def state_of(record: SearchRecord, trial: Trial) -> str:
    """Say in a word or a sentence what became of a trial."""
    if trial.number in record.finalists:
        return "finalist"
    if trial.figures is None:
        return trial.failure
    return "within limits" if trial.is_within_limits else beyond(record, trial)
