"""Ray Serve with one replica, in a cluster of this machine alone.

Its half dozen processes share the servers' core, so that it starts in a minute or two. It tells its address once it
serves, and its controller is told to be patient: it takes a proxy for broken that is not ready within 5 s, and starts
another.
"""

import os
import signal
from pathlib import Path
from typing import Any

# They are read when Ray is imported. Without the first, a node is known by an address that other machines can reach,
# whatever `_node_ip_address` says, and every one of Ray's servers listens on it.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
}

import ray
from answering import answer, load, told
from ray import serve


@serve.deployment(max_ongoing_requests=128)
class Deployment:
    """The model behind Ray Serve."""

    def __init__(self, model: str) -> None:
        _keep_to_loopback()  # the replica begins to listen when this has returned
        self.session = load(Path(model))

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Answer a request."""
        reply: dict[str, Any] = answer(self.session, await request.json())
        return reply


def _keep_to_loopback() -> None:
    """Let the gRPC server of this process's replica listen on loopback; it takes every interface, and no setting."""
    from grpc.aio import _server  # type: ignore[import-untyped]

    add_port = _server.Server.add_insecure_port

    def add_loopback_port(self: object, address: str) -> int:
        port: int = add_port(self, address.replace("[::]", "127.0.0.1"))
        return port

    _server.Server.add_insecure_port = add_loopback_port


def main() -> None:
    """Serve until told to stop."""
    model, port, announce = told()
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
    ray.init(
        address="local",  # never a cluster that is there already
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.getcwd(),
        log_to_driver=False,
        runtime_env=environment,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Deployment.bind(str(model)), route_prefix="/")  # type: ignore[attr-defined]
    announce()
    signal.pause()


if __name__ == "__main__":
    main()
