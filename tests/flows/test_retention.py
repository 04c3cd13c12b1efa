from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from flows import retention
from tasks.adapters.local_traffic import LocalTraffic
from tasks.contracts.errors import UserError
from tests.adapters.traffic_files import Segments


class Log:
    def __init__(self):
        self.lines = []

    def info(self, text, *values):
        self.lines.append(text % values)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Models `a` and `b` with an hour of a week ago and one of today each."""
    for model in ("a", "b"):
        for days in (7, 0):
            Segments(tmp_path, model).predictions({"at": datetime.now(UTC) - timedelta(days=days)})
    ledger = SimpleNamespace(latest_tick=lambda name: None)
    services = SimpleNamespace(traffic=LocalTraffic(tmp_path), ledger=ledger)
    log = Log()
    monkeypatch.setattr(retention, "connect", lambda: services)
    monkeypatch.setattr(retention, "get_run_logger", lambda: log)
    return log


@pytest.mark.parametrize("limits", [{"keep_days": 3}, {"max_bytes": 0}])
def test_prune_log_removes_what_is_too_old_or_too_much_of_every_model(log, limits, tmp_path):
    done = retention.prune_log.fn(**limits)
    assert [(one.model_name, one.files, one.dry_run) for one in done] == [("a", 1, False), ("b", 1, False)]
    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    assert [line.partition(":")[0] for line in log.lines] == ["a", "b"]


def test_prune_log_refuses_to_guess(log):
    with pytest.raises(UserError, match="nothing says what may go"):
        retention.prune_log.fn()
