"""`stillhouse rollout`: start, tick, status, abort."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tasks.stages.rollout_record import RolloutRecord

app = typer.Typer(no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="Name of a registered model; `stillhouse model ls` lists them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]

EXIT_NOT_PROMOTED = 1


@app.command()
def start(
    model: Model,
    plan: Annotated[str, typer.Option(help="Plan whose `rollout` section holds the steps and limits.")],
    again: Annotated[bool, typer.Option("--again", help="Try a challenger again that was rolled back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move the model's traffic to its challenger, and stay until it is promoted or rolled back.

    Real traffic has to reach the gateway meanwhile (`stillhouse serve`; `stillhouse replay` plays clients).
    Interrupting is harmless: the same command goes on where the last one was. Exit code 1: not promoted.
    """
    from pathlib import Path

    from flows.cli.console import console, print_json
    from flows.plan import load_plan
    from tasks.runtime.prefect_server import start_prefect_server
    from tasks.runtime.settings import current_settings

    loaded = load_plan(Path(plan))
    start_prefect_server(current_settings())
    from flows.rollout import roll_out

    rollout, ticks = roll_out(model, loaded.rollout.policy, tick_seconds=loaded.rollout.tick_seconds, again=again)
    if as_json:
        print_json(
            {"rollout": rollout.model_dump(mode="json"), "ticks": [one.model_dump(mode="json") for one in ticks]}
        )
    else:
        for tick in ticks:
            console().print(
                f"{tick.at}  {tick.weight:g} %  {tick.verdict}: {tick.reason}", soft_wrap=True, markup=False
            )
        console().print(f"[bold]{rollout.verdict}[/]")
    raise typer.Exit(0 if rollout.verdict == "promote" else EXIT_NOT_PROMOTED)


@app.command()
def tick(model: Model, as_json: AsJson = False) -> None:
    """Take one look at the running rollout and act on it; what a schedule does."""
    from tasks.contracts.errors import UserError
    from tasks.runtime.prefect_server import start_prefect_server
    from tasks.runtime.settings import current_settings

    start_prefect_server(current_settings())
    from flows.rollout import tick_rollout

    record = tick_rollout(model)
    if record is None:
        raise UserError(f"no rollout of {model} was ever begun; `stillhouse rollout start {model}` begins one")
    _show(record, as_json)


@app.command()
def status(model: Model, as_json: AsJson = False) -> None:
    """Show where the model's rollout stands, or how the last one ended."""
    from tasks.contracts.errors import UserError
    from tasks.runtime.services import connect
    from tasks.stages.rollout_record import latest_record

    record = latest_record(connect(), model)
    if record is None:
        raise UserError(f"no rollout of {model} was ever begun; `stillhouse rollout start {model}` begins one")
    _show(record, as_json)


@app.command()
def abort(
    model: Model,
    reason: Annotated[str, typer.Option(help="Why, for the ledger's reader.")] = "asked for at the command line",
    as_json: AsJson = False,
) -> None:
    """End the running rollout at once: the champion gets all traffic back."""
    from datetime import UTC, datetime

    from tasks.runtime.services import connect
    from tasks.stages.rolling import abort_rollout

    _show(abort_rollout(connect(), model, reason, datetime.now(UTC).isoformat(timespec="seconds")), as_json)


def _show(record: "RolloutRecord", as_json: bool) -> None:
    from rich.markup import escape

    from flows.cli.console import console, print_json

    state = record.state
    if as_json:
        print_json(record)
        return
    console().print(
        f"{state.model_name}: [bold]{state.status}[/] at {state.weight:g} % after {state.tick} ticks; "
        f"champion version {state.champion.version}, challenger version {state.challenger.version}"
    )
    latest = (state.latest,) if state.latest and state.latest not in state.history else ()
    for decision in (*state.history, *latest):
        rows = ", ".join(f"{arm} {num} rows" for arm, num in decision.rows.items())
        console().print(
            f"{decision.at}  {decision.judged_weight:g} %  [bold]{decision.verdict}[/]: "
            f"{escape(decision.reason)} ({rows})",
            soft_wrap=True,
        )
