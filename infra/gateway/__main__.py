"""Run a gateway: `python -m infra.gateway --store DIR --traffic DIR --port 8080`."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contracts.errors import UserError

if TYPE_CHECKING:
    from infra.gateway.config import GatewayConfig
    from infra.gateway.request_log import LogFormat


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; return 2 for a wrong argument or setting, 3 if the address cannot be had."""
    given = vars(_parser().parse_args(arguments))
    if given.pop("end_with_stdin"):
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    from pydantic import ValidationError

    from infra.gateway.config import GatewayConfig
    from infra.gateway.request_log import configure_logging

    log_format, num_workers = given.pop("log_format"), given.pop("workers")
    configure_logging(log_format)
    try:
        config = GatewayConfig.from_environment(file=given.pop("config"), **given)
    except (OSError, UserError) as error:
        sys.stderr.write(f"--config cannot be read: {error}\n")
        return 2
    except ValidationError as error:
        for one in error.errors():
            sys.stderr.write(f"{' '.join(map(str, one['loc']))} {one['msg']}".strip() + "\n")
        return 2
    return _serve(config, num_workers, log_format)


def _serve(config: "GatewayConfig", num_workers: int, log_format: "LogFormat") -> int:
    from infra.gateway.access import TokensError
    from infra.gateway.server import serve
    from infra.gateway.supervisor import supervise
    from infra.gateway.tls import TlsError

    try:
        if num_workers > 1:
            return supervise(config, num_workers, log_format, on_listening=_announce)
        serve(config, on_listening=_announce)
    except (TokensError, TlsError, UserError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another --port\n")
        return 3
    return 0


def _announce(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def _end_with_stdin() -> None:
    """Stop in order once standard input ends: whoever holds its other end has closed it, or has died."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(), whose lock a daemon thread would hold at exit
    os.kill(os.getpid(), signal.SIGTERM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.gateway", description="Serve the models that have a route.")
    parser.add_argument("--store", help="artifact and document store (STILLHOUSE_STORE)")
    parser.add_argument("--traffic", help="folder of the prediction log (STILLHOUSE_TRAFFIC)")
    parser.add_argument("--host", help="address to listen on; 127.0.0.1 if not given")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one; 8080 if not given")
    parser.add_argument("--replica", help="name of this process among the gateways (STILLHOUSE_REPLICA)")
    parser.add_argument(
        "--sample-inputs", type=float, help="share of the requests whose rows are logged (STILLHOUSE_SAMPLE_INPUTS); 0"
    )
    parser.add_argument("--end-with-stdin", action="store_true", help="stop when standard input is closed")
    parser.add_argument("--reuse-port", action="store_true", default=None, help="let several gateways share the port")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port")
    parser.add_argument("--config", type=Path, help="file of further settings, JSON or YAML; options count before it")
    parser.add_argument("--tokens", help="file of the tokens that callers need (STILLHOUSE_GATEWAY_TOKENS)")
    parser.add_argument(
        "--allow-anonymous", action="store_true", default=None, help="listen beyond loopback without tokens"
    )
    parser.add_argument("--tls-cert", help="PEM file of the certificate and its chain")
    parser.add_argument("--tls-key", help="PEM file of its key")
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="form of the log's lines")
    parser.add_argument("--access-log", action="store_true", default=None, help="log every request")
    parser.add_argument("--cache-bytes", type=int, help="memory for answers to repeated inputs; 0, none, if not given")
    parser.add_argument("--batch-rows", type=int, help="rows of several requests that share a run; 1 if not given")
    parser.add_argument("--batch-delay-ms", type=float, help="how long a request waits for others; 1 if not given")
    parser.add_argument(
        "--tracing", action="store_true", default=None, help="export OpenTelemetry spans as the OTEL_* variables say"
    )
    return parser


if __name__ == "__main__":
    # pydantic would read the metadata of every installed package to find plug-ins, before the gateway can start
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(main())
