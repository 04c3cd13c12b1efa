"""Which models are loaded and which of them answers; replaced as a whole when the route changes."""

import functools
import logging
import threading
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from infra.gateway.backend import Backend
from infra.gateway.batching import BatchPolicy
from infra.gateway.errors import BusyError, RequestError
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.protocol import InferenceParser
from infra.gateway.signatures import SignatureVerifier
from infra.gateway.store import GatewayStore
from infra.gateway.watchdog import Watchdog
from tasks.contracts.errors import StillhouseError
from tasks.contracts.route import Arm, ArmName, ModelSignature, Route, RouteAcknowledgement
from tasks.contracts.value import Digest

_MAX_VERSION_DIGITS = 9

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedRoute:
    """One version of a model's route with its models loaded; never changed, only replaced.

    A request keeps the one it began with, so a model is unloaded when the last request of the last
    route that names it is done.
    """

    route: Route
    version: int
    champion: Backend
    challenger: Backend | None
    """None when the route has none, or when it could not be loaded."""
    parser: InferenceParser

    @functools.cached_property
    def headers(self) -> dict[tuple[ArmName, ArmName], tuple[tuple[bytes, bytes], ...]]:
        """What every reply says of the arm that a request fell to, and of the one that answered."""
        arms: dict[ArmName, Arm] = {"champion": self.route.champion}
        if self.route.challenger is not None:
            arms["challenger"] = self.route.challenger
        runs: dict[ArmName, tuple[tuple[bytes, bytes], ...]] = {
            name: ((b"x-stillhouse-run-id", arm.run_id.encode()),) if arm.run_id else () for name, arm in arms.items()
        }
        return {
            (assigned, served_by): (
                (b"x-stillhouse-arm", assigned.encode()),
                (b"x-stillhouse-served-by", served_by.encode()),
                (b"x-stillhouse-model-digest", answering.digest.encode()),
                (b"x-stillhouse-model-version", b"%d" % answering.version),
                (b"x-stillhouse-route-version", b"%d" % self.version),
                *runs[served_by],
            )
            for assigned in arms
            for served_by, answering in arms.items()
        }

    def of_version(self, version: int) -> tuple[ArmName, Backend | None]:
        """Return the arm that serves a version of the registry, and its model.

        Raises:
            RequestError: 404, no arm does.
        """
        if version == self.route.champion.version:
            return "champion", self.champion
        if self.route.challenger is not None and version == self.route.challenger.version:
            return "challenger", self.challenger
        raise RequestError(404, "that version is not served; GET /v2/models/MODEL lists those that are")

    def expected_ms(self, num_rows: int) -> float:
        """Return what the slower of the loaded models is expected to take."""
        champion_ms = self.champion.expected_ms(num_rows)
        return champion_ms if self.challenger is None else max(champion_ms, self.challenger.expected_ms(num_rows))

    def versions(self) -> list[int]:
        """Return the versions that the route names, the champion's first."""
        return [arm.version for arm in (self.route.champion, self.route.challenger) if arm]


@dataclass
class _Followed:
    """What the watcher knows of one model's route."""

    version: int
    ready: bool
    message: str
    route: Route | None
    checked_at: float
    acknowledged_at: float


class RoutingTable:
    """The served routes by model name. Reads are one dictionary look-up; the dictionary is never changed."""

    def __init__(self, retry_after_s: float = 1.0) -> None:
        self._retry_after_s = retry_after_s
        self._served: dict[str, ServedRoute] = {}
        self.scanned = False
        """Whether the routes have been read once."""
        self.waiting: frozenset[str] = frozenset()
        """Models whose newest route cannot be served yet, for want of the champion."""

    def get(self, model_name: str) -> ServedRoute | None:
        """Return what is served as `model_name`."""
        return self._served.get(model_name)

    def require(self, model_name: str) -> ServedRoute:
        """Return what is served as `model_name`.

        Raises:
            RequestError: 404, there is no such model.
            BusyError: 503, its champion is not loaded, or the routes have not been read yet.
        """
        served = self._served.get(model_name)
        if served is not None:
            return served
        if model_name in self.waiting:
            message = "this model's champion is not loaded; see the gateway's log"
            raise BusyError(503, message, retry_after_s=self._retry_after_s)
        if not self.scanned:
            raise BusyError(503, "the gateway is starting and has not read its routes yet")
        raise RequestError(404, "no such model; GET /v2/health/ready lists those that are served")

    def names(self) -> list[str]:
        """Return the names of all served models."""
        return sorted(self._served)

    def put(self, served: ServedRoute) -> None:
        """Serve `served` from the next request on."""
        self._served = {**self._served, served.route.model_name: served}


class RouteWatcher:
    """A thread that keeps the table like the store: loads, checks and warms up before it swaps, then acknowledges."""

    def __init__(
        self,
        store: GatewayStore,
        table: RoutingTable,
        watchdog: Watchdog,
        metrics: GatewayMetrics,
        *,
        replica: str,
        max_batch_rows: int,
        poll_interval_s: float,
        retry_interval_s: float,
        heartbeat_interval_s: float,
        batching: BatchPolicy,
        verifier: SignatureVerifier | None = None,
    ) -> None:
        self._store, self._table, self._watchdog, self._metrics = store, table, watchdog, metrics
        self._replica, self._max_batch_rows, self._batching = replica, max_batch_rows, batching
        self._poll_interval_s, self._retry_interval_s = poll_interval_s, retry_interval_s
        self._heartbeat_interval_s = heartbeat_interval_s
        self._verifier = verifier
        self._followed: dict[str, _Followed] = {}
        self._backends: weakref.WeakValueDictionary[tuple[Digest, ModelSignature], Backend]
        self._backends = weakref.WeakValueDictionary()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gateway-routes", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def stop(self) -> None:
        """End watching and withdraw the acknowledgements."""
        self._stopped.set()
        self._thread.join()
        for model_name in self._followed:
            try:
                self._store.withdraw(model_name, self._replica)
            except OSError as error:
                logger.warning("acknowledgement of %s not withdrawn: %s", model_name, error)

    def scan(self) -> None:
        """Look at every route once, and act on those that are new, failed before, or due for a heartbeat."""
        for model_name in self._store.routed_models():
            try:
                self._follow(model_name)
            except Exception:  # one model's trouble must not stop the others
                logger.exception("route of %s could not be followed", model_name)
        self._table.scanned = True

    def _watch(self) -> None:
        while True:
            try:
                self.scan()
            except OSError as error:
                logger.error("the store cannot be read: %s", error)
            if self._stopped.wait(self._poll_interval_s):
                return

    def _follow(self, model_name: str) -> None:
        known = self._followed.get(model_name)
        if known is None:
            self._tidy(model_name)
        found = self._store.latest_route(model_name, known.version if known else 0)
        now = time.monotonic()
        if found:
            self._take(model_name, *found)
        elif known and not known.ready and known.route and now - known.checked_at >= self._retry_interval_s:
            self._serve(known.route, known.version)
        elif known and now - known.acknowledged_at >= self._heartbeat_interval_s:
            self._acknowledge(model_name, known)

    def _tidy(self, model_name: str) -> None:
        """Say what an earlier process left behind, and remove what is left of those that are long dead."""
        try:
            if self._store.has_acknowledgement(model_name, self._replica):
                logger.warning(
                    "an earlier process of the name %s did not end in order: what waited in its memory for the logs of "
                    "%s is lost",
                    self._replica,
                    model_name,
                )
            removed = self._store.forget_the_dead(model_name)
        except OSError as error:
            logger.warning("acknowledgements of dead gateways of %s stay: %s", model_name, error)
        else:
            if removed:
                logger.info("%s: %d acknowledgements of dead gateways removed", model_name, removed)

    def _take(self, model_name: str, version: int, document: bytes) -> None:
        try:
            route = Route.model_validate_json(document)
            if route.model_name != model_name:
                raise ValueError("it names another model")
        except (ValidationError, ValueError) as error:
            logger.error("route %d of %s is not valid, the one before stays: %s", version, model_name, error)
            if self._table.get(model_name) is None:
                self._table.waiting |= {model_name}
            self._settle(model_name, version, None, "the document is not a valid route of this model")
        else:
            self._serve(route, version)

    def _serve(self, route: Route, version: int) -> None:
        """Load what the route names and swap it in; without its champion, what is served stays."""
        champion, trouble = self._load(route, route.champion)
        challenger = None
        if champion and route.challenger:
            challenger, trouble = self._load(route, route.challenger)
            if challenger and not _interchangeable(champion, challenger):
                challenger, trouble = None, "the challenger gives other outputs than the champion"
        name = route.model_name
        self._metrics.arm_ready.labels(name, "champion").set(champion is not None)
        if route.challenger:
            self._metrics.arm_ready.labels(name, "challenger").set(challenger is not None)
        else:  # what no route names is not "not ready"; an alert would ring for ever
            self._metrics.arm_ready.remove(name, "challenger")
        if champion:
            names = frozenset(spec.name for spec in champion.outputs)
            parser = InferenceParser(route.signature, champion.input.name, names, self._max_batch_rows)
            self._table.put(ServedRoute(route, version, champion, challenger, parser))
            self._metrics.route_version.labels(name).set(version)
        self._table.waiting = self._table.waiting - {name} if champion else self._table.waiting | {name}
        self._settle(name, version, route, trouble)

    def _load(self, route: Route, arm: Arm) -> tuple[Backend | None, str]:
        """Return the arm's model, or None and why. A loaded one is verified too: it may be signed as another model."""
        key = (arm.digest, route.signature)
        try:
            if self._verifier is not None:
                self._verifier.require(route.model_name, arm.digest)
            backend = self._backends.get(key)
            if backend is None:
                backend = Backend(arm.digest, self._store.read_artifact(arm.digest), route.signature, self._watchdog)
                backend.batch_rows = self._batching.rows_for(backend, route.signature)
                self._backends[key] = backend
        except (StillhouseError, OSError) as error:
            logger.error("version %d is not ready: %s", arm.version, error)
            return None, str(error)
        return backend, ""

    def _settle(self, model_name: str, version: int, route: Route | None, trouble: str) -> None:
        ready = route is not None and not trouble
        now = time.monotonic()
        known = self._followed.get(model_name)
        followed = _Followed(version, ready, trouble, route, now, 0.0)
        changed = known is None or (known.version, known.message) != (version, trouble)
        self._followed[model_name] = followed
        if changed:
            logger.info("%s: route %d %s", model_name, version, "is served" if ready else f"not ready: {trouble}")
        self._acknowledge(model_name, followed)

    def _acknowledge(self, model_name: str, followed: _Followed) -> None:
        acknowledgement = RouteAcknowledgement(
            model_name=model_name,
            replica=self._replica,
            route_version=followed.version,
            ready=followed.ready,
            message=followed.message,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        try:
            self._store.acknowledge(acknowledgement)
        except OSError as error:  # serving goes on; the heartbeat tries again
            logger.error("route %d of %s not acknowledged: %s", followed.version, model_name, error)
        followed.acknowledged_at = time.monotonic()


def _interchangeable(champion: Backend, challenger: Backend) -> bool:
    """Tell whether callers can be given either's outputs; names may differ, the champion's are used."""
    return [spec.datatype for spec in champion.outputs] == [spec.datatype for spec in challenger.outputs]


def parse_version(text: str) -> int:
    """Return the version that a path names.

    Raises:
        RequestError: 404, it is no number.
    """
    if not text.isdecimal() or not text.isascii() or len(text) > _MAX_VERSION_DIGITS:
        raise RequestError(404, "a version is a number; GET /v2/models/MODEL lists those that are served")
    return int(text)
