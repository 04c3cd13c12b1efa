"""`stillhouse doctor`: what works here, what does not, and what to do about it."""

from dataclasses import asdict
from typing import Annotated

import typer

EXIT_INFRASTRUCTURE = 3


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")] = False) -> None:
    """Check every service and setting. Exit code 3 if something needed does not work."""
    from rich.markup import escape
    from rich.table import Table

    from flows.cli.console import console, print_json
    from flows.diagnosis import diagnose

    findings = diagnose()
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        table = Table("what", "state", "detail", "remedy")
        styles = {"ok": "green", "note": "yellow", "broken": "red"}
        for one in findings:
            table.add_row(one.name, f"[{styles[one.state]}]{one.state}[/]", escape(one.detail), escape(one.remedy))
        console().print(table)
    raise typer.Exit(EXIT_INFRASTRUCTURE if any(one.state == "broken" for one in findings) else 0)
