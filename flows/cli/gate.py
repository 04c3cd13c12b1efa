"""`stillhouse gate`: the verdict on a candidate, as an exit code."""

from typing import Annotated

import typer


def gate(
    run: Annotated[str, typer.Argument(help="Run id, the start of one, or `latest`.")] = "latest",
    candidate: Annotated[
        str | None, typer.Option(help="A candidate of the run; the chosen one (or all, if none passed) otherwise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the gate reports as JSON to standard output.")] = False,
) -> None:
    """Show the gate's checks and numbers. Exit code 0: passed; 1: failed or inconclusive."""
    from flows.cli.console import console, print_json
    from flows.cli.summary import gate_table
    from flows.dossiers import find_dossier
    from tasks.contracts.errors import UserError
    from tasks.contracts.verdict import Verdict

    dossier = find_dossier(run)
    if candidate is not None and candidate not in dossier.candidates:
        raise UserError(
            f"run {dossier.record.run_id} has no candidate {candidate!r}; it has {', '.join(dossier.candidates)}"
        )
    chosen = candidate or dossier.record.chosen
    names = [chosen] if chosen else list(dossier.candidates)
    reports = {name: dossier.candidates[name].gate for name in names}
    if as_json:
        print_json({name: stored.model_dump(mode="json") if stored else None for name, stored in reports.items()})
    else:
        for name, stored in reports.items():
            console().print(gate_table(name, stored, dossier.candidates[name].failure))
    passed = all(stored is not None and stored.report.verdict is Verdict.PASS for stored in reports.values())
    raise typer.Exit(0 if passed else 1)
