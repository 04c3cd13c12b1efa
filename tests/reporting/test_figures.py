"""Numbers are written by one rule each."""

import pytest

from tasks.reporting import figures
from tasks.reporting.figures import MINUS, NBSP, TIMES


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (999.4, "999 B"),
        (999.6, "1.00 kB"),
        (12_345, "12.3 kB"),
        (61_540, "61.5 kB"),
        (735_000, "735 kB"),
        (999_600, "1.00 MB"),
        (2_784_813, "2.78 MB"),
        (3.1e9, "3.10 GB"),
    ],
)
def test_bytes_text_keeps_three_digits_in_decimal_units(value, text):
    assert figures.bytes_text(value).replace(NBSP, " ") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0426, "0.043 ms"), (0.9999, "1.00 ms"), (1.174, "1.17 ms"), (12.34, "12.3 ms"), (812, "812 ms")],
)
def test_milliseconds_keeps_the_digits_that_matter(value, text):
    assert figures.milliseconds(value).replace(NBSP, " ") == text


@pytest.mark.parametrize(
    ("value", "text"), [(45.25, f"45{TIMES}"), (8.34, f"8.3{TIMES}"), (9.96, f"10{TIMES}"), (0.826, f"0.83{TIMES}")]
)
def test_times_drops_digits_as_ratios_grow(value, text):
    assert figures.times(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.42, "0.4 s"), (9.97, "10 s"), (31.2, "31 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min")],
)
def test_seconds_carries_into_larger_units(value, text):
    assert figures.seconds(value).replace(NBSP, " ") == text


def test_points_shows_a_true_minus_and_no_sign_of_zero():
    assert figures.points(-0.0037) == f"{MINUS}0.37{NBSP}points"
    assert figures.points(0.002) == f"+0.20{NBSP}points"
    assert figures.points(-0.00001) == f"0.00{NBSP}points"


def test_metric_writes_shares_as_percent_and_others_as_numbers():
    assert figures.metric("accuracy", 0.98314) == f"98.31{NBSP}%"
    assert figures.metric("rmse", 2.4812) == "2.481"
    assert figures.metric_change("rmse", -0.5) == f"{MINUS}0.5"


@pytest.mark.parametrize("write", [figures.bytes_text, figures.milliseconds, figures.points, figures.rate])
def test_figures_say_so_when_there_is_no_number(write):
    assert write(None) == figures.MISSING
    assert write(float("nan")) == "not a number"
    assert write(float("inf")) == "infinite"


def test_moment_and_elapsed_pass_over_what_is_no_time():
    assert figures.moment("2026-11-21T12:27:39+00:00") == "2026-11-21 12:27:39 UTC"
    assert figures.short_moment("2026-11-21T14:27:39+02:00") == "21 Nov 12:27:39"
    assert figures.moment("yesterday") == figures.short_moment("yesterday") == "yesterday"
    assert figures.elapsed("2026-11-21T12:27:39+00:00", "2026-11-21T12:32:04+00:00") == f"4{NBSP}min 25{NBSP}s"
    assert figures.elapsed("2026-11-21T12:27:39", "2026-11-21T12:32:04+00:00") == figures.MISSING
