"""LitServe with one worker, which is a process of its own."""

from pathlib import Path
from typing import Any

import litserve as ls
from answering import announced, answer, load


class Api(ls.LitAPI):  # type: ignore[misc]
    """The model behind LitServe."""

    model = Path()

    def setup(self, device: str) -> None:
        """Load it, in the worker."""
        self.session = load(self.model)

    def predict(self, document: dict[str, Any]) -> dict[str, Any]:
        """Answer a request's document."""
        reply: dict[str, Any] = answer(self.session, document)
        return reply


def main() -> None:
    """Serve until told to stop."""
    api = Api(api_path="/v2/models/digits/infer")
    api.model, port = announced()
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
