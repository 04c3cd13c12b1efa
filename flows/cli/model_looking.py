"""Commands of `stillhouse model` that look: what is registered, what serves, and why."""

from typing import TYPE_CHECKING, Any

from flows.cli.model_arguments import AsJson, ModelName, Reference

if TYPE_CHECKING:
    from flows.cli.model_reference import NamedModel
    from tasks.runtime.bookkeeping import RegisteredVersion
    from tasks.runtime.services import Services


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


def inspect(model: Reference, as_json: AsJson = False) -> None:
    """Show one model: size, signature, lineage, aliases, and its name's history in the ledger."""
    from flows.cli.console import console, print_json
    from flows.cli.model_reference import find_model
    from flows.cli.model_tables import facts_table, history_table
    from tasks.runtime.services import connect

    services = connect()
    found = find_model(services, model)
    description = _description(services, found)
    if as_json:
        print_json(description)
        return
    console().print(facts_table(description))
    if description["history"]:
        console().print(history_table(description["history"]))


def history(name: ModelName, as_json: AsJson = False) -> None:
    """Show who was champion when, by whom, why, and on which gate report; the newest entry serves."""
    from flows.cli.console import console, print_json
    from flows.cli.model_tables import history_table
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
    console().print(history_table(documents))


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
