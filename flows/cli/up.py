"""`stillhouse up`: the engines on this machine, for looking at their pages and for quick runs."""

import typer


def up(
    prefect_port: int = typer.Option(4200, help="Port of the Prefect server."),
    mlflow_port: int = typer.Option(5000, help="Port of the MLflow server."),
    gateway_port: int = typer.Option(8080, help="Port of the gateway."),
) -> None:
    """Run Prefect, MLflow and the gateway on loopback until Ctrl-C; other commands then use them.

    The state is the same as without: SQLite and folders below STILLHOUSE_HOME. A `stillhouse run` beside it
    starts in a second instead of a quarter of a minute, since the Prefect server is there already.
    """
    from flows.cli.console import error_console
    from infra.embedded import run_services

    run_services(prefect_port, mlflow_port, gateway_port, lambda line: error_console().print(line))
