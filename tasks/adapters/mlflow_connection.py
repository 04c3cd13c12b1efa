"""The connection to MLflow that tracking and registry share: late import, safe creation, named errors.

Importing mlflow and opening its database take seconds, so nothing happens before the first call,
and `import_in_background` lets a process that will need it overlap that with other waiting.
"""

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tasks.adapters.locks import FileLocks
from tasks.adapters.s3_connection import S3Options
from tasks.contracts.addresses import secrets_of, shown, without_secrets
from tasks.contracts.errors import InfrastructureError, ServiceUnavailableError, StillhouseError, UserError
from tasks.runtime.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tasks.runtime.locking import Locks

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    # tasks retry with backoff; seven retries of mlflow's own would hide an outage for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Read by mlflow when it is imported; what the user has set already stays."""

_REFUSED = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}
_BAD_REQUESTS = {"INVALID_PARAMETER_VALUE", "MALFORMED_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}


def import_in_background() -> threading.Thread:
    """Start importing mlflow in a daemon thread and return it; later imports wait for it by themselves."""
    thread = threading.Thread(target=_import_mlflow, name="import-mlflow", daemon=True)
    thread.start()
    return thread


def _import_mlflow() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - most of the time goes here


class MlflowConnection:
    """One client for one tracking address, made on first use."""

    def __init__(self, settings: Settings, locks: "Locks | None" = None) -> None:
        self._address = settings.tracking_address
        self._shown_address = shown(settings.tracking_address)
        self._artifact_root = _artifact_root(settings)
        self._environment = environment_of_mlflow(settings)
        self._locks = locks or FileLocks(settings.store_root / "locks")
        self._creating = threading.Lock()
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}

    @property
    def client(self) -> "MlflowClient":
        """The client; the first use imports mlflow and creates the database if there is none.

        One process at a time opens it: several that create one SQLite database at once crash each other.
        """
        with self._creating:
            if self._client is None:
                for name, value in self._environment.items():
                    os.environ.setdefault(name, value)
                with self.errors("open"), self.lock("mlflow-database"):
                    self._client = _opened_client(self._address)
        return self._client

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock by name among all processes that share the store."""
        return self._locks.hold(name)

    def experiment_id(self, name: str) -> str:
        """Find or create the experiment.

        Raises:
            UserError: it was deleted in MLflow, which keeps its name taken.
        """
        if name not in self._experiments:
            with self.errors(f"open experiment {name!r} on"), self.lock(f"mlflow-experiment/{name}"):
                self._experiments[name] = self._found_or_created(name)
        return self._experiments[name]

    def _found_or_created(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            return str(self.client.create_experiment(name, artifact_location=self._artifact_root))
        if experiment.lifecycle_stage != "active":
            raise UserError(
                f"experiment {name!r} is deleted in MLflow ({self._shown_address}); give the plan another name, or "
                f"restore it with `mlflow experiments restore --experiment-id {experiment.experiment_id}`"
            )
        return str(experiment.experiment_id)

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn MLflow's errors into ours, naming the address (without password) and its setting."""
        try:
            yield
        except StillhouseError:
            raise
        except Exception as error:
            named = _named_error(error, doing, f"MLflow at {self._shown_address} (STILLHOUSE_TRACKING_URL)")
            if named is None:
                raise
            if not secrets_of(self._address):
                raise named from error
            # MLflow puts the whole address into its messages; the cause would show it in a traceback
            raise type(named)(without_secrets(str(named), self._address)) from None


def connection(settings: Settings, locks: "Locks | None" = None) -> MlflowConnection:
    """Return the connection of these settings; tracking and registry share it.

    Args:
        settings: where MLflow is.
        locks: among all who write to it; by default, among those who share the store's folder.
    """
    return _connection(settings, locks)


@cache
def _connection(settings: Settings, locks: "Locks | None") -> MlflowConnection:
    """Make one for each pair; a cache on `connection` itself would tell an argument left out from its default."""
    return MlflowConnection(settings, locks)


def environment_of_mlflow(settings: Settings) -> dict[str, str]:
    """Return what our settings say of S3 by the names under which MLflow reads them, at every use of an artifact.

    What the environment says by these names already counts more.
    """
    options = S3Options.of(settings)
    said = {
        "MLFLOW_S3_ENDPOINT_URL": options.endpoint,
        "AWS_DEFAULT_REGION": options.region,
        "MLFLOW_S3_UPLOAD_EXTRA_ARGS": json.dumps(options.encryption_arguments)
        if options.encryption_arguments
        else None,
    }
    return {name: value for name, value in said.items() if value}


def _opened_client(address: str) -> "MlflowClient":
    _import_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address, registry_uri=address)
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)  # the registry opens the database on its own, later
    return client


def _artifact_root(settings: Settings) -> str | None:
    """Return where new experiments keep their artifacts; None leaves it to a tracking server."""
    if settings.mlflow_artifacts:
        return settings.mlflow_artifacts
    if urlsplit(settings.tracking_address).scheme in {"http", "https"}:
        return None
    return settings.mlflow_artifacts_address


def _named_error(error: Exception, doing: str, where: str) -> StillhouseError | None:
    """Return our error for one of MLflow, its database or its storage; None for a defect."""
    unavailable = ServiceUnavailableError(f"cannot {doing} {where}: {error}. Check that it runs there.")
    if isinstance(error, OSError):
        return _storage_error(error, doing, where) or unavailable
    code = getattr(error, "error_code", None)
    if code is None and not type(error).__module__.startswith("sqlalchemy"):
        return None
    if code in _REFUSED:
        return UserError(f"cannot {doing} {where}, which refuses access: {error}. Check user name and password.")
    if code in _BAD_REQUESTS:
        return UserError(f"cannot {doing} {where}, which refuses the request: {error}")
    return unavailable


def _storage_error(error: OSError, doing: str, where: str) -> InfrastructureError | None:
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
        return None
    return InfrastructureError(
        f"cannot {doing} {where}: {error}. Free space there, or set STILLHOUSE_MLFLOW_ARTIFACTS to a place "
        "with room and write permission."
    )
