"""`stillhouse run`: the whole job, from a plan to a promoted champion."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.plan import Overrides, PlanPath

if TYPE_CHECKING:
    from tasks.contracts.run import RunDossier
    from tasks.contracts.value import Value

EXIT_GATE = 1


def run(
    plan: PlanPath,
    overrides: Overrides = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the record (schema stillhouse.run/1) to this file; `-` is standard output."),
    ] = None,
    pin_baseline: Annotated[
        bool, typer.Option("--pin-baseline", help="Write the baseline's record to baselines/<plan>.json.")
    ] = False,
    rollout: Annotated[bool, typer.Option(help="Roll the challenger out after it has passed the gate.")] = True,
) -> None:
    """Compress, judge, register, roll out and promote, as the plan says.

    Every stage is cached: a second run computes only what changed, and a run that was killed goes on where it
    was. Without a running gateway (STILLHOUSE_GATEWAY_URL) one is started on loopback for the rollout; a plan
    with `rollout.replay` also brings its own traffic. Exit codes: 0 a candidate passed (and was promoted, if it
    was rolled out), 1 gate failed or inconclusive or rolled back, 2 bad input, 3 infrastructure.
    """
    from flows.cli.console import error_console
    from flows.cli.progress import shown_progress
    from flows.plan import load_plan
    from flows.plan_warnings import plan_warnings
    from tasks.adapters.mlflow_connection import import_in_background
    from tasks.evaluation.machine import current_machine
    from tasks.runtime.prefect_server import start_prefect_server
    from tasks.runtime.settings import current_settings

    loaded = load_plan(plan, tuple(overrides or ()))
    for warning in plan_warnings(loaded, current_machine()):
        error_console().print(f"[yellow]warning:[/] {warning}")
    start_prefect_server(current_settings())
    import_in_background()
    from flows.compression import compress_model
    from flows.delivery import deliver_model

    process = deliver_model if rollout else compress_model
    with shown_progress(loaded.name):
        dossier = process(loaded, pin_baseline=pin_baseline)
    show_outcome(dossier, json_file)
    raise typer.Exit(0 if succeeded(dossier) else EXIT_GATE)


def show_outcome(dossier: "RunDossier", json_file: Path | None) -> None:
    """Print the summary, and write the record to `json_file` if that is asked for; `-` prints the record alone."""
    from flows.cli.console import console
    from flows.cli.summary import summary

    if json_file is not None:
        write_record(dossier.record, json_file)
    if json_file is None or str(json_file) != "-":
        console().print(summary(dossier))
        console().print(f"report: {dossier.record.report}", soft_wrap=True, markup=False)


def write_record(record: "Value", path: Path) -> None:
    """Write a record as JSON to a file; `-` is standard output."""
    from flows.cli.console import print_json
    from tasks.adapters.local_store import write_atomically

    if str(path) == "-":
        print_json(record)
    else:
        write_atomically(path.resolve(), record.model_dump_json(indent=2).encode() + b"\n")


def succeeded(dossier: "RunDossier") -> bool:
    """Tell whether a candidate passed and, if it was rolled out, was promoted."""
    rollout = dossier.record.rollout
    return dossier.record.chosen is not None and (rollout is None or rollout.verdict in ("promote", "unchanged"))
