"""The receiver's endpoints: `POST /webhooks/mlflow` and `GET /health`."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.webhooks.delivery import RefusedError, SeenDeliveries, verified_id
from infra.webhooks.event import concerned_model
from infra.webhooks.worker import ReconcileWorker

logger = logging.getLogger(__name__)

PATH = "/webhooks/mlflow"
MIN_SECRET_LENGTH = 16
_RETRY_AFTER_S = 5


@dataclass(frozen=True)
class ReceiverLimits:
    """What one receiver takes. Times in seconds, sizes in bytes."""

    window_s: float = 300.0
    """Largest distance of a delivery's time stamp from this clock."""
    max_body_bytes: int = 256 * 2**10
    body_timeout_s: float = 10.0
    max_waiting: int = 64
    """Models that may wait to be reconciled."""


@dataclass
class Receiver:
    """Takes deliveries and hands the models that they are about to the worker."""

    secret: SecretStr
    worker: ReconcileWorker
    limits: ReceiverLimits
    clock: Callable[[], float] = time.time
    counts: dict[str, int] = field(default_factory=dict)
    """Deliveries by what became of them."""

    def __post_init__(self) -> None:
        self._seen = SeenDeliveries(self.limits.window_s)

    async def receive(self, request: Request) -> Response:
        """Answer 202 for what is taken, 200 for what needs nothing, and an error that says why for the rest."""
        try:
            body = await _read(request, self.limits)
            outcome = self._take(request, body)
        except RefusedError as error:
            logger.warning("delivery refused with %d: %s", error.status, error.message)
            self._count(f"refused {error.status}")
            headers = {"Retry-After": str(_RETRY_AFTER_S)} if error.status == 503 else {}
            return JSONResponse({"error": error.message}, error.status, headers)
        except ClientDisconnect:
            self._count("broken off")
            return Response(status_code=400)
        self._count(outcome)
        return JSONResponse({"status": outcome}, 202 if outcome == "accepted" else 200)

    async def health(self, _: Request) -> Response:
        """Say that the receiver runs, and what it has done since it started."""
        return JSONResponse({"status": "ok", "waiting": self.worker.num_waiting, "deliveries": self.counts})

    def _take(self, request: Request, body: bytes) -> str:
        now = self.clock()
        delivery = verified_id(request.headers, body, self.secret.get_secret_value(), now, self.limits.window_s)
        if delivery in self._seen:
            return "seen before"
        model_name = concerned_model(body)
        if model_name is not None and not self.worker.submit(model_name):
            raise RefusedError(503, "too many models wait to be reconciled; send it again")
        self._seen.add(delivery, now)
        return "ignored" if model_name is None else "accepted"

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1


def create_app(
    secret: SecretStr, reconcile: Callable[[str], object], limits: ReceiverLimits | None = None
) -> Starlette:
    """Make the application; its worker lives as long as it is served.

    Args:
        secret: What MLflow's webhook was given; at least 16 characters.
        reconcile: Makes one model's aliases and route equal the ledger.
        limits: What it takes.

    Raises:
        ValueError: the secret is too short to guard anything.
    """
    if len(secret.get_secret_value()) < MIN_SECRET_LENGTH:
        raise ValueError(f"the secret has fewer than {MIN_SECRET_LENGTH} characters; take 32 random ones")
    limits = limits or ReceiverLimits()
    worker = ReconcileWorker(reconcile, limits.max_waiting)
    receiver = Receiver(secret, worker, limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    routes = [Route(PATH, receiver.receive, methods=["POST"]), Route("/health", receiver.health, methods=["GET"])]
    return Starlette(routes=routes, lifespan=lifespan)


async def _read(request: Request, limits: ReceiverLimits) -> bytes:
    """Return the body; one that is too long is refused as soon as that is known.

    Raises:
        RefusedError: 413 beyond the limit, 408 when it takes too long.
    """
    too_long = RefusedError(413, f"the body is longer than {limits.max_body_bytes} bytes")
    if int(request.headers.get("content-length", 0)) > limits.max_body_bytes:
        raise too_long
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limits.max_body_bytes:
                    raise too_long
    except TimeoutError:
        raise RefusedError(408, f"the body took longer than {limits.body_timeout_s:g} s") from None
    return b"".join(parts)
