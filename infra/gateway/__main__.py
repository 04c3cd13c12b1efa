"""Run a gateway: `python -m infra.gateway --store DIR --traffic DIR --port 8080`."""

import argparse
import logging
import os
import signal
import sys
import threading

from pydantic import ValidationError

from infra.gateway.config import GatewayConfig
from infra.gateway.server import serve


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; return 2 for a wrong argument, 3 if the address cannot be had."""
    given = vars(_parser().parse_args(arguments))
    if given.pop("end_with_stdin"):
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = GatewayConfig.from_environment(**given)
    except ValidationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        serve(config, on_listening=_announce)
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
    parser.add_argument("--reuse-port", action="store_true", help="let several gateways share the port")
    return parser


if __name__ == "__main__":
    sys.exit(main())
