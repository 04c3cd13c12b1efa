"""A check's numbers are in the unit of what it measures."""

import pytest

from tasks.contracts.verdict import Check, Verdict
from tasks.reporting.check_figures import check_figures, check_title


def numbers(name, estimate, bound, margin):
    check = Check(name=name, verdict=Verdict.PASS, estimate=estimate, bound=bound, margin=margin, num_rows=10)
    shown = check_figures(check)
    return tuple(
        text.replace("\u00a0", " ").replace("\u2212", "-") for text in (shown.estimate, shown.bound, shown.limit)
    )


@pytest.mark.parametrize(
    ("name", "values", "texts"),
    [
        ("accuracy", (-0.0037, -0.0161, 0.02), ("-0.37 points", "-1.61 points", "\u2265 -2.00 points")),
        ("class:7", (0.01, -0.04, 0.05), ("+1.00 points", "-4.00 points", "\u2265 -5.00 points")),
        ("rmse", (0.0113, 0.0184, 0.02), ("+1.13 %", "+1.84 %", "\u2264 +2.00 %")),
        ("latency_p50", (0.119, 0.124, 0.5), ("0.12\u00d7", "0.12\u00d7", "\u2264 0.50\u00d7")),
        ("size", (61_540, None, 139_240), ("61.5 kB", "", "\u2264 139 kB")),
        ("flips", (0.0148, 0.0287, 0.05), ("1.48 %", "2.87 %", "\u2264 5.00 %")),
        ("macro_f1", (-0.002, -0.011, 0.02), ("-0.20 points", "-1.10 points", "\u2265 -2.00 points")),
        ("robustness:contrast", (0.012, 0.02, 0.03), ("+1.20 points", "+2.00 points", "\u2264 +3.00 points")),
        ("cold_start", (12.3, None, 20.0), ("12.3 ms", "", "\u2264 20.0 ms")),
        ("int8_coverage", (0.95, None, 0.9), ("95.00 %", "", "\u2265 90.00 %")),
        ("cross_validation", (0.004, 0.013, 0.02), ("+0.40 points", "+1.30 points", "\u2264 +2.00 points")),
        ("test_reuse", (3, None, 20), ("3", "", "\u2264 20")),
        ("something_new", (1.5, 2.5, 3.0), ("1.500", "2.500", "\u2264 3.000")),
        ("accuracy", (None, None, 0.02), ("\u2014", "", "\u2265 -2.00 points")),
    ],
)
def test_check_figures_writes_the_unit_of_the_check(name, values, texts):
    assert numbers(name, *values) == texts


def test_check_title_drops_what_only_programs_need():
    assert check_title("class:coat") == "class coat"
    assert check_title("latency_p95") == "latency p95"
    assert check_title("robustness:gaussian_noise") == "under gaussian noise"
    assert check_title("something_new") == "something_new"
