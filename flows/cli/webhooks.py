"""`stillhouse webhooks`: MLflow's events have models reconciled at once, not only by the schedule."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def webhooks() -> None:
    """Events from MLflow."""


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default is reached from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8090,
    max_waiting: Annotated[int, typer.Option(min=1, help="Models that may wait to be reconciled.")] = 64,
) -> None:
    """Receive MLflow's webhooks at /webhooks/mlflow, until Ctrl-C or SIGTERM.

    An alias that moved or a tag that changed has the model's aliases and route made equal to the ledger within
    moments. Deliveries can be lost: keep the flow `reconcile-models` on its schedule. The secret that MLflow's
    webhook was given stands in STILLHOUSE_WEBHOOK_SECRET. There is no TLS: put a proxy before other addresses.
    """
    import logging

    from infra.webhooks.app import ReceiverLimits, create_app
    from infra.webhooks.server import serve as serve_receiver
    from tasks.contracts.errors import InfrastructureError, UserError
    from tasks.runtime.services import connect
    from tasks.stages.reconciling import reconcile_known

    services = connect()
    secret = services.settings.webhook_secret
    if secret is None:
        raise UserError("there is no secret; set STILLHOUSE_WEBHOOK_SECRET to what MLflow's webhook was given")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        receiver = create_app(
            secret, lambda name: reconcile_known(services, name), ReceiverLimits(max_waiting=max_waiting)
        )
    except ValueError as error:
        raise UserError(f"STILLHOUSE_WEBHOOK_SECRET: {error}") from error
    try:
        serve_receiver(receiver, host, port, on_listening=lambda url: typer.echo(url))
    except OSError as error:
        raise InfrastructureError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port (0: a free one)"
        ) from error
