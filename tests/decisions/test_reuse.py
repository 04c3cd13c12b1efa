import numpy as np
import pytest

from tasks.contracts.verdict import Verdict
from tasks.decisions.reuse import Looks, reuse_check, share_of_look

A, B, C = (letter * 64 for letter in "abc")


def test_share_of_look_adds_up_to_one():
    shares = [share_of_look(number) for number in range(1, 200_000)]
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert sum(shares) < 1.0


def test_looks_count_only_models_that_were_not_judged_together_before():
    looks = Looks().with_look([B, A], "t1").with_look([C], "t2")
    assert [looks.number_of(models) for models in ([A, B], [B, A], [A], [C], [A, C])] == [1, 1, 1, 2, None]


@pytest.mark.parametrize(
    ("reuse", "chance"),
    # at the margin each look passes a bad candidate with alpha; with shares, all looks together do
    [("warn", 0.5), ("share", 0.05)],
)
def test_reuse_check_states_a_chance_that_holds(reuse, chance):
    generator = np.random.default_rng(0)
    alphas = 0.05 * np.array([share_of_look(number) if reuse == "share" else 1.0 for number in range(1, 11)])
    lucky = (generator.random((40_000, 10)) < alphas).any(axis=1).mean()
    assert lucky <= chance + 3 * np.sqrt(chance * (1 - chance) / 40_000)
    check = reuse_check(10, 20, 0.05, reuse)
    assert (check.verdict, check.estimate) == (Verdict.PASS, 10)
    assert f"at most {chance:.1%}" in check.detail


def test_reuse_check_fails_and_names_the_remedy_when_the_split_is_worn_out():
    check = reuse_check(21, 20, 0.05, "warn")
    assert check.verdict is Verdict.FAIL
    assert "draw a new test split" in check.detail
