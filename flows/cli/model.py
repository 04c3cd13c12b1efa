"""`stillhouse model`: what is registered, what serves, and why; and `stillhouse promote`."""

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from flows.cli.model_reference import NamedModel
    from tasks.contracts.verdict import LedgerEntry
    from tasks.runtime.services import RegisteredVersion, Services

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="NAME (its champion), NAME@alias, NAME/version, or the 64 digits of an artifact's digest.",
    ),
]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Name in the registry.")]


@app.command("ls")
def list_models(as_json: AsJson = False) -> None:
    """List the registered models: versions, champion, previous champion, challenger."""
    from rich.table import Table

    from flows.cli.console import console, print_json
    from tasks.runtime.services import connect

    registry = connect().registry
    models = [_overview(name, registry.versions(name)) for name in registry.names()]
    if as_json:
        print_json(models)
        return
    if not models:
        console().print("no models yet; `stillhouse run plans/digits.yaml` registers one")
        return
    table = Table("model", "versions", "aliases")
    for model in models:
        aliases = ", ".join(f"{alias} = {version}" for alias, version in sorted(model["aliases"].items()))
        table.add_row(model["name"], str(model["num_versions"]), aliases or "-")
    console().print(table)


@app.command()
def inspect(model: Reference, as_json: AsJson = False) -> None:
    """Show one model: size, signature, lineage, aliases, and its name's history in the ledger."""
    from flows.cli.console import console, print_json
    from flows.cli.model_reference import find_model
    from tasks.runtime.services import connect

    services = connect()
    found = find_model(services, model)
    description = _description(services, found)
    if as_json:
        print_json(description)
        return
    console().print(_facts_table(description))
    if description["history"]:
        console().print(_history_table(description["history"]))


@app.command()
def history(name: ModelName, as_json: AsJson = False) -> None:
    """Show who was champion when, by whom, why, and on which gate report; the newest entry serves."""
    from flows.cli.console import console, print_json
    from tasks.contracts.errors import ModelError
    from tasks.runtime.services import connect

    services = connect()
    entries = services.ledger.history(name)
    if not entries:
        known = ", ".join(services.registry.names()) or "none"
        raise ModelError(f"the ledger has no entry of {name!r}; the registry knows: {known}")
    documents = [entry.model_dump(mode="json") for entry in entries]
    if as_json:
        print_json(documents)
        return
    console().print(_history_table(documents))


@app.command()
def diff(first: Reference, second: Reference, as_json: AsJson = False) -> None:
    """Show what differs between two models: files, lineage, and what their gates measured."""
    from rich.markup import escape
    from rich.table import Table

    from flows.cli.console import console, print_json
    from flows.cli.model_comparison import compare
    from flows.cli.model_reference import find_model
    from tasks.runtime.services import connect

    services = connect()
    comparison = compare(services, find_model(services, first), find_model(services, second))
    if as_json:
        print_json(comparison)
        return
    table = Table("", "what", first, second)
    for one in comparison.differences:
        table.add_row(one.about, escape(one.name), escape(one.first or "-"), escape(one.second or "-"))
    if comparison.differences:
        console().print(table)
    console().print(f"{len(comparison.differences)} things differ, {comparison.num_shared} are equal")


@app.command()
def verify(model: Reference, as_json: AsJson = False) -> None:
    """Check that the artifact is whole and runs, and that alias, ledger and route agree. Exit code 1 if not."""
    from rich.markup import escape
    from rich.table import Table

    from flows.cli.console import console, print_json
    from flows.cli.model_checks import check_model
    from flows.cli.model_reference import find_model
    from tasks.runtime.services import connect

    services = connect()
    found = find_model(services, model)
    checks = check_model(services, found)
    passed = all(check.passed for check in checks)
    if as_json:
        print_json({"digest": found.digest, "passed": passed, "checks": [check.model_dump() for check in checks]})
    else:
        table = Table("check", "answer", "detail")
        for check in checks:
            table.add_row(check.name, "[green]ok[/]" if check.passed else "[bold red]failed[/]", escape(check.detail))
        console().print(table)
    raise typer.Exit(0 if passed else 1)


@app.command()
def pull(
    model: Reference,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; replaced whole or not at all.")],
    as_json: AsJson = False,
) -> None:
    """Write a model's artifact to a file, after checking its bytes against the digest."""
    from flows.cli.console import bytes_text, console, print_json
    from flows.cli.model_reference import find_model
    from tasks.adapters.local_store import write_atomically
    from tasks.contracts.errors import UserError
    from tasks.runtime.services import connect

    services = connect()
    digest = find_model(services, model).digest
    data = services.artifacts.get(digest)
    try:
        write_atomically(out, data)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; give --out a file in a writable folder") from error
    if as_json:
        print_json({"digest": digest, "size_bytes": len(data), "path": str(out)})
    else:
        console().print(f"{out}: {bytes_text(len(data))}, sha256 {digest}")


@app.command()
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


@app.command()
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


def _overview(name: str, versions: "list[RegisteredVersion]") -> dict[str, Any]:
    aliases = {alias: version.version for version in versions for alias in version.aliases}
    return {"name": name, "num_versions": len(versions), "aliases": aliases}


def _description(services: "Services", model: "NamedModel") -> dict[str, Any]:
    data = services.artifacts.get(model.digest)
    registered = model.registered
    return {
        "digest": model.digest,
        "format": "torch" if data[:2] == b"PK" else "onnx",
        "size_bytes": len(data),
        "name": registered.name if registered else None,
        "version": registered.version if registered else None,
        "aliases": list(registered.aliases) if registered else [],
        "tags": dict(registered.tags) if registered else {},
        "history": [entry.model_dump(mode="json") for entry in services.ledger.history(registered.name)]
        if registered
        else [],
    }


def _facts_table(description: dict[str, Any]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from flows.cli.console import bytes_text

    table = Table(show_header=False)
    if description["name"]:
        table.add_row("model", f"{description['name']}, version {description['version']}")
        table.add_row("aliases", ", ".join(description["aliases"]) or "none")
    table.add_row("digest", description["digest"])
    table.add_row("format", description["format"])
    table.add_row("size", bytes_text(description["size_bytes"]))
    for tag, value in sorted(description["tags"].items()):
        table.add_row(escape(tag), escape(value))
    return table


def _history_table(history: list[dict[str, Any]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("#", "action", "version", "model", "evidence", "by", "when", "reason", title="ledger")
    for entry in history:
        cells = (
            str(entry["sequence"]),
            entry["action"],
            str(entry["version"]),
            entry["candidate"][:12],
            (entry["gate_report"] or "-")[:12],
            entry["actor"],
            entry["created_at"],
            entry["reason"],
        )
        table.add_row(*map(escape, cells))
    return table


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
