"""Commands that change who serves: `stillhouse model reconcile`, `stillhouse model rollback`, `stillhouse promote`."""

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.model_arguments import AsJson, ModelName

if TYPE_CHECKING:
    from tasks.contracts.verdict import LedgerEntry


def reconcile(name: ModelName, as_json: AsJson = False) -> None:
    """Make aliases and route equal the ledger, for instance after a crash."""
    from flows.cli.console import console, print_json
    from tasks.runtime.services import connect
    from tasks.stages.reconciling import reconcile as reconcile_model

    outcome = reconcile_model(connect(), name)
    if as_json:
        print_json(outcome)
        return
    for change in outcome.changes:
        console().print(change)
    console().print(
        f"{name}: version {outcome.champion.version} is champion; "
        + (f"{len(outcome.changes)} things mended" if outcome.changes else "nothing to mend")
    )


def rollback(
    name: ModelName,
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    expect: Annotated[
        str | None, typer.Option("--expect", metavar="DIGEST", help="Roll back only if this is the champion.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Return to the champion before the present one."""
    from flows.cli.model_reference import checked_digest
    from tasks.runtime.services import connect
    from tasks.stages.promoting import rollback as roll_back

    expected = None if expect is None else checked_digest(expect)
    _show_entry(roll_back(connect(), name, getpass.getuser(), reason, _now(), expected), as_json)


def promote(
    name: ModelName,
    version: Annotated[int, typer.Option(help="Version that was gated.")],
    gate: Annotated[str, typer.Option(metavar="DIGEST", help="Digest of the gate report that passed it.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "promoted by hand",
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", metavar="DIGEST", help="Promote only if this is the champion now. Default: whoever is."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a version champion, on the evidence of a gate report that says PASS; exactly once."""
    from flows.cli.model_reference import checked_digest
    from tasks.runtime.services import connect
    from tasks.stages.promoting import promote as promote_version

    services = connect()
    report = checked_digest(gate)
    if expect is not None:
        expected: str | None = checked_digest(expect)
    else:
        champion = services.ledger.champion(name)
        expected = champion.candidate if champion else None
    entry = promote_version(services, report, name, version, getpass.getuser(), reason, expected, _now())
    _show_entry(entry, as_json)


def _show_entry(entry: "LedgerEntry", as_json: bool) -> None:
    from flows.cli.console import console, print_json

    if as_json:
        print_json(entry)
    else:
        console().print(
            f"{entry.model_name}: version {entry.version} ({entry.candidate[:12]}) is champion by ledger entry "
            f"{entry.sequence} ({entry.action})"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
