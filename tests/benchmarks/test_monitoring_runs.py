import numpy as np
import pytest

from benchmarks.monitored_traffic import ACCURACY, Shift, rows, window
from benchmarks.monitoring_runs import SHIFTS, Shifted, stable_alarms, windows_until_found
from tasks.decisions.monitoring_policy import MonitoringPolicy

POLICY = MonitoringPolicy()


def test_made_up_traffic_is_changed_as_is_stated():
    generator = np.random.default_rng(0)
    usual = rows(generator, 100_000, labelled=True)
    assert usual.right is not None
    assert usual.right.mean() == pytest.approx(ACCURACY, abs=5e-3)
    assert usual.confidence.mean() == pytest.approx(ACCURACY, abs=5e-3)
    bright = rows(generator, 100_000, Shift(brightness=0.5))
    assert bright.input_mean.mean() - usual.input_mean.mean() == pytest.approx(0.5 * usual.input_mean.std(), rel=0.03)
    assert (rows(generator, 100_000, Shift(first_class=0.2)).prediction == 0).mean() == pytest.approx(0.2, abs=5e-3)
    hour = window(generator, 50, 100_000, 20_000, Shift(accuracy_drop=0.1, slower=1.5, error_rate=0.045))
    assert hour.labels.right.mean() == pytest.approx(ACCURACY - 0.1, abs=0.01)
    assert hour.service.errors / hour.service.requests == pytest.approx(0.045, abs=3e-3)
    assert np.median(hour.service.latencies_ms[1]) == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize(
    "shifted", [one for one in SHIFTS if "class" not in one.told], ids=lambda shifted: shifted.told
)
def test_a_shift_is_found_in_the_second_window_or_the_third(shifted: Shifted):
    assert windows_until_found(np.random.default_rng(1), shifted, POLICY) in (2, 3)


def test_stable_traffic_raises_nothing_within_hours():
    alarms, failed = stable_alarms(np.random.default_rng(2), 2000, 12, POLICY)
    assert (sum(alarms.values()), failed) == (0, 0)


def test_what_is_not_shifted_is_not_found():
    assert windows_until_found(np.random.default_rng(3), Shifted("nothing", Shift(), "drift"), POLICY) is None
