"""`stillhouse retrain`: a model anew, on what its clients sent since."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.run import EXIT_GATE, show_outcome, succeeded


def retrain(
    model: Annotated[str, typer.Argument(help="Name of a model with a champion; `stillhouse model ls` lists them.")],
    plan: Annotated[Path, typer.Option(help="Its plan.", exists=True, dir_okay=False)],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger and in the new version's lineage.")],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the record (schema stillhouse.run/1) to this file; `-` is standard output."),
    ] = None,
) -> None:
    """Publish labelled traffic, train the teacher on from the champion's, compress, judge, roll out and promote.

    A candidate must pass the plan's gate and be as good as the present champion on the new test rows. One retraining
    of a model runs at a time, within the plan's `retraining` budget. Exit codes: 0 a candidate was promoted, 1 gate
    failed or inconclusive or rolled back, 2 bad input or not now, 3 infrastructure.

    Example: `stillhouse retrain digits --plan plans/digits.yaml --reason "new scanners since March"`
    """
    from flows.cli.progress import shown_progress
    from tasks.adapters.mlflow_connection import import_in_background
    from tasks.runtime.prefect_server import start_prefect_server
    from tasks.runtime.settings import current_settings

    start_prefect_server(current_settings())
    import_in_background()
    from flows.retraining import retrain_model

    with shown_progress(model):
        dossier = retrain_model(model, str(plan.resolve()), reason)
    show_outcome(dossier, json_file)
    raise typer.Exit(0 if succeeded(dossier) else EXIT_GATE)
