"""What one gateway process is told: where its folders are, how it listens, and its limits."""

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.contracts.errors import UserError


def default_replica() -> str:
    """Name a replica `<host>-<pid>`, in characters that are safe in file names."""
    host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
    return f"{host[:40] or 'gateway'}-{os.getpid()}"


class GatewayConfig(BaseModel):
    """Everything that a gateway is told at its start. Times in seconds, sizes in bytes unless named otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path = Field(description="Root of the artifact and document store.")
    traffic: Path = Field(description="Root of the prediction log.")
    verify_keys: Path | None = Field(
        default=None, description="PEM public keys, a file or a folder; only models signed by one of them are served."
    )
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
    peer_sockets: Path | None = Field(
        default=None,
        description="Folder in which the workers of one port find one another, to answer for all of them at "
        "`/metrics`; `--workers` makes one.",
    )
    tokens: Path | None = Field(
        default=None, description="File of the SHA-256 of the tokens that callers need; see infra.gateway.access."
    )
    allow_anonymous: bool = Field(default=False, description="Listen beyond loopback although there are no tokens.")
    tls_cert: Path | None = Field(default=None, description="PEM file of the certificate, its chain included.")
    tls_key: Path | None = Field(default=None, description="PEM file of its key.")
    access_log: bool = Field(default=False, description="Log every request, not only those refused or failed.")
    max_connections: int = Field(default=1024, ge=1, description="Open connections beyond this are answered 503.")
    drain_s: float = Field(default=15.0, gt=0, description="Wait for running requests when told to stop.")

    drain_grace_s: float = Field(
        default=0.0,
        ge=0,
        description="Go on answering for this long when told to stop, while readiness says no, so that balancers "
        "stop sending first.",
    )
    header_timeout_s: float = Field(default=10.0, gt=0, description="A connection whose headers take longer is closed.")
    max_queue: int = Field(default=512, ge=1, description="Requests waiting for their turn; more are answered 429.")
    max_uploads: int = Field(
        default=64, ge=1, description="Bodies that come in several parts at one time; more are answered 429."
    )
    deadline_s: float = Field(default=5.0, gt=0, description="Requests that wait longer are answered 503.")

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
    cache_bytes: int = Field(
        default=0,
        ge=0,
        description="Memory for answers that are given again to equal inputs; 0 keeps none. Off, because it pays only "
        "where callers repeat inputs to the bit: elsewhere every request is hashed and every answer copied for "
        "nothing. Requests answered from it are no evidence for a rollout.",
    )
    batch_rows: int = Field(
        default=1,
        ge=1,
        description="Rows of several requests that may share a run of a model; 1 joins none. Off, because it pays for "
        "some models only and makes a lone request wait.",
    )
    batch_delay_ms: float = Field(
        default=1.0, ge=0, le=1000, description="How long a request waits at most for others to share its run."
    )
    batch_min_gain: float = Field(
        default=1.5,
        ge=1,
        description="Requests of a model are joined only if, when it was loaded, a batch of `batch_rows` ran at least "
        "this many times as fast as its rows one by one.",
    )
    shadow_queue: int = Field(default=64, ge=1, description="Shadow requests waiting; more are dropped and counted.")
    tracing: bool = Field(
        default=False,
        description="Make OpenTelemetry spans, exported as the OTEL_* variables say. Off, because it needs packages "
        "that the gateway's image does without, and a collector.",
    )

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

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together; give both or neither")
        if self.tokens is None and not self.allow_anonymous and not _is_loopback(self.host):
            raise ValueError(
                f"{self.host} is reached from other machines, and no tokens are asked of them; give a file of them "
                "by --tokens or STILLHOUSE_GATEWAY_TOKENS, or say --allow-anonymous if something before it asks"
            )
        return self

    @classmethod
    def from_environment(cls, *, file: Path | None = None, **given: Any) -> Self:
        """Take what is not given from `file`, in JSON or YAML with the names of the fields, else from the environment.

        The latter may hold STILLHOUSE_STORE, _TRAFFIC, _HOME, _REPLICA, _VERIFY_KEYS, _GATEWAY_TOKENS and
        _SAMPLE_INPUTS.

        Raises:
            ValidationError: a setting is not what it should be.
            UserError: `file` holds no settings.
            OSError: it cannot be read.
        """
        home = Path(os.environ.get("STILLHOUSE_HOME", ".stillhouse"))
        values: dict[str, Any] = {
            "store": os.environ.get("STILLHOUSE_STORE", home / "store"),
            "traffic": os.environ.get("STILLHOUSE_TRAFFIC", home / "traffic"),
        }
        if verify_keys := os.environ.get("STILLHOUSE_VERIFY_KEYS"):
            values["verify_keys"] = verify_keys
        if replica := os.environ.get("STILLHOUSE_REPLICA"):
            values["replica"] = replica
        if tokens := os.environ.get("STILLHOUSE_GATEWAY_TOKENS"):
            values["tokens"] = tokens
        if share := os.environ.get("STILLHOUSE_SAMPLE_INPUTS"):
            values["sample_inputs"] = share
        if file is not None:
            values |= _settings(file)
        values |= {name: value for name, value in given.items() if value is not None}
        config = cls.model_validate(values)
        anchored = {name: getattr(config, name).expanduser().resolve() for name in ("store", "traffic")}
        if config.verify_keys is not None:
            anchored["verify_keys"] = config.verify_keys.expanduser().resolve()
        return config.model_copy(update=anchored)


def _settings(file: Path) -> dict[str, Any]:
    text = file.read_bytes()
    try:
        settings = orjson.loads(text) if file.suffix == ".json" else _from_yaml(text)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{file} holds no settings; it must be JSON or YAML such as {{port: 8080}}")
    return settings


def _from_yaml(text: bytes) -> Any:
    import yaml  # a worker's file is JSON, and most gateways have none

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
