"""`stillhouse search`: from what may vary in a plan's chains to the chains that are worth the gate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.plan import Overrides, PlanPath
from flows.cli.run import write_record

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.contracts.search import SearchRecord

EXIT_NOTHING = 1


def search(
    plan: PlanPath,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the plan that is found here instead of standard output.")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Write the record (schema stillhouse.search/1) to this file; `-`: standard output, without the plan.",
        ),
    ] = None,
) -> None:
    """Try chains from a plan's `search.space`, and write a plan with the few that are worth the gate.

    The search goes by one half of the validation split and chooses by the other; the test split is left to the gate.
    `stillhouse run` on what is found computes no stage anew. Exit codes: 0 something was found, 1 no chain keeps the
    plan's limits, 2 bad input, 3 infrastructure.

    Example: `stillhouse search plans/digits.yaml --set search.trials=20 --out found.yaml`
    """
    from flows.cli.console import console, error_console
    from flows.cli.progress import shown_progress
    from flows.plan import parse_plan, read_document
    from tasks.adapters.local_store import write_atomically
    from tasks.adapters.mlflow_connection import import_in_background
    from tasks.reporting.search_artifacts import headline
    from tasks.runtime.prefect_server import start_prefect_server
    from tasks.runtime.settings import current_settings

    document = read_document(plan, tuple(overrides or ()))
    loaded = parse_plan(document, str(plan))
    start_prefect_server(current_settings())
    import_in_background()
    from flows.search import found_text, search_plan

    with shown_progress(f"{loaded.name} search"):
        record = search_plan(loaded)
    if json_file is not None:
        write_record(record, json_file)
    error_console().print(_table(record))
    for trial in record.chosen:
        values = ", ".join(f"{place}={value}" for place, value in trial.values.items())
        error_console().print(f"{trial.name}: {values}", soft_wrap=True, markup=False, highlight=False)
    error_console().print(headline(record), soft_wrap=True, markup=False)
    text = found_text(document, record)
    if text is None:
        raise typer.Exit(EXIT_NOTHING)
    if out is None and str(json_file) == "-":
        return
    if out is None:
        console().out(text.rstrip(), highlight=False)
    else:
        write_atomically(out.resolve(), text.encode())
        error_console().print(f"judge them: stillhouse run {out}", soft_wrap=True, markup=False)


def _table(record: "SearchRecord") -> "Table":
    from rich import box
    from rich.table import Table

    from flows.cli.console import bytes_text

    title = f"{record.plan.name} on {record.dataset}: finalists"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("chain", f"{record.metric}, tuned", "held out", "size", "smaller", "FLOPs"):
        # on a narrow terminal the name gives way, never a number
        justify: Literal["left", "right"] = "left" if column == "chain" else "right"
        table.add_column(column, justify=justify, no_wrap=column != "chain", overflow="fold")
    base = record.baseline
    rows = {"baseline": base} | {trial.name: trial.figures for trial in record.chosen if trial.figures is not None}
    for name, figures in rows.items():
        scores, smaller = figures.scores, base.size_bytes / figures.size_bytes
        size, flops = bytes_text(figures.size_bytes), f"{figures.flops:,}"
        table.add_row(name, f"{scores.tuned:.4f}", f"{scores.held:.4f}", size, f"{smaller:.1f}x", flops)
    return table
