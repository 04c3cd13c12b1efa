"""Keeps a folder like the part of an S3 store that gateways serve from, and takes their acknowledgements back.

A gateway reads a folder and knows neither S3 nor its credentials, so that S3 being away means that nothing new
arrives, and no more. What it reads is complete before it can find it: models and signatures first, the route last.
"""

import logging
import threading
import time
from pathlib import Path

from pydantic import ValidationError

from tasks.adapters.local_store import LocalArtifacts, LocalDocuments, write_atomically
from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_store import S3Acknowledgements, S3Artifacts, S3Documents
from tasks.contracts.artifact import artifact_key, document_key
from tasks.contracts.errors import ArtifactCorruptError, ArtifactMissingError, InfrastructureError, StillhouseError
from tasks.contracts.route import Route
from tasks.contracts.signing import signature_folder
from tasks.contracts.value import Digest

_ROUTES = "routes/"
_ACKNOWLEDGEMENTS = "acknowledgements"
_SLOW_S = 10.0
"""How often new models, new signatures and unused files are looked for; new routes are looked for every time."""
_UNUSED_S = 24 * 3600.0
"""An unrouted model stays here for so long, for a roll-back at once."""

logger = logging.getLogger(__name__)


class StoreMirror:
    """The mirror of one store below one folder. One process at a time keeps it."""

    def __init__(self, bucket: Bucket, root: Path) -> None:
        self._root = root
        self._theirs = S3Artifacts(bucket), S3Documents(bucket), S3Acknowledgements(bucket)
        self._artifacts, self._documents = LocalArtifacts(root), LocalDocuments(root)
        self._bucket = bucket
        self._models: list[str] = []
        self._looked_at = -_SLOW_S
        self._sent: dict[tuple[str, str], bytes] = {}
        self._whole: set[Digest] = set()

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Follow the store until told to stop, whatever fails meanwhile; at last say which gateways have stopped."""
        while not stop.wait(interval_s):
            try:
                self.follow()
            except (StillhouseError, OSError) as error:
                logger.error("the store is not followed: %s", error)
        try:
            self._send_acknowledgements()
        except (StillhouseError, OSError) as error:  # they age, and count as gone in half a minute
            logger.warning("acknowledgements not withdrawn: %s", error)

    def follow(self) -> None:
        """Bring what is new here, and say there what gateways here have said.

        Raises:
            StillhouseError: S3 does not answer or refuses.
            OSError: the folder cannot be written.
        """
        self._send_acknowledgements()
        slow = time.monotonic() - self._looked_at >= _SLOW_S
        if slow:
            self._models = self._bucket.folders(f"documents/{_ROUTES}")
            self._looked_at = time.monotonic()
        for model_name in self._models:
            self._follow_model(model_name, again=slow)
        if slow:
            self._remove_unused()

    def _follow_model(self, model_name: str, *, again: bool) -> None:
        name = f"{_ROUTES}{model_name}"
        newest, here = self._theirs[1].newest_version(name), self._documents.latest(name)
        known = here.version if here else 0
        if newest < known:
            raise InfrastructureError(
                f"{self._root} holds route version {known} of {model_name}, and {self._bucket.place.url} none after "
                f"{newest}: the folder was kept for another store. Stop its gateways and empty it, or correct "
                "STILLHOUSE_STORE_URL"
            )
        if newest > known:
            document = self._theirs[1].version(name, newest)
            if document is None:  # removed by hand since
                return
            self._bring_models(document)
            write_atomically(self._root / document_key(name, newest), document)
            logger.info("route %d of %s is here", newest, model_name)
        elif here is not None and again:
            self._bring_models(here.data)
        self._fill_gaps(name, newest)

    def _bring_models(self, document: bytes) -> None:
        """Bring what a route names. What is missing or damaged there is left to the gateway to say."""
        try:
            route = Route.model_validate_json(document)
        except ValidationError:
            return
        for arm in (route.champion, route.challenger):
            if arm is None:
                continue
            self._bring_signatures(route.model_name, arm.digest)
            try:
                self._bring_model(arm.digest)
            except (ArtifactMissingError, ArtifactCorruptError) as error:
                logger.error("a model of %s cannot be had: %s", route.model_name, error)

    def _bring_model(self, digest: Digest) -> None:
        """Bring a model that is not here; one that is here is read whole once in the life of this object."""
        if digest in self._whole and (self._root / artifact_key(digest)).exists():
            return
        if not self._artifacts.contains(digest):
            self._artifacts.put(self._theirs[0].get(digest))
        self._whole.add(digest)

    def _bring_signatures(self, model_name: str, digest: Digest) -> None:
        for name in self._theirs[1].names(f"{signature_folder(model_name, digest)}/"):
            newest, here = self._theirs[1].newest_version(name), self._documents.latest(name)
            if here is None or here.version < newest:
                document = self._theirs[1].version(name, newest)
                if document is not None:
                    write_atomically(self._root / document_key(name, newest), document)

    def _fill_gaps(self, name: str, newest: int) -> None:
        """Bring versions between two that are here: a gateway finds a version by the one before it."""
        folder = (self._root / document_key(name, 1)).parent
        here = {int(path.stem) for path in folder.glob("*.json")}
        for version in sorted(set(range(min(here, default=newest), newest)) - here, reverse=True):
            document = self._theirs[1].version(name, version)
            if document is not None:
                write_atomically(self._root / document_key(name, version), document)

    def _send_acknowledgements(self) -> None:
        folder = self._root / _ACKNOWLEDGEMENTS
        found: dict[tuple[str, str], bytes] = {}
        for path in folder.glob("*/*.json"):
            try:
                found[path.parent.name, path.stem] = path.read_bytes()
            except FileNotFoundError:  # withdrawn since
                continue
        for which in self._sent.keys() - found.keys():
            self._theirs[2].withdraw(*which)
            del self._sent[which]
        for which, data in found.items():
            if self._sent.get(which) != data:
                self._theirs[2].write(*which, data)
                self._sent[which] = data

    def _remove_unused(self) -> None:
        """Remove models that no newest route names, a day after they came."""
        wanted: set[Digest] = set()
        for name in self._documents.names(_ROUTES):
            document = self._documents.latest(name)
            assert document is not None
            try:
                route = Route.model_validate_json(document.data)
            except ValidationError:
                return  # what it names is not known, so nothing is known to be unused
            wanted |= {arm.digest for arm in (route.champion, route.challenger) if arm}
        oldest = time.time() - _UNUSED_S
        for path in (self._root / "sha256").glob("*/*/*"):
            if len(path.name) == len("0" * 64) and path.name not in wanted and path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
                logger.info("model %s is routed no more and removed here", path.name)
