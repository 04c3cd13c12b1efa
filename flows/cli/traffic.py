"""`stillhouse traffic`: the prediction log."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def traffic() -> None:
    """The log of predictions and feedback."""


@app.command()
def prune(
    keep_days: Annotated[
        float | None, typer.Option(help="Hours older than so many days are removed; at least 1.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="The oldest hours go until a model's log is no larger than this.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only this model's log. Default: all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")] = False,
) -> None:
    """Remove old hours of the log: predictions, feedback, sampled inputs.

    What a running rollout still counts and the last day are never removed. Removing is final: there is no copy.

    Example: `stillhouse traffic prune --keep-days 30 --dry-run`
    """
    from datetime import UTC, datetime

    from flows.cli.console import bytes_text, console, print_json
    from tasks.runtime.services import connect
    from tasks.stages.pruning_traffic import prune_traffic

    done = prune_traffic(
        connect(), keep_days, datetime.now(UTC), max_bytes=max_bytes, model_name=model, dry_run=dry_run
    )
    if as_json:
        print_json([one.model_dump(mode="json") for one in done])
        return
    verb = "would remove" if dry_run else "removed"
    for one in done:
        console().print(
            f"{one.model_name}: {verb} {one.folders} hours, {one.files} files, {bytes_text(one.size_bytes)}; kept "
            f"{bytes_text(one.kept_bytes)} from {one.kept_from or 'its beginning'} ({one.kept_because})",
            highlight=False,
            soft_wrap=True,
        )
    if not done:
        console().print("no model has a log yet")
