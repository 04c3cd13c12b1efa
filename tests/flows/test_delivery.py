"""Traffic that a run brings itself: what goes wrong with it reaches the run."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows import delivery
from flows.plan import Replay
from tasks.contracts.errors import InfrastructureError, ServiceUnavailableError


@pytest.fixture(autouse=True)
def no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "load_split", lambda *given: SimpleNamespace(x=None, y=None))


def replaying(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    def replay(*given: Any, **named: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(delivery, "replay", replay)


def bring_traffic() -> None:
    with delivery._traffic(Replay(), "digits", SimpleNamespace(), "http://127.0.0.1:9"):
        pass


@pytest.mark.parametrize("error", [ServiceUnavailableError("gone"), KeyError("defect")])
def test_traffic_raises_what_its_thread_raised(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    replaying(monkeypatch, error)
    with pytest.raises(type(error)):
        bring_traffic()


def test_traffic_says_when_requests_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    replaying(monkeypatch, SimpleNamespace(failed=2, failures={"503": 2}))
    with pytest.raises(InfrastructureError, match="2 requests failed during the rollout"):
        bring_traffic()


def test_traffic_stays_out_when_real_clients_are_there_or_all_went_well(monkeypatch: pytest.MonkeyPatch) -> None:
    replaying(monkeypatch, SimpleNamespace(failed=0, failures={}))
    bring_traffic()
    with delivery._traffic(None, "digits", SimpleNamespace(), "http://127.0.0.1:9"):
        pass
