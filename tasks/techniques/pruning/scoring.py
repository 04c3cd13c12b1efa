"""Scores of all groups of a network by one criterion, with the rows and the loss where it needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from torch import nn

from tasks.techniques.loss import Loss
from tasks.techniques.pruning.coupling import Group
from tasks.techniques.pruning.criteria import GRADIENT_CRITERIA, group_scores
from tasks.techniques.pruning.gradients import batch_gradients
from tasks.techniques.pruning.planning import Scores
from tasks.techniques.pruning.unit_gradients import unit_gradients
from tasks.techniques.technique import Arrays


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A criterion and what it may look at."""

    criterion: str
    """`random`, or a key of `CRITERIA` or `GRADIENT_CRITERIA`."""
    rows: Arrays
    """Rows that gradients are taken of, each row a batch of its own."""
    loss: Loss
    num_rows: int
    """How many of the rows are used, at most."""
    seed: int
    device: str = "cpu"

    @property
    def compares_layers(self) -> bool:
        """Whether scores of different layers are in one unit."""
        return self.criterion in GRADIENT_CRITERIA

    def scores(self, module: nn.Module, groups: Sequence[Group]) -> list[Scores]:
        """Return the scores [G] of the units of each group; the lowest go first.

        Raises:
            TechniqueError: the criterion finds nothing to judge by.
        """
        if self.criterion == "random":
            return [self._drawn(group) for group in groups]
        if self.criterion not in GRADIENT_CRITERIA:
            return [group_scores(module, group, self.criterion).numpy() for group in groups]
        batches = batch_gradients(
            module, self.rows, self.loss, num_rows=self.num_rows, seed=self.seed, device=self.device
        )
        importance = GRADIENT_CRITERIA[self.criterion]
        return [importance(gradients).numpy() for gradients in unit_gradients(module, groups, batches)]

    def _drawn(self, group: Group) -> Scores:
        """Draw scores that depend on the seed and the group alone."""
        digest = blake2b(repr(group.key).encode(), digest_size=8).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest)]).random(group.num_units)
