from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from flows.diagnosis import asking


@pytest.fixture
def reply(monkeypatch: pytest.MonkeyPatch):
    """Let one reply come to whatever is asked; what was asked for is returned."""
    asked: list[tuple[str, object]] = []

    def give(status: int = 200, date: datetime | None = None, error: Exception | None = None):
        def get(url: str, *, auth: object, timeout: float) -> httpx.Response:
            asked.append((url, auth))
            if error is not None:
                raise error
            headers = {} if date is None else {"Date": format_datetime(date, usegmt=True)}
            response = httpx.Response(status, headers=headers)
            response.elapsed = timedelta()
            return response

        monkeypatch.setattr(asking.httpx, "get", get)
        return asked

    return give


def test_answers_sends_the_credentials_of_the_address_and_shows_none(reply) -> None:
    asked = reply()

    found = asking.answers("mlflow", "http://ann:s%40crt@host:5000/health", "start it")

    assert (found.state, found.detail) == ("ok", "http://host:5000/health answers")
    assert asked == [("http://host:5000/health", ("ann", "s@crt"))]


def test_answers_says_why_not_when_nothing_listens_or_it_is_refused_or_ill(reply) -> None:
    def finding():
        return asking.answers("mlflow", "http://ann:secret@host/health", "start it")

    reply(error=httpx.ConnectError("refused"))
    assert (finding().detail, finding().remedy) == ("http://host/health does not answer: refused", "start it")
    reply(401)
    assert (finding().detail, finding().remedy) == (
        "http://host/health refuses: 401", "check the credentials that it is given"
    )  # fmt: skip
    reply(503)
    assert (finding().state, finding().detail) == ("broken", "http://host/health answers 503")


def test_ask_takes_the_clock_of_the_service_to_the_second(reply) -> None:
    now = datetime.now(UTC)

    reply(date=now.replace(microsecond=0))
    assert asking.ask("http://host").clock_offset_s == pytest.approx(0.0, abs=1.0)
    reply(date=now + timedelta(seconds=60))
    assert asking.ask("http://host").clock_offset_s == pytest.approx(60, abs=2.0)
    reply(date=now - timedelta(seconds=60))
    assert asking.ask("http://host").clock_offset_s == pytest.approx(-60, abs=2.0)
    reply()
    assert asking.ask("http://host").clock_offset_s is None
