"""Tables of `stillhouse model`: one model's facts, and the ledger of its name."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def facts_table(description: dict[str, Any]) -> "Table":
    """Show what is known of one model."""
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


def history_table(history: list[dict[str, Any]]) -> "Table":
    """Show the entries of a ledger, oldest first."""
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
