"""What each single weight is worth. A criterion gives scores; it knows nothing of masks and schedules.

w is a weight, g the gradient of the mean loss by it, and H the diagonal of the Hessian, for which the
empirical Fisher matrix stands: the mean over single rows of the squared gradient of the row's loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from tasks.techniques.loss import Loss
from tasks.techniques.pruning.gradients import accumulated_gradients
from tasks.techniques.technique import Arrays

WeightCriterion = Literal["magnitude", "gradient", "taylor", "hessian", "random"]

_GRADIENT_BATCH = 64
"""Rows of a pass for a mean gradient, which does not depend on it."""


@dataclass(frozen=True)
class Evidence:
    """The rows that gradient criteria look at, and the seed of what is drawn."""

    split: Arrays
    loss: Loss
    num_rows: int
    seed: int
    device: str = "cpu"
    micro_batch_limit: int | None = None


def weight_scores(
    module: nn.Module, paths: Sequence[str], criterion: WeightCriterion, evidence: Evidence
) -> dict[str, Tensor]:
    """Return the score of every weight of the layers at `paths`, each of its weight's shape; the lowest go first.

    A pure function of the module's state and the arguments.

    - `magnitude`: |w| (Han et al. 2015, arXiv:1506.02626).
    - `gradient`: |g|.
    - `taylor`: |w g|, the first-order change of the loss when w becomes 0 (Molchanov et al. 2019, arXiv:1906.10771).
    - `hessian`: H w^2 / 2, the second-order change where the gradient is 0 (Optimal Brain Damage, LeCun et al. 1990).
    - `random`: uniform, the baseline that a criterion must beat.

    Raises:
        TechniqueError: a loss is not finite, or the evidence has no rows.
    """
    weights = {path: _weight(module, path) for path in paths}
    if criterion == "magnitude":
        return {path: weight.abs() for path, weight in weights.items()}
    if criterion == "random":
        return _random_scores(weights, evidence.seed)
    return _gradient_scores(module, weights, criterion, evidence)


def _gradient_scores(
    module: nn.Module, weights: Mapping[str, Tensor], criterion: WeightCriterion, evidence: Evidence
) -> dict[str, Tensor]:
    batch_size = 1 if criterion == "hessian" else min(_GRADIENT_BATCH, evidence.micro_batch_limit or _GRADIENT_BATCH)
    statistics = accumulated_gradients(
        module,
        evidence.split,
        evidence.loss,
        batch_size=batch_size,
        num_rows=evidence.num_rows,
        seed=evidence.seed,
        device=evidence.device,
    )
    scores = {}
    for path, weight in weights.items():
        gradients, values = statistics[f"{path}.weight"], weight.cpu().double()
        if criterion == "gradient":
            score = gradients.mean.abs()
        elif criterion == "taylor":
            score = (values * gradients.mean).abs()
        else:
            score = gradients.mean_square * values.square() / 2
        scores[path] = score.to(weight.device)
    return scores


def _random_scores(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {path: torch.rand(weight.shape, generator=generator).to(weight.device) for path, weight in weights.items()}


def _weight(module: nn.Module, path: str) -> Tensor:
    return cast(Tensor, module.get_submodule(path).weight).detach()
