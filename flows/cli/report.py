"""`stillhouse report`: the HTML report of a run."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[str, typer.Argument(help="Run id, the start of one, or `latest`.")] = "latest",
    out: Annotated[Path | None, typer.Option(help="Where to write it; the reports folder otherwise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write where it is as JSON to standard output.")] = False,
) -> None:
    """Write the self-contained HTML report of a run anew, and say where it is."""
    from flows.cli.console import console, print_json
    from flows.dossiers import find_dossier
    from tasks.adapters.local_store import write_atomically
    from tasks.reporting.page import render_page

    dossier = find_dossier(run)
    place = out or Path(dossier.record.report)
    write_atomically(place.resolve(), render_page(dossier).encode())
    if as_json:
        print_json({"run_id": dossier.record.run_id, "report": str(place.resolve())})
    else:
        console().print(f"report of {dossier.record.plan.name}: {place.resolve()}", soft_wrap=True, markup=False)
