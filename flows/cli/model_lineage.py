"""`stillhouse model lineage`: from what serves back to the data, with every digest checked."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.model_arguments import AsJson

if TYPE_CHECKING:
    from rich.tree import Tree

    from tasks.contracts.lineage import Link

_REQUEST = "request:"


def lineage(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="NAME (its champion), NAME@alias, NAME/version, the 64 digits of an artifact's digest, or "
            "request:ID of a request that a gateway has served.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Follow a model or a served request back to gate report, run, plan, stages and data. Exit code 1 if one is gone.

    Every digest is looked for in the store and every record held against the digest that names it.
    """
    from flows.cli.console import console, print_json
    from flows.cli.model_reference import find_model
    from tasks.runtime.services import connect
    from tasks.stages.tracing import trace, trace_request

    services = connect()
    if reference.startswith(_REQUEST):
        link = trace_request(services, reference.removeprefix(_REQUEST))
    else:
        model = find_model(services, reference)
        link = trace(services, model.digest, model.registered)
    if as_json:
        print_json({"complete": not link.gaps, "missing": link.gaps, "lineage": link.model_dump(mode="json")})
    else:
        console().print(_tree(link))
        console().print("every link is there" if not link.gaps else f"missing links: {len(link.gaps)}")
    raise typer.Exit(1 if link.gaps else 0)


def _tree(link: "Link", parent: "Tree | None" = None) -> "Tree":
    from rich.markup import escape
    from rich.tree import Tree

    facts = "  ".join(f"{name} {value}" for name, value in link.facts.items())
    missing = f"  [bold red]{escape(link.missing)}[/]" if link.missing else ""
    label = f"[bold]{link.kind}[/] {escape(link.name)}  [dim]{escape(facts)}[/]{missing}"
    tree = Tree(label) if parent is None else parent.add(label)
    for one in link.rests_on:
        _tree(one, tree)
    return tree
