"""`stillhouse watch`: a model's traffic against what is normal for it, now."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tasks.contracts.monitoring import AlarmState, WindowReport
    from tasks.decisions.monitoring_policy import MonitoringPolicy

EXIT_ALARM = 1


def watch(
    model: Annotated[str, typer.Argument(help="Name of a registered model; `stillhouse model ls` lists them.")],
    window_minutes: Annotated[float, typer.Option(help="Length of the window that ends now, minutes.", min=1.0)] = 60.0,
    policy: Annotated[Path | None, typer.Option(help="YAML file of limits; see docs/monitoring.md.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=1.0)] = 10.0,
    rebase: Annotated[
        bool, typer.Option("--rebase", help="Take the window's inputs and answers as normal from now on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Look once and write the report as JSON.")] = False,
) -> None:
    """Show what the model's traffic looks like against its reference, live or once.

    Reads the log itself and needs no server. Looking counts no window and raises no alarm: the flow `monitor-model`
    does. Exit code 1: a check fails in this window, or an alarm runs.

    Example: `stillhouse watch digits --once`
    """
    import time
    from datetime import UTC, datetime, timedelta

    from flows.cli.console import console, print_json
    from tasks.runtime.services import connect
    from tasks.stages.monitoring import alarm_state, judge
    from tasks.stages.monitoring import rebase as rebase_reference

    services, limits = connect(), _policy(policy)

    def look() -> "WindowReport":
        now = datetime.now(UTC)
        return judge(services, model, now - timedelta(minutes=window_minutes), now, limits, now)

    if rebase:
        now = datetime.now(UTC)
        rows = rebase_reference(services, model, now - timedelta(minutes=window_minutes), now, limits, now)
        console().print(f"{model}: {rows} rows of the last {window_minutes:g} minutes are normal from now on")
        return
    while True:
        report, alarms = look(), alarm_state(services, model)
        if as_json:
            running = [one.model_dump(mode="json") for one in alarms.running()] if alarms else []
            print_json({"report": report.model_dump(mode="json"), "alarms": running})
        else:
            _show(report, alarms)
        failed = any(report.failed(kind) for kind in ("drift", "accuracy", "latency", "errors"))
        if once or as_json:
            raise typer.Exit(EXIT_ALARM if failed or (alarms is not None and alarms.running()) else 0)
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None  # leaving a live view is no failure


def _show(report: "WindowReport", alarms: "AlarmState | None") -> None:
    from flows.cli.console import console
    from tasks.reporting.window_tables import alarm_lines, headline, verdict_lines

    for line in (headline(report), *verdict_lines(report), *alarm_lines(alarms)):
        console().print(line, highlight=False, soft_wrap=True, markup=False)


def _policy(path: Path | None) -> "MonitoringPolicy":
    import yaml
    from pydantic import ValidationError

    from tasks.contracts.errors import UserError
    from tasks.decisions.monitoring_policy import MonitoringPolicy

    if path is None:
        return MonitoringPolicy()
    try:
        return MonitoringPolicy.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{path} is not a monitoring policy: {error}") from error
