"""Ray Serve with one replica, in a cluster of this machine alone."""

from pathlib import Path
from typing import Any

import ray
from answering import announced, answer, load
from ray import serve


@serve.deployment(max_ongoing_requests=128)
class Deployment:
    """The model behind Ray Serve."""

    def __init__(self, model: str) -> None:
        self.session = load(Path(model))

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Answer a request."""
        reply: dict[str, Any] = answer(self.session, await request.json())
        return reply


def main() -> None:
    """Serve until told to stop."""
    model, port = announced()
    here = str(Path(__file__).parent)
    environment = {"env_vars": {"PYTHONPATH": here}}
    ray.init(
        num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False, runtime_env=environment
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Deployment.bind(str(model)), route_prefix="/", blocking=True)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
