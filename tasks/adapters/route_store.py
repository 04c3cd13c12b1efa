"""The route of each model as a versioned document, and what the gateways say they serve of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from tasks.contracts.errors import InfrastructureError, ModelError, ServiceUnavailableError
from tasks.contracts.route import Route, RouteAcknowledgement
from tasks.runtime.stores import DocumentStore
from tasks.runtime.traffic_files import Acknowledgements

LIVE_FOR = timedelta(seconds=30)
"""A gateway renews its acknowledgement every ten seconds; one that missed three times is taken for gone."""


@dataclass(frozen=True)
class VersionedRoute:
    """A route and the version of the document that holds it."""

    version: int
    route: Route


class RouteStore:
    """Routes in a document store, and the acknowledgements that gateways leave beside them."""

    def __init__(self, documents: DocumentStore, acknowledgements: Acknowledgements) -> None:
        self._documents, self._acknowledgements = documents, acknowledgements

    def current(self, model_name: str) -> VersionedRoute | None:
        """Return the newest route of the model, or None.

        Raises:
            InfrastructureError: the stored document is not a route.
        """
        document = self._documents.latest(_document_name(model_name))
        if document is None:
            return None
        try:
            return VersionedRoute(document.version, Route.model_validate_json(document.data))
        except ValidationError as error:
            raise InfrastructureError(
                f"version {document.version} of document {_document_name(model_name)} is not a route: {error}. "
                "Remove that file from the store; the version before it counts again."
            ) from error

    def publish(self, route: Route, expected_version: int) -> VersionedRoute:
        """Make `route` the newest version, if `expected_version` still is (0: there is none).

        Publishing what the newest version says already changes nothing, so a repetition is harmless.

        Raises:
            DocumentConflictError: another writer published a different route meanwhile.
        """
        current = self.current(route.model_name)
        if current is not None and current.route == route:
            return current
        name = _document_name(route.model_name)
        return VersionedRoute(self._documents.append(name, route.canonical_json(), expected_version).version, route)

    def acknowledgements(self, model_name: str) -> list[RouteAcknowledgement]:
        """Return the last word of every gateway replica that has served the model, sorted by replica."""
        found = []
        for place, data in sorted(self._acknowledgements.read(model_name).items()):
            try:
                found.append(RouteAcknowledgement.model_validate_json(data))
            except ValidationError as error:
                raise InfrastructureError(f"{place} is not a route acknowledgement: {error}; remove it") from error
        return found

    def live(self, model_name: str) -> list[RouteAcknowledgement]:
        """Return the acknowledgements of replicas that have renewed theirs lately."""
        return [heard for heard in self.acknowledgements(model_name) if is_live(heard)]

    def why_unserved(self, model_name: str, version: int) -> str:
        """Say which live replicas do not serve `version` or a newer one, or that there are none; empty if all do."""
        live = self.live(model_name)
        if not live:
            return (
                f"no gateway serves route version {version} of {model_name}: none has renewed its acknowledgement "
                f"within {LIVE_FOR.total_seconds():g} s; start one with `stillhouse serve`, and check that it uses the "
                "same store (STILLHOUSE_STORE or STILLHOUSE_STORE_URL)"
            )
        behind = [_lag(heard, version) for heard in live if heard.route_version < version or not heard.ready]
        if not behind:
            return ""
        return f"route version {version} of {model_name} is not served by every gateway yet: {'; '.join(behind)}"

    def wait_until_served(self, model_name: str, version: int, *, timeout_s: float, poll_s: float = 0.1) -> str:
        """Wait until every live replica serves `version`; return why not when time is up, else nothing."""
        deadline = time.monotonic() + timeout_s
        while (reason := self.why_unserved(model_name, version)) and time.monotonic() < deadline:
            time.sleep(poll_s)
        return reason

    def wait_for_acknowledgement(
        self, model_name: str, version: int, *, timeout_s: float, num_replicas: int = 1, poll_s: float = 0.1
    ) -> list[RouteAcknowledgement]:
        """Wait until every live replica, and at least `num_replicas` of them, serves `version` or a newer one.

        Raises:
            ModelError: time is up and a replica could not load an arm of that version.
            ServiceUnavailableError: time is up and too few replicas have answered.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            live = self.live(model_name)
            ready = [heard for heard in live if heard.ready and heard.route_version >= version]
            if len(ready) == len(live) and len(ready) >= num_replicas:
                return ready
            if time.monotonic() >= deadline:
                raise _not_acknowledged(model_name, version, timeout_s, num_replicas, live)
            time.sleep(poll_s)


def is_live(heard: RouteAcknowledgement) -> bool:
    """Tell whether a replica has renewed its acknowledgement lately enough to count."""
    return _moment(heard.at) >= datetime.now(UTC) - LIVE_FOR


def _document_name(model_name: str) -> str:
    return f"routes/{model_name}"


def _moment(at: str) -> datetime:
    moment = datetime.fromisoformat(at)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _lag(heard: RouteAcknowledgement, version: int) -> str:
    """Say where a replica is that does not serve `version`."""
    if heard.route_version < version:
        return f"{heard.replica} at version {heard.route_version}"
    return f"{heard.replica} cannot: {heard.message}"


def _not_acknowledged(
    model_name: str, version: int, timeout_s: float, num_replicas: int, live: Sequence[RouteAcknowledgement]
) -> ModelError | ServiceUnavailableError:
    refusals = [
        f"{heard.replica}: {heard.message}" for heard in live if heard.route_version >= version and not heard.ready
    ]
    if refusals:
        return ModelError(f"route version {version} of {model_name} cannot be served by {'; '.join(refusals)}")
    states = ", ".join(f"{heard.replica} at version {heard.route_version}" for heard in live) or "none"
    return ServiceUnavailableError(
        f"after {timeout_s:g} s, route version {version} of {model_name} is not acknowledged by every live gateway "
        f"(wanted at least {num_replicas}; live: {states}). Start one with `stillhouse serve`, and check that it "
        "uses the same store (STILLHOUSE_STORE or STILLHOUSE_STORE_URL)."
    )
