"""`stillhouse plan`: validate, show, schema, suggest."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

PlanPath = Annotated[Path, typer.Argument(help="A YAML plan; see plans/ for plans to copy.", metavar="PLAN")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one value: `--set seed=1`, `--set candidates.small.0.temperature=6`."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]


@app.command()
def validate(plan: PlanPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a plan as a whole, chains included, without doing any work. Exit code 2 names every fault."""
    from flows.cli.console import console, print_json
    from flows.plan import load_plan
    from flows.plan_warnings import plan_warnings
    from tasks.evaluation.machine import current_machine

    loaded = load_plan(plan, tuple(overrides or ()))
    warnings = plan_warnings(loaded, current_machine())
    if as_json:
        print_json({"plan": loaded.name, "digest": loaded.value_digest(), "valid": True, "warnings": warnings})
        return
    console().print(
        f"[green]valid[/] {loaded.name} ({len(loaded.candidates)} candidates), {loaded.value_digest()[:12]}"
    )
    for warning in warnings:
        console().print(f"[yellow]warning:[/] {warning}")


@app.command()
def show(plan: PlanPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show a plan with every default filled in."""
    import yaml

    from flows.cli.console import console, print_json
    from flows.plan import load_plan

    loaded = load_plan(plan, tuple(overrides or ()))
    if as_json:
        print_json(loaded)
    else:
        console().out(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False), highlight=False)


@app.command()
def suggest(
    plan: PlanPath,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the plan here instead of standard output.")] = None,
) -> None:
    """Suggest candidates for a plan's data, baseline and constraints, with the reason for each as a comment.

    PLAN needs no candidates; those it has are replaced. Data are fetched, nothing is trained.
    """
    from flows.cli.console import console
    from flows.plan import read_document
    from flows.suggestion import suggest_plan
    from tasks.adapters.local_store import write_atomically

    text = suggest_plan(read_document(plan, tuple(overrides or ())), str(plan))
    if out is None:
        console().out(text.rstrip(), highlight=False)
    else:
        write_atomically(out.resolve(), text.encode())


@app.command()
def schema() -> None:
    """Write the JSON schema of plans, for editors that complete and check YAML."""
    from flows.cli.console import print_json
    from flows.plan import plan_schema

    print_json(plan_schema())
