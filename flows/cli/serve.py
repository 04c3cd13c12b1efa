"""`stillhouse serve`: a gateway in the foreground."""

from pathlib import Path
from typing import Annotated, Literal

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
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port, one for each core.")] = 1,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="File of the tokens that callers need, by their SHA-256. Default: STILLHOUSE_GATEWAY_TOKENS."
        ),
    ] = None,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Listen beyond this machine although there are no tokens.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate and its chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Form of the log's lines.")] = "text",
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log every request, not only those refused or failed.")
    ] = False,
    store: Annotated[Path | None, typer.Option(help="Artifact and document store. Default: STILLHOUSE_STORE.")] = None,
    traffic: Annotated[Path | None, typer.Option(help="Prediction log. Default: STILLHOUSE_TRAFFIC.")] = None,
    sample_inputs: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            envvar="STILLHOUSE_SAMPLE_INPUTS",
            help="Share of the requests whose rows are logged as they came, for retraining; they may be personal data.",
        ),
    ] = 0.0,
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
    for the rollout's statistics.

    Where store or log lie in S3, `stillhouse store mirror` runs beside it and fetches and takes them there.

    Beyond this machine it asks its callers for tokens; see docs/gateway.md for how to make them, and for TLS.

    Try it, with MODEL as `stillhouse model ls` names it:

    `curl localhost:8080/v2/models/MODEL`

    `stillhouse replay MODEL --data rows.npz --requests 1000`
    """
    from pydantic import ValidationError

    from infra.gateway.access import TokensError
    from infra.gateway.config import GatewayConfig
    from infra.gateway.request_log import configure_logging
    from infra.gateway.server import serve as serve_gateway
    from infra.gateway.supervisor import supervise
    from infra.gateway.tls import TlsError
    from tasks.adapters.gateway_companion import companion
    from tasks.contracts.errors import InfrastructureError, UserError
    from tasks.runtime.settings import current_settings

    settings = current_settings()
    try:
        config = GatewayConfig.from_environment(
            store=store or settings.store_root,
            traffic=traffic or settings.traffic_root,
            verify_keys=settings.verify_keys,
            host=host,
            port=port,
            replica=replica,
            reuse_port=reuse_port,
            tokens=tokens,
            allow_anonymous=allow_anonymous,
            tls_cert=tls_cert,
            tls_key=tls_key,
            access_log=access_log,
            sample_inputs=sample_inputs,
            cache_bytes=cache_bytes,
            batch_rows=batch_rows,
            batch_delay_ms=batch_delay_ms,
            tracing=tracing,
        )
    except ValidationError as error:
        raise UserError("; ".join(" ".join([*map(str, one["loc"]), one["msg"]]) for one in error.errors())) from error
    configure_logging(log_format)
    try:
        with companion(settings.model_copy(update={"store": config.store, "traffic": config.traffic})):
            if workers > 1:
                raise typer.Exit(supervise(config, workers, log_format, on_listening=typer.echo))
            serve_gateway(config, on_listening=typer.echo)
    except (TokensError, TlsError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise InfrastructureError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port (0: a free one)"
        ) from error
