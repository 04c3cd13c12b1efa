"""Asking a service over HTTP: whether it answers, and what time it has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from flows.diagnosis.finding import Finding
from tasks.contracts.addresses import apart

_TIMEOUT_S = 5.0
_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


@dataclass(frozen=True)
class Reply:
    """What came back, and where from, without credentials."""

    url: str
    status: int
    text: str
    clock_offset_s: float | None
    """The service's clock minus this host's, to the second; None if it did not say."""


def ask(url: str) -> Reply:
    """Ask once; credentials in the address are sent and not shown.

    Raises:
        OSError: nothing answers.
    """
    bare, credentials = apart(url)
    try:
        reply = httpx.get(bare, auth=credentials, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise OSError(f"{bare} does not answer: {error or type(error).__name__}") from None
    return Reply(bare, reply.status_code, reply.text, _offset(reply))


def answers(name: str, url: str, remedy: str) -> Finding:
    """Tell whether a service answers as one that is well."""
    try:
        reply = ask(url)
    except OSError as error:
        return Finding(name, "broken", str(error), remedy)
    if reply.status in _REFUSED:
        return Finding(name, "broken", f"{reply.url} refuses: {reply.status}", "check the credentials that it is given")
    if reply.status != httpx.codes.OK:
        return Finding(name, "broken", f"{reply.url} answers {reply.status}", remedy)
    return Finding(name, "ok", f"{reply.url} answers")


def _offset(reply: httpx.Response) -> float | None:
    """Take half of the time on the way off, as the service answered in the middle of it."""
    said = reply.headers.get("date")
    if said is None:
        return None
    try:
        there = parsedate_to_datetime(said)
    except ValueError:
        return None
    here = datetime.now(UTC) - reply.elapsed / 2
    # the header has whole seconds: the service's time lies within the second that it names
    early, late = (there - here).total_seconds(), (there - here).total_seconds() + 1.0
    return 0.0 if early <= 0.0 <= late else (early if early > 0 else late)
