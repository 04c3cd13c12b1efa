"""Whether a delivery comes from the MLflow that shares our secret, now, and for the first time."""

import base64
import binascii
import hashlib
import hmac
import threading
from collections import OrderedDict
from collections.abc import Mapping

SIGNATURE_HEADER = "x-mlflow-signature"
TIMESTAMP_HEADER = "x-mlflow-timestamp"
DELIVERY_HEADER = "x-mlflow-delivery-id"

_VERSION = "v1,"
_MAX_ID_LENGTH = 128
_MAX_TIMESTAMP_LENGTH = 12


class RefusedError(Exception):
    """A delivery that is answered with an error; the message is for the sender and tells nothing of the secret."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def verified_id(headers: Mapping[str, str], body: bytes, secret: str, now_s: float, window_s: float) -> str:
    """Return the delivery's id if it is signed with our secret and its time stamp is within the window.

    MLflow signs `{delivery id}.{timestamp}.{body}` by HMAC-SHA256, so that neither can be changed alone.

    Args:
        headers: Of the request, found whatever their case.
        body: The very bytes that came.
        secret: What MLflow's webhook was given.
        now_s: Seconds since the epoch.
        window_s: Largest distance of the time stamp from now, either way.

    Raises:
        RefusedError: 401, it is not.
    """
    delivery, timestamp = headers.get(DELIVERY_HEADER, ""), headers.get(TIMESTAMP_HEADER, "")
    given = headers.get(SIGNATURE_HEADER, "")
    if not given:
        raise RefusedError(401, f"{SIGNATURE_HEADER} is missing; give MLflow's webhook a secret")
    if not (0 < len(delivery) <= _MAX_ID_LENGTH and 0 < len(timestamp) <= _MAX_TIMESTAMP_LENGTH):
        raise RefusedError(401, f"{DELIVERY_HEADER} or {TIMESTAMP_HEADER} is missing or too long")
    signed = f"{delivery}.{timestamp}.".encode() + body
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    if not any(hmac.compare_digest(expected, one) for one in _signatures(given)):
        raise RefusedError(401, "the signature is not of this body with this receiver's secret")
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now_s - int(timestamp)) > window_s:
        raise RefusedError(
            401, f"the time stamp is more than {window_s:g} s away from this receiver's clock; send it anew"
        )
    return delivery


class SeenDeliveries:
    """Ids of the deliveries that were taken lately: a repetition within the window is known.

    What is older than the window is refused by its time stamp, so it need not be remembered. Beyond
    `limit` the oldest are forgotten; a repetition then only reconciles once more.
    """

    def __init__(self, window_s: float, limit: int = 10_000) -> None:
        self._window_s, self._limit = window_s, limit
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, delivery: str) -> bool:
        with self._lock:
            return delivery in self._seen

    def add(self, delivery: str, now_s: float) -> None:
        """Remember a delivery for as long as its time stamp can be within the window."""
        with self._lock:
            self._seen[delivery] = now_s
            while self._seen:
                oldest, at = next(iter(self._seen.items()))
                if len(self._seen) <= self._limit and now_s - at <= 2 * self._window_s:
                    return
                del self._seen[oldest]


def _signatures(given: str) -> list[bytes]:
    """Return the signatures of our version; there may be several, by the conventions of Standard Webhooks."""
    found = []
    for one in given.split(" "):
        if one.startswith(_VERSION):
            try:
                found.append(base64.b64decode(one.removeprefix(_VERSION), validate=True))
            except (binascii.Error, ValueError):
                continue
    return found
