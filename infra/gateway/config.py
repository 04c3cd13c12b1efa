"""What one gateway process is told: where its folders are, how it listens, and its limits."""

import os
import socket
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field


def default_replica() -> str:
    """Name a replica `<host>-<pid>`, in characters that are safe in file names."""
    host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
    return f"{host[:40] or 'gateway'}-{os.getpid()}"


class GatewayConfig(BaseModel):
    """Everything that a gateway is told at its start. Times in seconds, sizes in bytes unless named otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path = Field(description="Root of the artifact and document store.")
    traffic: Path = Field(description="Root of the prediction log.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    replica: str = Field(
        default_factory=default_replica,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of this process among the gateways that share the store.",
    )
    reuse_port: bool = Field(
        default=False, description="Let several gateways on one host share the port; the kernel divides connections."
    )
    max_connections: int = Field(default=1024, ge=1, description="Open connections beyond this are answered 503.")
    drain_s: float = Field(default=15.0, gt=0, description="Wait for running requests when told to stop.")

    poll_interval_s: float = Field(default=0.5, gt=0, description="How often new route versions are looked for.")
    retry_interval_s: float = Field(default=5.0, gt=0, description="Pause before a failed arm is loaded again.")
    heartbeat_interval_s: float = Field(default=10.0, gt=0, description="How often acknowledgements are renewed.")

    max_body_bytes: int = Field(default=8 * 2**20, ge=1024, description="Longer request bodies are answered 413.")
    max_batch_rows: int = Field(default=1024, ge=1, description="Rows in one request.")
    body_timeout_s: float = Field(default=10.0, gt=0, description="A body that takes longer is answered 408.")
    inference_timeout_s: float = Field(default=2.0, gt=0, description="One model's time for one request.")
    inline_limit_ms: float = Field(
        default=10.0,
        ge=0,
        description="Requests expected to take longer run in a thread, so that the others are not held up. "
        "A hop to a thread costs more than a small model's whole run.",
    )
    num_threads: int = Field(default=2, ge=1, description="Threads for requests above `inline_limit_ms`.")
    shadow_queue: int = Field(default=64, ge=1, description="Shadow requests waiting; more are dropped and counted.")

    flush_rows: int = Field(default=5000, ge=1, description="Rows after which a log segment is written.")
    flush_interval_s: float = Field(default=2.0, gt=0, description="Time after which a log segment is written.")
    buffer_bytes: int = Field(default=64 * 2**20, ge=1, description="Log records waiting in memory; more are lost.")
    sample_inputs: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Share of the requests whose rows are logged as they came, for retraining; 0 logs none. The rows "
        "may be personal data: see docs/retraining.md.",
    )
    input_buffer_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Sampled inputs waiting in memory; more are lost."
    )

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Take what is not given from the environment.

        The variables are STILLHOUSE_STORE, _TRAFFIC, _HOME, _REPLICA and _SAMPLE_INPUTS.
        """
        home = Path(os.environ.get("STILLHOUSE_HOME", ".stillhouse"))
        values: dict[str, Any] = {
            "store": os.environ.get("STILLHOUSE_STORE", home / "store"),
            "traffic": os.environ.get("STILLHOUSE_TRAFFIC", home / "traffic"),
        }
        if replica := os.environ.get("STILLHOUSE_REPLICA"):
            values["replica"] = replica
        if share := os.environ.get("STILLHOUSE_SAMPLE_INPUTS"):
            values["sample_inputs"] = share
        values |= {name: value for name, value in given.items() if value is not None}
        config = cls.model_validate(values)
        anchored = {name: getattr(config, name).expanduser().resolve() for name in ("store", "traffic")}
        return config.model_copy(update=anchored)
