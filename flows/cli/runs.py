"""`stillhouse runs`: what was run, and what came of it."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]


@app.command("ls")
def list_runs(as_json: AsJson = False) -> None:
    """List past runs, newest first."""
    from rich.table import Table

    from flows.cli.console import console, print_json
    from flows.dossiers import list_dossiers

    dossiers = list_dossiers()
    if as_json:
        print_json(
            [
                {
                    "run_id": dossier.record.run_id,
                    "plan": dossier.record.plan.name,
                    "started_at": dossier.started_at,
                    "chosen": dossier.record.chosen,
                    "rollout": dossier.record.rollout.verdict if dossier.record.rollout else None,
                }
                for dossier in dossiers
            ]
        )
        return
    table = Table("started", "run", "plan", "chosen", "rollout")
    for dossier in dossiers:
        rollout = dossier.record.rollout.verdict if dossier.record.rollout else "-"
        table.add_row(
            dossier.started_at,
            dossier.record.run_id,
            dossier.record.plan.name,
            dossier.record.chosen or "none passed",
            rollout,
        )
    console().print(table)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Run id, the start of one, or `latest`.")] = "latest",
    as_json: AsJson = False,
) -> None:
    """Show one run: stages, gate, rollout. `--json` writes the record of schema `stillhouse.run/1`."""
    from flows.cli.console import console, print_json
    from flows.cli.summary import summary
    from flows.dossiers import find_dossier

    dossier = find_dossier(run)
    if as_json:
        print_json(dossier.record)
    else:
        console().print(summary(dossier))
