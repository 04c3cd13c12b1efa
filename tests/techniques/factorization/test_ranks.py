import itertools

import numpy as np
import pytest
from torch import nn

from tasks.techniques.factorization.decompositions import LinearSvd, Passes
from tasks.techniques.factorization.ranks import (
    RankOptions,
    rank_options,
    ranks_by_energy,
    ranks_under_budget,
    share_saved,
)


def options(cost: list[float], residual: list[float], whole: float) -> RankOptions:
    ranks = tuple((rank,) for rank in range(1, len(cost) + 1))
    return RankOptions(ranks, np.array(cost), np.array(residual), whole)


def test_rank_options_lists_multiples_that_save_weights() -> None:
    # 16 x 8 = 128 weights; rank R costs 24 R, so that 5 is the largest that saves and 4 the largest multiple of 2
    found = rank_options(LinearSvd(nn.Linear(8, 16)), Passes(outputs=3), round_to=2)
    assert found.ranks == ((2,), (4,))
    assert found.cost_C.tolist() == [144, 288]
    assert found.whole_cost == 384


def test_ranks_by_energy_takes_the_cheapest_that_keep_it_and_leaves_the_rest_whole() -> None:
    layers = {"a": options([10, 20, 30], [0.5, 0.1, 0.05], 40), "b": options([10], [0.3], 40)}
    assert ranks_by_energy(layers, 0.85) == {"a": (2,)}


def test_ranks_under_budget_shields_the_sensitive_layer() -> None:
    same = options([10, 20, 30], [0.5, 0.2, 0.1], 40)
    chosen = ranks_under_budget({"calm": same, "touchy": same}, {"calm": 1.0, "touchy": 100.0}, 0.25)
    assert chosen.keys() == {"calm"}
    assert share_saved({"calm": same, "touchy": same}, chosen) >= 0.25


@pytest.mark.parametrize("reduction", [0.1, 0.3, 0.5, 0.7])
def test_ranks_under_budget_is_the_best_of_all_choices_that_save_as_much(reduction: float) -> None:
    generator = np.random.default_rng(3)
    layers, weights = {}, {}
    for name in "abc":
        residual = np.sort(generator.uniform(0, 1, 5))[::-1]
        layers[name] = options([10, 20, 30, 40, 50], residual.tolist(), 60)
        weights[name] = float(generator.uniform(0.1, 3))
    chosen = ranks_under_budget(layers, weights, reduction)
    saved = share_saved(layers, chosen)
    assert saved >= reduction

    def harm(choice: dict[str, tuple[int, ...]]) -> float:
        return sum(weights[name] * layers[name].residual_C[ranks[0] - 1] for name, ranks in choice.items())

    every = itertools.product([None, *layers["a"].ranks], repeat=3)
    choices = [{name: ranks for name, ranks in zip("abc", picks, strict=True) if ranks} for picks in every]
    as_frugal = [harm(choice) for choice in choices if share_saved(layers, choice) >= saved - 1e-12]
    assert harm(chosen) == pytest.approx(min(as_frugal))


def test_ranks_under_budget_gives_the_lowest_ranks_when_the_budget_cannot_be_met() -> None:
    only = {"a": options([30, 35], [0.5, 0.2], 40)}
    chosen = ranks_under_budget(only, {"a": 1.0}, 0.9)
    assert chosen == {"a": (1,)}
    assert share_saved(only, chosen) == 0.25
