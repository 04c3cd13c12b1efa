"""The gateway's view of the store: it reads routes and models, and writes acknowledgements."""

import contextlib
import re
from pathlib import Path

from infra.gateway.durable import remove_abandoned, replace_file
from tasks.contracts.artifact import artifact_key, document_key
from tasks.contracts.compression import original_form
from tasks.contracts.errors import ArtifactCorruptError, ArtifactMissingError
from tasks.contracts.route import RouteAcknowledgement
from tasks.contracts.signing import signature_document, signature_folder
from tasks.contracts.value import Digest

_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_VERSION_FILE = re.compile(r"(\d{8})\.json")


class GatewayStore:
    """Reads below one root folder; see `tasks.contracts.artifact` for the layout."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._acknowledged: dict[str, bytes] = {}
        """What this process has written last, by model."""

    def routed_models(self) -> list[str]:
        """Return the names of all models that have a route."""
        folder = (self._root / document_key("routes/model", 1)).parents[1]
        try:
            return sorted(entry.name for entry in folder.iterdir() if _MODEL_NAME.fullmatch(entry.name))
        except FileNotFoundError:
            return []

    def latest_route(self, model_name: str, known_version: int) -> tuple[int, bytes] | None:
        """Return (version, document) of the newest route, or None if nothing follows `known_version`.

        Versions follow each other without gaps, so asking for the next one costs a single `stat`
        however long the history is.
        """
        name = f"routes/{model_name}"
        if known_version and not (self._root / document_key(name, known_version + 1)).exists():
            return None
        version = self._newest_version(name)
        if version <= known_version:
            return None
        return version, (self._root / document_key(name, version)).read_bytes()

    def read_artifact(self, digest: Digest) -> bytes:
        """Return a blob, stored compressed or not, whose bytes have been checked against its digest.

        Raises:
            ArtifactMissingError: there is no such blob.
            ArtifactCorruptError: the bytes do not have that digest.
        """
        try:
            stored = (self._root / artifact_key(digest)).read_bytes()
        except FileNotFoundError:
            raise ArtifactMissingError(f"the store holds no artifact {digest}") from None
        data = original_form(stored, digest)
        if data is None:
            raise ArtifactCorruptError(f"artifact {digest} is damaged: its bytes have another SHA-256")
        return data

    def read_signatures(self, model_name: str, digest: Digest) -> dict[str, bytes]:
        """Return the newest signature document of every key that has signed the artifact under this name."""
        folder = self._root / document_key(signature_folder(model_name, digest), 1)
        try:
            key_ids = [entry.name for entry in folder.parent.iterdir()]
        except FileNotFoundError:
            return {}
        found = {}
        for key_id in key_ids:
            name = signature_document(model_name, digest, key_id)
            version = self._newest_version(name)
            if version:  # there is none while the first is being written
                found[key_id] = (self._root / document_key(name, version)).read_bytes()
        return found

    def acknowledge(self, acknowledgement: RouteAcknowledgement) -> None:
        """Replace this replica's acknowledgement of the model's route."""
        path = self._acknowledgement_path(acknowledgement.model_name, acknowledgement.replica)
        data = acknowledgement.canonical_json()
        replace_file(path, data)
        self._acknowledged[acknowledgement.model_name] = data

    def withdraw(self, model_name: str, replica: str) -> None:
        """Remove this process's acknowledgement, so that nobody waits for a gateway that has stopped.

        Another one may have been started under its name already; what that one wrote stays.
        """
        path = self._acknowledgement_path(model_name, replica)
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == self._acknowledged.get(model_name):
                path.unlink()

    def has_acknowledgement(self, model_name: str, replica: str) -> bool:
        """Tell whether there is an acknowledgement under this name; before the first, it is another process's."""
        return self._acknowledgement_path(model_name, replica).exists()

    def forget_the_dead(self, model_name: str) -> int:
        """Remove acknowledgements, whole or half written, of gateways that have not renewed theirs for an hour.

        Return how many. A living one whose host's clock is that far behind writes its own anew.

        Raises:
            OSError: one cannot be removed.
        """
        return remove_abandoned((self._root / "acknowledgements" / model_name).glob("*"))

    def _newest_version(self, name: str) -> int:
        """Return the newest version of a document whose folder is there; 0 if it has none yet."""
        folder = (self._root / document_key(name, 1)).parent
        return max(
            (int(match[1]) for file in folder.iterdir() if (match := _VERSION_FILE.fullmatch(file.name))), default=0
        )

    def _acknowledgement_path(self, model_name: str, replica: str) -> Path:
        return self._root / "acknowledgements" / model_name / f"{replica}.json"
