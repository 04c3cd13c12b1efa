"""Addresses and credentials, from the environment (`STILLHOUSE_*`) or a `.env` file; nothing else.

Hyper-parameters live on the specs that use them; see `flows.plan`.
"""

import os
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.contracts.addresses import shown
from tasks.contracts.compression import StoreCompression
from tasks.contracts.errors import UserError
from tasks.contracts.object_place import ObjectPlace
from tasks.runtime.own_postgres import OwnPostgres


class Settings(BaseSettings):
    """Where everything is. The defaults are embedded engines below one folder."""

    model_config = SettingsConfigDict(
        env_prefix="STILLHOUSE_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    home: Path = Field(default=Path(".stillhouse"), description="Folder of all embedded state.")
    project: Path = Field(default=Path(), description="Root of the checkout: data.dvc, data/, plans/.")
    bucket_url: str | None = Field(
        default=None,
        description="One place in S3 for everything, s3://BUCKET/PREFIX: store, traffic, mlflow and dvc below it, each "
        "unless its own setting says otherwise.",
    )
    store: Path | None = Field(default=None, description="Artifact and document store. Default: HOME/store.")
    store_url: str | None = Field(
        default=None,
        description="The store in S3, s3://BUCKET/PREFIX. STILLHOUSE_STORE is then the folder from which gateways of "
        "this machine serve, and of its locks.",
    )
    store_compression: StoreCompression = Field(
        default="none", description="How new artifacts are stored: none or zstd. Both are read."
    )
    traffic: Path | None = Field(default=None, description="Prediction log. Default: HOME/traffic.")
    traffic_url: str | None = Field(
        default=None,
        description="Prediction log in S3, s3://BUCKET/PREFIX. STILLHOUSE_TRAFFIC then holds what is not there yet.",
    )
    s3_endpoint: str | None = Field(default=None, description="URL of an S3 server other than Amazon's.")
    s3_region: str | None = Field(default=None, description="Region of the buckets. Default: boto3's own chain.")
    s3_encryption: Literal["none", "AES256", "aws:kms"] = Field(
        default="none", description="Encryption asked of S3 for every object: none (the bucket's own), AES256, aws:kms."
    )
    s3_kms_key: str | None = Field(default=None, description="Key for aws:kms. Default: the account's own for S3.")
    s3_checksums: Literal["sha256", "none"] = Field(
        default="sha256",
        description="Whether S3 verifies a SHA-256 of what it is sent: sha256, or none for a server that refuses it. "
        "What is read is verified here either way.",
    )
    reports: Path | None = Field(default=None, description="HTML reports. Default: HOME/reports.")
    baselines: Path = Field(default=Path("baselines"), description="Pinned baselines, meant for version control.")
    ledger_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of the ledger; in PostgreSQL, several hosts share it and their locks. "
        "Default: in HOME, SQLite or what `stillhouse up --postgres` made.",
    )
    tracking_url: str | None = Field(
        default=None,
        description="MLflow tracking server. Default: in HOME, SQLite or what `stillhouse up --postgres` made.",
    )
    mlflow_artifacts: str | None = Field(
        default=None, description="MLflow artifacts. Default: BUCKET_URL/mlflow, else HOME/mlflow-artifacts."
    )
    dvc_remote: str | None = Field(
        default=None, description="DVC remote. Default: the checkout's, else BUCKET_URL/dvc, else HOME/dvc-remote."
    )
    execution: Literal["local", "ray"] = Field(
        default="local", description="Where stages run: `local`, on the machine of the flow, or `ray`."
    )
    ray_address: str = Field(
        default="auto",
        description="Ray cluster: `ray://host:10001` from outside it, `auto` on one of its nodes.",
    )
    placement_timeout_s: float = Field(
        default=1800.0, gt=0, description="Seconds that a stage waits for a worker of the cluster to take it."
    )
    serving_command: str | None = Field(
        default=None,
        description="What starts a gateway where the run needs one, such as the container that production serves "
        "from; it gets the gateway's options. Default: this Python.",
    )
    gateway_url: str = Field(default="http://127.0.0.1:8080", description="Where clients reach the gateway.")
    gateway_token: SecretStr | None = Field(default=None, description="Token for a gateway that asks for one.")

    signing_key: SecretStr | None = Field(
        default=None,
        description="Ed25519 private key that signs models when they are registered: a PEM file, or PEM text.",
    )
    verify_keys: Path | None = Field(
        default=None,
        description="PEM public keys, a file or a folder of `*.pem`; where set, only models that one of them signed "
        "are promoted and served.",
    )

    webhook_secret: SecretStr | None = Field(
        default=None, description="Secret that MLflow signs its webhooks with; at least 16 characters."
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show addresses without the passwords in them."""
        for name, value in super().__repr_args__():
            yield name, shown(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _anchor_paths(self) -> Self:
        """Make every path absolute, so that a task may run from any working directory."""
        for setting, path in {"STILLHOUSE_STORE": self.store, "STILLHOUSE_TRAFFIC": self.traffic}.items():
            if path is not None and path.parts[:1] == ("s3:",):
                raise ValueError(f"{setting} is a folder; say s3://... by {setting}_URL")
        if self.s3_kms_key is not None and self.s3_encryption != "aws:kms":
            raise ValueError("STILLHOUSE_S3_KMS_KEY is used with STILLHOUSE_S3_ENCRYPTION=aws:kms only")
        home = self.home.expanduser().resolve()
        anchored = {
            "home": home,
            "project": self.project.expanduser().resolve(),
            "store": (self.store or home / "store").expanduser().resolve(),
            "traffic": (self.traffic or home / "traffic").expanduser().resolve(),
            "reports": (self.reports or home / "reports").expanduser().resolve(),
            "baselines": self.baselines.expanduser().resolve(),
        }
        if self.signing_key is not None and "-----BEGIN" not in self.signing_key.get_secret_value():
            path = Path(self.signing_key.get_secret_value()).expanduser().resolve()
            object.__setattr__(self, "signing_key", SecretStr(str(path)))
        if self.verify_keys is not None:
            anchored["verify_keys"] = self.verify_keys.expanduser().resolve()
        for name, path in anchored.items():
            object.__setattr__(self, name, path)
        try:
            bucket = _place(self.bucket_url, "STILLHOUSE_BUCKET_URL")
            if bucket is not None:
                object.__setattr__(self, "store_url", self.store_url or f"{bucket.url}/store")
                object.__setattr__(self, "traffic_url", self.traffic_url or f"{bucket.url}/traffic")
            places = self.store_place, self.traffic_place
        except UserError as error:
            raise ValueError(str(error)) from error
        if places[0] is not None and places[0] == places[1]:
            raise ValueError("STILLHOUSE_STORE_URL and STILLHOUSE_TRAFFIC_URL must differ; give each its own prefix")
        return self

    @property
    def store_root(self) -> Path:
        """Folder of the artifact and document store, or of what this machine keeps of the one in S3."""
        assert self.store is not None
        return self.store

    @property
    def store_place(self) -> ObjectPlace | None:
        """Where the store lies in S3, or None if it is a folder."""
        return _place(self.store_url, "STILLHOUSE_STORE_URL")

    @property
    def store_address(self) -> str:
        """Where the store lies, for messages."""
        return str(self.store_place.url if self.store_place else self.store_root)

    @property
    def traffic_place(self) -> ObjectPlace | None:
        """Where the prediction log lies in S3, or None if it is a folder."""
        return _place(self.traffic_url, "STILLHOUSE_TRAFFIC_URL")

    @property
    def traffic_root(self) -> Path:
        """Folder in which gateways of this machine write the prediction log."""
        assert self.traffic is not None
        return self.traffic

    @property
    def mlflow_artifacts_address(self) -> str:
        """Where new MLflow experiments keep their artifacts, unless a tracking server elsewhere decides it."""
        return self.mlflow_artifacts or self._in_bucket("mlflow") or (self.home / "mlflow-artifacts").as_uri()

    @property
    def dvc_default_address(self) -> str:
        """The DVC remote where neither STILLHOUSE_DVC_REMOTE nor the checkout names one."""
        return self._in_bucket("dvc") or str(self.home / "dvc-remote")

    def _in_bucket(self, part: str) -> str | None:
        bucket = _place(self.bucket_url, "STILLHOUSE_BUCKET_URL")
        return None if bucket is None else f"{bucket.url}/{part}"

    @property
    def reports_root(self) -> Path:
        """Folder of the HTML reports."""
        assert self.reports is not None
        return self.reports

    @property
    def ledger_address(self) -> str:
        """SQLAlchemy URL of the ledger, password included; never print it."""
        if self.ledger_url is not None:
            return self.ledger_url.get_secret_value()
        own = OwnPostgres(self.home)
        return own.url("ledger") if own.is_made else f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def ledger_is_shared(self) -> bool:
        """Whether the ledger lies in PostgreSQL, where several hosts may use it, and lock each other out."""
        return self.ledger_address.startswith("postgres")

    @property
    def gateway_environment(self) -> dict[str, str]:
        """What a gateway that this process starts must be told beside its options, also where a `.env` file said it."""
        return {} if self.verify_keys is None else {"STILLHOUSE_VERIFY_KEYS": str(self.verify_keys)}

    @property
    def gateway_command(self) -> tuple[str, ...]:
        """What starts a gateway, split as a shell does."""
        return (
            tuple(shlex.split(self.serving_command))
            if self.serving_command
            else (sys.executable, "-m", "infra.gateway")
        )

    @property
    def tracking_address(self) -> str:
        """URI for `mlflow.set_tracking_uri`."""
        if self.tracking_url:
            return self.tracking_url
        own = OwnPostgres(self.home)
        return own.url("mlflow") if own.is_made else f"sqlite:///{self.home / 'mlflow.db'}"


def _place(url: str | None, setting: str) -> ObjectPlace | None:
    return None if not url else ObjectPlace.parse(url, setting)


def environment_of_services() -> dict[str, str]:
    """Return this process's environment for services that it starts, without the secrets that they have no use for."""
    own = {"STILLHOUSE_SIGNING_KEY", "STILLHOUSE_WEBHOOK_SECRET", "STILLHOUSE_LEDGER_URL"}
    return {name: value for name, value in os.environ.items() if name not in own}


def environment_of_stages() -> dict[str, str]:
    """Return this process's environment for stages, which run code that plans name.

    A stage reads data, a baseline from MLflow's registry, and the store; it signs nothing, promotes nothing and knows
    no Prefect.
    """
    return {name: value for name, value in environment_of_services().items() if name not in _NOT_FOR_STAGES}


_NOT_FOR_STAGES = {
    "STILLHOUSE_GATEWAY_TOKEN",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    "PGPASSWORD",
}


@cache
def current_settings() -> Settings:
    """Read the environment once per process.

    Raises:
        UserError: it names the settings that cannot be used, and not their values, which may be secrets.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = error.errors(include_input=False, include_context=False, include_url=False)
        raise UserError("; ".join(_fault("".join(map(str, one["loc"])), one["msg"]) for one in faults)) from None


def _fault(field: str, message: str) -> str:
    if not field:  # of several settings together, which the message names
        return message.removeprefix("Value error, ")
    return f"STILLHOUSE_{field.upper()}: {message[0].lower()}{message[1:]}"
