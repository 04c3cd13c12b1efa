"""`stillhouse serve`: a gateway in the foreground."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default is reached from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    replica: Annotated[
        str | None,
        typer.Option(help="Name of this process among the gateways that share the store. Default: HOST-PID."),
    ] = None,
    reuse_port: Annotated[
        bool,
        typer.Option("--reuse-port", help="Let several gateways on this machine share the port, one for each core."),
    ] = False,
    store: Annotated[Path | None, typer.Option(help="Artifact and document store. Default: STILLHOUSE_STORE.")] = None,
    traffic: Annotated[Path | None, typer.Option(help="Prediction log. Default: STILLHOUSE_TRAFFIC.")] = None,
    cache_bytes: Annotated[
        int, typer.Option(min=0, help="Memory for answers that are given again to equal inputs; 0 keeps none.")
    ] = 0,
    batch_rows: Annotated[
        int, typer.Option(min=1, help="Rows of several requests that may share a run, where a model gains; 1: none.")
    ] = 1,
    batch_delay_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="How long a request waits at most for others to share its run.")
    ] = 1.0,
    tracing: Annotated[
        bool, typer.Option("--tracing", help="Export OpenTelemetry spans as the OTEL_* variables say.")
    ] = False,
) -> None:
    """Serve every model that has a route, until Ctrl-C or SIGTERM.

    The gateway speaks the Open Inference Protocol v2 and follows the route in the store: a new champion,
    challenger or weight is taken over within a second, without losing a request. Every answer is logged
    for the rollout's statistics. The gateway has no login and no TLS: put it behind a proxy that has
    before you listen on other addresses.

    Try it, with MODEL as `stillhouse model ls` names it:

    `curl localhost:8080/v2/models/MODEL`

    `stillhouse replay MODEL --data rows.npz --requests 1000`
    """
    import logging

    from infra.gateway.config import GatewayConfig
    from infra.gateway.server import serve as serve_gateway
    from tasks.contracts.errors import InfrastructureError, UserError
    from tasks.runtime.settings import current_settings

    settings = current_settings()
    given = {} if replica is None else {"replica": replica}
    try:
        config = GatewayConfig(
            store=(store or settings.store_root).resolve(),
            traffic=(traffic or settings.traffic_root).resolve(),
            host=host,
            port=port,
            reuse_port=reuse_port,
            cache_bytes=cache_bytes,
            batch_rows=batch_rows,
            batch_delay_ms=batch_delay_ms,
            tracing=tracing,
            **given,
        )
    except ValueError as error:
        raise UserError(f"replica name {replica!r} is not allowed; use letters, digits, '.', '_' and '-'") from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        serve_gateway(config, on_listening=lambda url: typer.echo(url))
    except OSError as error:
        raise InfrastructureError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port (0: a free one)"
        ) from error
