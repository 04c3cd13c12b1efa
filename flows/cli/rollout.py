"""`stillhouse rollout`: start, tick, status, resume, promote, abort."""

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tasks.contracts.route import RouteAcknowledgement
    from tasks.stages.rollout_record import RolloutRecord

app = typer.Typer(no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="Name of a registered model; `stillhouse model ls` lists them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger's reader.")]

_ASKED = "asked for at the command line"

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
    """Show where the model's rollout stands or how the last one ended, and which gateways serve its route."""
    from tasks.adapters.route_store import RouteStore
    from tasks.contracts.errors import UserError
    from tasks.runtime.services import connect
    from tasks.stages.rollout_record import latest_record

    services = connect()
    record = latest_record(services, model)
    if record is None:
        raise UserError(f"no rollout of {model} was ever begun; `stillhouse rollout start {model}` begins one")
    routes = RouteStore(services.documents, services.acknowledgements)
    route = routes.current(model)
    _show(record, as_json, routes.acknowledgements(model), route.version if route else None)


@app.command()
def resume(model: Model, reason: Reason = _ASKED, as_json: AsJson = False) -> None:
    """Leave the pause that the rollout is in: it goes on judging, and advances when the evidence allows."""
    from tasks.runtime.services import connect
    from tasks.stages.rollout_commands import resume_rollout

    _show(resume_rollout(connect(), model, reason, _now(), getpass.getuser()), as_json)


@app.command()
def promote(
    model: Model,
    full: Annotated[bool, typer.Option("--full", help="Go past all that is left, and make it champion.")] = False,
    reason: Reason = _ASKED,
    as_json: AsJson = False,
) -> None:
    """Go past the pauses, analyses and missing evidence of this step at the next tick.

    Never past the gate report, proven harm, wrongly divided traffic, or a gateway that does not serve the route.
    """
    from flows.cli.console import console
    from tasks.runtime.services import connect
    from tasks.stages.rollout_commands import obstacles, promote_rollout, unproven

    record = promote_rollout(connect(), model, "rollout" if full else "step", reason, _now(), getpass.getuser())
    _show(record, as_json)
    if as_json:
        return
    console().print(f"The next tick acts on it; `stillhouse rollout tick {model}` takes one now.", soft_wrap=True)
    told = [f"Not gone past, by the last look: {one}" for one in obstacles(record)]
    told += [f"Gone past, though not proven: {one}" for one in unproven(record)]
    for line in told:
        console().print(line, soft_wrap=True, markup=False)


@app.command()
def abort(model: Model, reason: Reason = _ASKED, as_json: AsJson = False) -> None:
    """End the running rollout at once: the champion gets all traffic back."""
    from tasks.runtime.services import connect
    from tasks.stages.rollout_commands import abort_rollout

    _show(abort_rollout(connect(), model, reason, _now(), getpass.getuser()), as_json)


def _show(
    record: "RolloutRecord",
    as_json: bool,
    gateways: "list[RouteAcknowledgement] | None" = None,
    route_version: int | None = None,
) -> None:
    """Show a rollout; with `gateways`, also who serves which version of its route."""
    from rich.markup import escape

    from flows.cli.console import console, print_json

    state = record.state
    if as_json:
        document = record.model_dump(mode="json")
        if gateways is not None:
            document["route_version"] = route_version
            document["acknowledgements"] = [heard.model_dump(mode="json") for heard in gateways]
        print_json(document)
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
    if state.status == "paused":
        console().print(
            f"Waits for a person: `stillhouse rollout resume {state.model_name}`, `promote` or `abort`.", soft_wrap=True
        )
    if gateways is not None:
        _show_gateways(gateways, route_version)


def _show_gateways(gateways: "list[RouteAcknowledgement]", route_version: int | None) -> None:
    from flows.cli.console import console
    from tasks.adapters.route_store import is_live

    newest = "no route" if route_version is None else f"route version {route_version}"
    console().print(f"{newest}; gateways: {'' if gateways else 'none'}")
    for heard in gateways:
        state = "serves" if heard.ready else f"cannot serve ({heard.message})"
        gone = "" if is_live(heard) else ", silent since then and taken for gone"
        console().print(
            f"  {heard.replica} {state} version {heard.route_version} at {heard.at}{gone}", soft_wrap=True, markup=False
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
