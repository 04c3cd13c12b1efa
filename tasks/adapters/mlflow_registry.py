"""The model registry in MLflow: exactly one version per (name, artifact digest).

A version is made in steps: a logged model that carries the digest as a tag, its files, its end as
READY, the version. All but the last leave nothing that a reader of the registry sees, and each is
found again by the digest, so a call that died anywhere is completed by the next one.
"""

import importlib.metadata
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.adapters.mlflow_connection import connection
from tasks.adapters.mlflow_tracking import write_files
from tasks.contracts.errors import ModelError
from tasks.contracts.registration import DIGEST_TAG
from tasks.contracts.value import Digest, sha256_hex
from tasks.evaluation.runtime_session import make_session, run_outputs
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

    from tasks.runtime.locking import Locks

_MODEL_FILE = "model.onnx"
_MAX_TAG_LENGTH = 100_000
_MAX_DESCRIPTION_LENGTH = 5_000
_EXAMPLE_ROWS = 2


class MlflowRegistry:
    """See `tasks.runtime.bookkeeping.Registry`."""

    def __init__(self, settings: Settings, locks: "Locks | None" = None) -> None:
        self._mlflow = connection(settings, locks)

    def find_version(self, name: str, digest: Digest) -> RegisteredVersion | None:
        """See `Registry.find_version`. Of two (made by hosts without a common lock) the older one counts."""
        with self._mlflow.errors(f"search versions of {name} on"):
            found = self._search(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
        return self._described(name, found)[0] if found else None

    def register(
        self,
        name: str,
        digest: Digest,
        onnx_model: bytes,
        example: bytes,
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
        parent_run_id: str,
        description: str = "",
    ) -> RegisteredVersion:
        """See `Registry.register`. The file in the registry is the artifact, byte for byte.

        Raises:
            ModelError: the bytes do not have the digest, are no ONNX model, or do not run on the example.
        """
        if sha256_hex(onnx_model) != digest:
            raise ModelError(f"the model given for {name} has the digest {sha256_hex(onnx_model)}, not {digest}")
        self._create_name(name)
        with self._mlflow.lock(f"mlflow-register/{name}"):
            found = self.find_version(name, digest)
            if found is not None:
                return found
            with self._mlflow.errors(f"register {name} on"):
                logged = self._ready_model(name, digest, onnx_model, example, files, parent_run_id)
                made = self._mlflow.client.create_model_version(
                    name,
                    source=logged.artifact_location,
                    run_id=parent_run_id,
                    tags={key: value[:_MAX_TAG_LENGTH] for key, value in tags.items()} | {DIGEST_TAG: digest},
                    model_id=logged.model_id,
                    description=description[:_MAX_DESCRIPTION_LENGTH],
                )
                shown_by = json.dumps([{"name": name, "version": int(made.version)}])
                self._mlflow.client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": shown_by})
                return _registered(made)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """See `Registry.set_alias`."""
        with self._mlflow.errors(f"set alias {alias} of {name} on"):
            self._mlflow.client.set_registered_model_alias(name, alias, str(version))

    def delete_alias(self, name: str, alias: str) -> None:
        """See `Registry.delete_alias`."""
        with self._mlflow.errors(f"delete alias {alias} of {name} on"):
            self._mlflow.client.delete_registered_model_alias(name, alias)

    def version_of(self, name: str, alias: str) -> RegisteredVersion | None:
        """See `Registry.version_of`."""
        version = self._aliases(name).get(alias)
        return None if version is None else self.version(name, version)

    def version(self, name: str, version: int) -> RegisteredVersion:
        """See `Registry.version`."""
        with self._mlflow.errors(f"read version {version} of {name} on"):
            found = self._search(f"name = '{name}' and version_number = {version}")
        if not found:
            known = [other.version for other in self.versions(name)]
            raise ModelError(f"model {name} has no version {version} in the registry; it has {known or 'none'}")
        return self._described(name, found)[0]

    def names(self) -> list[str]:
        """See `Registry.names`."""
        with self._mlflow.errors("list the models on"):
            names, token = [], None
            while True:
                page = self._mlflow.client.search_registered_models(page_token=token)
                names += [model.name for model in page]
                token = page.token
                if not token:
                    return sorted(names)

    def versions(self, name: str) -> list[RegisteredVersion]:
        """See `Registry.versions`."""
        with self._mlflow.errors(f"list the versions of {name} on"):
            found = self._search(f"name = '{name}'")
        return self._described(name, found)

    def _search(self, filter_string: str) -> list["ModelVersion"]:
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self._mlflow.client.search_model_versions(
                filter_string, max_results=1000, order_by=["version_number ASC"], page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def _described(self, name: str, found: list["ModelVersion"]) -> list[RegisteredVersion]:
        """Add the aliases, which a search leaves out."""
        aliases = self._aliases(name) if found else {}
        return [
            _registered(version, tuple(sorted(alias for alias, of in aliases.items() if of == int(version.version))))
            for version in found
        ]

    def _aliases(self, name: str) -> dict[str, int]:
        with self._mlflow.errors(f"read the aliases of {name} on"):
            found = self._mlflow.client.search_registered_models(f"name = '{name}'", max_results=1)
        return {alias: int(version) for alias, version in found[0].aliases.items()} if found else {}

    def _create_name(self, name: str) -> None:
        """Create the registered model; another process may be faster."""
        from mlflow.exceptions import MlflowException

        with self._mlflow.errors(f"create the model {name} on"):
            if self._mlflow.client.search_registered_models(f"name = '{name}'", max_results=1):
                return
            try:
                self._mlflow.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

    def _ready_model(
        self,
        name: str,
        digest: Digest,
        onnx_model: bytes,
        example: bytes,
        files: Mapping[str, bytes],
        run_id: str,
    ) -> "LoggedModel":
        """Return the READY logged model of this artifact: found, completed or made."""
        experiment_id = self._mlflow.client.get_run(run_id).info.experiment_id
        logged = self._logged_model(experiment_id, name, digest)
        if logged is None:
            logged = self._mlflow.client.create_logged_model(
                experiment_id, name=name, source_run_id=run_id, tags={DIGEST_TAG: digest}, model_type="onnx"
            )
        if str(logged.status) != "READY":
            self._link(run_id, logged.model_id)
            with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
                saved = Path(folder) / "model"
                _save(saved, onnx_model, example, run_id, logged.model_id)
                write_files(saved, files)
                self._mlflow.client.log_model_artifacts(logged.model_id, str(saved))
            logged = self._mlflow.client.finalize_logged_model(logged.model_id, "READY")
        return logged

    def _logged_model(self, experiment_id: str, name: str, digest: Digest) -> "LoggedModel | None":
        found = self._mlflow.client.search_logged_models(
            [experiment_id],
            filter_string=f"name = '{name}' AND tags.`{DIGEST_TAG}` = '{digest}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            max_results=1,
        )
        return found[0] if found else None

    def _link(self, run_id: str, model_id: str) -> None:
        """Show the model as an output of the run, once."""
        from mlflow.entities import LoggedModelOutput

        outputs = self._mlflow.client.get_run(run_id).outputs
        if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
            self._mlflow.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _registered(version: "ModelVersion", aliases: tuple[str, ...] = ()) -> RegisteredVersion:
    return RegisteredVersion(version.name, int(version.version), aliases, dict(version.tags))


def _save(folder: Path, onnx_model: bytes, example: bytes, run_id: str, model_id: str) -> None:
    """Write an MLflow model of the ONNX flavour to `folder`; `mlflow models serve` can serve it."""
    import mlflow.onnx
    import onnx
    from mlflow.models import Model

    with np.load(io.BytesIO(example), allow_pickle=False) as arrays:
        rows = arrays["x"][:_EXAMPLE_ROWS]
    try:
        parsed = onnx.load_from_string(onnx_model)
    except Exception as error:  # protobuf's errors have no common base
        raise ModelError(f"the model to register is not an ONNX file: {error}") from error
    mlflow.onnx.save_model(
        parsed,
        str(folder),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        signature=_signature(onnx_model, rows),
        input_example=rows,
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in ("onnx", "onnxruntime")],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    # onnx writes the model anew; readers are promised the very bytes that were judged
    (folder / _MODEL_FILE).write_bytes(onnx_model)


def _signature(onnx_model: bytes, rows: "np.ndarray[Any, Any]") -> "ModelSignature":
    """Infer the signature from what the model answers to `rows`."""
    from mlflow.models import infer_signature

    session = make_session(onnx_model)
    names = [output.name for output in session.get_outputs()]
    return infer_signature(rows, dict(zip(names, run_outputs(session, rows), strict=True)))
