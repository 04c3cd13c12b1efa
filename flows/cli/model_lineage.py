"""`stillhouse model lineage`: from what serves back to the data, with every digest checked."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.model_arguments import AsJson

if TYPE_CHECKING:
    from rich.tree import Tree

    from tasks.contracts.lineage import Link

_REQUEST, _RUN = "request:", "run:"


def lineage(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="NAME (its champion), NAME@alias, NAME/version, the 64 digits of an artifact's digest, run:ID of a "
            "flow run or of a run in MLflow, or request:ID of a request that a gateway has served.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Follow a model, a run or a served request to gate report, run, plan, stages and data. Exit code 1 if one is gone.

    Every digest is looked for in the store and every record held against the digest that names it. Whatever it
    begins with, it ends with all the names: flow run, run in MLflow, models, versions, ledger entries, routes.
    """
    from flows.cli.console import console, print_json
    from flows.cli.model_reference import find_model
    from tasks.runtime.services import connect
    from tasks.stages.tracing import trace, trace_flow_run, trace_request

    services = connect()
    if reference.startswith(_REQUEST):
        link = trace_request(services, reference.removeprefix(_REQUEST))
    elif reference.startswith(_RUN):
        link = trace_flow_run(services, reference.removeprefix(_RUN))
    else:
        model = find_model(services, reference)
        link = trace(services, model.digest, model.registered)
    names = link.identities().model_dump(mode="json")
    if as_json:
        lineage = link.model_dump(mode="json")
        print_json({"complete": not link.gaps, "missing": link.gaps, "identities": names, "lineage": lineage})
    else:
        console().print(_tree(link))
        for kind, found in names.items():
            if found:
                console().print(f"{kind.replace('_', ' ')}: {', '.join(found)}", markup=False, soft_wrap=True)
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
