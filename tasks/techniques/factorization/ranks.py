"""Which rank each layer gets: by the energy that it keeps, or under a budget that is spread by sensitivity.

Dimension legend: C candidate ranks of a layer, cheapest first is not assumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.techniques.factorization.decompositions import Decomposition, Passes, Ranks

_BISECTIONS = 60


@dataclass(frozen=True)
class RankOptions:
    """The ranks that a layer may get, all of which save weights, and what each costs and loses; maybe none."""

    ranks: tuple[Ranks, ...]
    cost_C: np.ndarray  # noqa: N815
    """Weights, or multiply-adds for one row."""
    residual_C: np.ndarray  # noqa: N815
    """Share of the weight's squared norm that is lost."""
    whole_cost: float
    """Of the layer as it is."""

    def at_energy(self, energy: float) -> int | None:
        """Return the position of the cheapest ranks that keep `energy` of the squared norm, if any do."""
        enough = np.flatnonzero(self.residual_C <= 1 - energy)
        return int(enough[np.argmin(self.cost_C[enough])]) if len(enough) else None

    def at_price(self, price: float, sensitivity: float) -> int | None:
        """Return the position that minimises sensitivity * residual + price * cost; None to stay whole."""
        if not self.ranks:
            return None
        totals_C = sensitivity * self.residual_C + price * self.cost_C
        best = int(np.argmin(totals_C))
        return best if totals_C[best] < price * self.whole_cost else None


def rank_options(decomposition: Decomposition, passes: Passes, round_to: int) -> RankOptions:
    """List the ranks of a layer, in steps of `round_to`, that need fewer weights than the layer has.

    Args:
        decomposition: of the layer.
        passes: how often one row passes the weights; `Passes()` counts weights instead of multiply-adds.
        round_to: ranks are multiples of it, or 1 to `round_to` - 1 where the layer has no more.
    """
    lost = decomposition.residuals().numpy()
    whole = decomposition.layer.weight.numel()
    steps = [
        [rank for rank in range(1, most + 1) if rank % min(round_to, most) == 0] for most in decomposition.max_ranks
    ]
    grid = [tuple(ranks) for ranks in np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, len(steps)).tolist()]
    saving = tuple(ranks for ranks in grid if decomposition.num_weights(ranks) < whole)
    return RankOptions(
        ranks=saving,
        cost_C=np.array([decomposition.cost(ranks, passes) for ranks in saving], dtype=np.float64),
        residual_C=np.array([lost[tuple(rank - 1 for rank in ranks)] for ranks in saving], dtype=np.float64),
        whole_cost=float(whole * passes.outputs),
    )


def ranks_by_energy(options: Mapping[str, RankOptions], energy: float) -> dict[str, Ranks]:
    """Give each layer the cheapest ranks that keep `energy`; layers that would not shrink stay whole."""
    chosen = {path: one.at_energy(energy) for path, one in options.items()}
    return {path: options[path].ranks[position] for path, position in chosen.items() if position is not None}


def ranks_under_budget(
    options: Mapping[str, RankOptions], sensitivities: Mapping[str, float], reduction: float
) -> dict[str, Ranks]:
    """Choose ranks that save the share `reduction` of the layers' cost for the least expected harm.

    The harm of a layer is its sensitivity times its residual. With one price for a unit of cost every
    layer minimises harm + price * cost by itself (Lagrange); the price is bisected until the budget holds.
    The result may save less than asked only if even the lowest ranks do.
    """
    whole = sum(one.whole_cost for one in options.values())
    low, high = 0.0, 1.0
    while _cost(options, sensitivities, high) > (1 - reduction) * whole and high < 1e12:
        high *= 4
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _cost(options, sensitivities, middle) > (1 - reduction) * whole:
            low = middle
        else:
            high = middle
    chosen = {path: one.at_price(high, sensitivities[path]) for path, one in options.items()}
    return {path: options[path].ranks[position] for path, position in chosen.items() if position is not None}


def share_saved(options: Mapping[str, RankOptions], chosen: Mapping[str, Ranks]) -> float:
    """Return the share of the cost of all layers of `options` that the chosen ranks save."""
    whole = sum(one.whole_cost for one in options.values())
    saved = sum(
        options[path].whole_cost - options[path].cost_C[options[path].ranks.index(ranks)]
        for path, ranks in chosen.items()
    )
    return float(saved / whole) if whole else 0.0


def _cost(options: Mapping[str, RankOptions], sensitivities: Mapping[str, float], price: float) -> float:
    total = 0.0
    for path, one in options.items():
        position = one.at_price(price, sensitivities[path])
        total += one.whole_cost if position is None else float(one.cost_C[position])
    return total
