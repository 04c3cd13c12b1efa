import pytest

from tasks.contracts.monitoring import MonitoringRecord
from tasks.reporting.window_tables import alarm_lines, headline, verdict_lines, window_markdown
from tests.stages.monitored_world import MonitoredWorld


@pytest.fixture
def record(tmp_path) -> MonitoringRecord:
    world = MonitoredWorld(tmp_path)
    for hour in range(3):
        world.traffic(hour, shift=0.1 * (hour > 0))
    world.look(1)
    return world.look(2)


def test_window_markdown_shows_every_check_and_the_alarm(record):
    page = window_markdown(record)
    assert page.count("\n| ") == len(record.report.checks) + 1
    assert "- drift alarm since 2026\\-05\\-04T13" in page or "drift alarm since 2026-05-04T13" in page


def test_lines_tell_what_was_seen_what_failed_and_what_alarms(record):
    assert "400 requests, 400 rows, 0 failed" in headline(record.report)
    lines = verdict_lines(record.report)
    assert [line.split()[:2] for line in lines] == [
        ["drift", "FAIL"], ["accuracy", "INCONCLUSIVE"], ["latency", "INCONCLUSIVE"], ["errors", "INCONCLUSIVE"],
    ]  # fmt: skip
    assert "input_mean_ks: effect" in lines[0]
    assert len(alarm_lines(record.state)) == 1
    assert alarm_lines(None) == []
