"""`stillhouse techniques`: what a plan can be made of."""

from typing import Annotated, Any

import typer


def techniques(
    kind: Annotated[str | None, typer.Argument(help="Show the fields of one technique.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")] = False,
) -> None:
    """List the compression techniques, what they take and give, and their fields with defaults."""
    from rich.table import Table

    from flows.cli.console import console, print_json
    from tasks.contracts.errors import PlanError
    from tasks.techniques import TECHNIQUES

    by_kind = {str(spec.model_fields["kind"].default): spec for spec in TECHNIQUES}
    if kind is not None and kind not in by_kind:
        raise PlanError(f"unknown technique {kind!r}; there are {', '.join(sorted(by_kind))}")
    chosen = {kind: by_kind[kind]} if kind else by_kind
    if as_json:
        print_json([_described(name, spec) for name, spec in chosen.items()])
        return
    table = Table("kind", "takes", "gives", "what it does")
    for name, spec in chosen.items():
        table.add_row(name, spec.takes, spec.gives, spec.summary)
    console().print(table)
    if kind:
        console().print(_fields_table(by_kind[kind]))


def _described(kind: str, spec: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "takes": spec.takes,
        "gives": spec.gives,
        "summary": spec.summary,
        "schema": spec.model_json_schema(),
    }


def _fields_table(spec: Any) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("field", "default", "meaning")
    for name, rule in spec.model_json_schema()["properties"].items():
        default = str(rule.get("default", rule.get("const", "required")))
        table.add_row(name, escape(default), escape(rule.get("description", "")))
    return table
