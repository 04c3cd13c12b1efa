"""`stillhouse up`: the engines on this machine, for looking at their pages and for runs of every day."""

from typing import Annotated

import typer


def up(
    prefect_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the Prefect server; 0: a free one.")
    ] = 4200,
    mlflow_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the MLflow server; 0: a free one.")
    ] = 5000,
    gateway_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0: a free one.")] = 8080,
    postgres: Annotated[
        bool,
        typer.Option(
            "--postgres",
            help="Keep ledger, locks, MLflow and Prefect in PostgreSQL: the server that STILLHOUSE_LEDGER_URL names, "
            "else one of this home, from installed programs. A home that began with its own keeps to it.",
        ),
    ] = False,
    worker: Annotated[
        bool,
        typer.Option("--worker", help="Deploy what the project's prefect.yaml names, and run workers for it."),
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when all is ready; `stillhouse down` ends it.")
    ] = False,
) -> None:
    """Run Prefect, MLflow and the gateway on loopback until Ctrl-C; other commands then use them.

    The state is the same as without: SQLite and folders below STILLHOUSE_HOME, or what the settings name; places in
    S3 are tried first. A `stillhouse run` beside it starts in a second instead of a quarter of a minute, since the
    Prefect server is there already. When one service ends, the others are ended too, and the message names it.
    """
    from flows.cli.console import error_console
    from infra.engines.chosen import Options
    from infra.engines.detaching import run_detached
    from infra.engines.supervising import run_services
    from tasks.runtime.settings import current_settings

    def say(line: str) -> None:
        error_console().print(line, markup=False, soft_wrap=True)

    if detach:
        ports = {"--prefect-port": prefect_port, "--mlflow-port": mlflow_port, "--gateway-port": gateway_port}
        arguments = [f"{option}={port}" for option, port in ports.items()]
        switches = {"--postgres": postgres, "--worker": worker}
        arguments += [option for option, is_on in switches.items() if is_on]
        run_detached(current_settings(), arguments, say)
        return
    run_services(Options(prefect_port, mlflow_port, gateway_port, postgres=postgres, worker=worker), say)
