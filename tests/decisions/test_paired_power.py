import itertools

import pytest
from scipy.stats import multinomial

from tasks.contracts.verdict import Verdict
from tasks.decisions.noninferiority import PairedTable, judge_difference, rows_needed
from tasks.decisions.paired_power import rows_for_power, settling_power

ALPHA = 0.05


def counted(num_rows: int, discordance: float, drop: float, margin: float, wanted: Verdict) -> float:
    """The probability of a verdict, by judging every table there is."""
    shares = [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance]
    reached = 0.0
    for lost, won in itertools.product(range(num_rows + 1), repeat=2):
        if lost + won <= num_rows:
            table = PairedTable(num_rows - lost - won, lost, won, 0)
            if judge_difference(table, margin, ALPHA, 0.8).verdict is wanted:
                reached += multinomial.pmf([lost, won, num_rows - lost - won], num_rows, shares)
    return reached


@pytest.mark.parametrize(
    ("discordance", "drop", "margin", "verdict"),
    [
        (0.1, 0.0, 0.1, Verdict.PASS),
        (0.2, -0.02, 0.1, Verdict.PASS),
        (0.1, 0.1, 0.2, Verdict.PASS),  # no row is ever won
        (0.4, 0.3, 0.1, Verdict.FAIL),
    ],
)
def test_settling_power_is_that_of_all_tables(discordance, drop, margin, verdict):
    power = settling_power(50, discordance, drop, margin, ALPHA)
    assert 0.1 < power < 0.99
    assert power == pytest.approx(counted(50, discordance, drop, margin, verdict), abs=1e-7)


def test_settling_power_at_the_margin_is_no_more_than_alpha():
    assert 0.04 < settling_power(1240, 0.02, 0.01 - 1e-12, 0.01, ALPHA) <= ALPHA


def test_settling_power_is_none_without_rows():
    assert settling_power(0, 0.02, 0.0, 0.02, ALPHA) == 0.0


@pytest.mark.parametrize(("discordance", "drop", "margin"), [(0.02, 0.0, 0.02), (0.05, 0.01, 0.03), (0.06, 0.05, 0.01)])
def test_rows_for_power_reach_it_first(discordance, drop, margin):
    rows = rows_for_power(discordance, drop, margin, ALPHA, 0.8)
    assert settling_power(rows - 1, discordance, drop, margin, ALPHA) < 0.8
    assert 0.8 <= settling_power(rows, discordance, drop, margin, ALPHA) < 0.82


def test_rows_for_power_go_over_into_the_normal_formula_without_a_step():
    case = (0.02, 0.0, 0.0015, ALPHA, 0.8)  # some 1,200 discordant rows, which are still counted
    assert rows_for_power(*case) == pytest.approx(rows_needed(*case), rel=0.01)
    beyond = (0.02, 0.0, 0.001, ALPHA, 0.8)
    assert rows_for_power(*beyond) == rows_needed(*beyond)


def test_rows_for_power_are_none_when_the_drop_is_the_margin():
    assert rows_for_power(0.02, 0.01, 0.01, ALPHA, 0.8) is None
