"""Commands of `stillhouse model` about a model's file: check it, and fetch it."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.model_arguments import AsJson, Reference


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


def card(model: Reference, as_json: AsJson = False) -> None:
    """Show the model card of a version: what it is for, its limits, and every figure with where it was measured."""
    from rich.markdown import Markdown

    from flows.cli.console import console, print_json
    from flows.cli.model_reference import find_model
    from tasks.contracts.errors import ModelError
    from tasks.contracts.registration import CARD_TAG
    from tasks.reporting.model_card import ModelCard
    from tasks.reporting.model_card_text import card_markdown
    from tasks.runtime.services import connect

    services = connect()
    registered = find_model(services, model).registered
    digest = registered.tags.get(CARD_TAG) if registered else None
    if digest is None:
        raise ModelError(
            f"{model} has no model card; `stillhouse run` makes one for every version that it registers, and it is "
            "found by the version: name it as NAME@alias or NAME/3"
        )
    found = ModelCard.model_validate_json(services.artifacts.get(digest))
    if as_json:
        print_json(found)
    elif console().is_terminal:
        console().print(Markdown(card_markdown(found)))
    else:
        console().out(card_markdown(found), highlight=False, end="")


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
