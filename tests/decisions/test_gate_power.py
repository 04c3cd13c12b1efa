import re
from pathlib import Path

import pytest

from tasks.decisions.gate_policy import Constraints, GatePolicy
from tasks.decisions.gate_power import chance_to_settle, rows_to_settle, too_few_rows

PAGE = Path(__file__).parents[2] / "docs" / "gates.md"


def test_too_few_rows_says_how_many_are_needed_and_what_those_that_are_there_do():
    constraints, policy = Constraints(max_accuracy_drop=0.01), GatePolicy()
    needed = rows_to_settle(constraints, policy, 3)
    assert too_few_rows(needed, constraints, policy, 3) is None
    message = too_few_rows(1200, constraints, policy, 3)
    chance = chance_to_settle(1200, constraints, policy, 3)
    assert 0.3 < chance < 0.7
    assert f"split of 1200 rows settles a margin of 0.01 with a probability of {chance:.0%}" in message
    assert f"needs about {needed} rows" in message
    assert rows_to_settle(constraints, policy, 3) > rows_to_settle(constraints, policy, 1)


def test_too_few_rows_knows_a_split_without_rows():
    assert "probability of 0%" in too_few_rows(0, Constraints(), GatePolicy(), 1)


def test_too_few_rows_says_that_no_number_helps_when_the_assumed_drop_is_the_margin():
    message = too_few_rows(10**9, Constraints(max_accuracy_drop=0.01), GatePolicy(assumed_drop=0.01), 1)
    assert "no number of test rows" in message


def test_the_page_on_gates_shows_the_rows_that_are_computed():
    lines = re.findall(r"^\| (0\.0\d) \| (\d+)% \|(.+)\|$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(lines) == 6
    for margin, percent, shown in lines:
        constraints = Constraints(max_accuracy_drop=float(margin))
        policy = GatePolicy(assumed_discordance=int(percent) / 100)
        computed = [rows_to_settle(constraints, policy, num) for num in (1, 3, 10)]
        assert [int(cell.replace(",", "")) for cell in shown.split("|")] == computed, (margin, percent)


@pytest.mark.parametrize(("num_candidates", "power"), [(1, 0.8), (3, 0.9)])
def test_rows_to_settle_are_those_with_the_policys_power(num_candidates, power):
    constraints, policy = Constraints(max_accuracy_drop=0.02), GatePolicy(power=power)
    rows = rows_to_settle(constraints, policy, num_candidates)
    assert power <= chance_to_settle(rows, constraints, policy, num_candidates) < power + 0.02
    assert chance_to_settle(rows - 1, constraints, policy, num_candidates) < power
