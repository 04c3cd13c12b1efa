"""A cohort of networks that learn from each other. Dimension legend: M peers, B rows of a batch, K outputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tasks.techniques.distillation.losses import softened_divergence
from tasks.techniques.loss import Batch, Loss
from tasks.techniques.precision import widened


class Cohort(nn.Module):
    """Peers as one module, with the outputs of the first; those of all are kept until the loss takes them."""

    def __init__(self, peers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.peers = nn.ModuleList(peers)
        self._outputs_MBK: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the first peer's outputs [B, K]."""
        self._outputs_MBK = [widened(peer(inputs)) for peer in self.peers]
        return self._outputs_MBK[0]

    def take_outputs(self) -> list[Tensor]:
        """Return every peer's outputs [B, K] of the last forward pass, and forget them."""
        outputs_MBK, self._outputs_MBK = self._outputs_MBK, []
        assert outputs_MBK, "the loss was asked for before a forward pass"
        return outputs_MBK


def mutual_loss(cohort: Cohort, hard: Loss, temperature: float, mutual_weight: float) -> Loss:
    """sum_m [CE(y, p_m) + w / (M - 1) sum_(l != m) T^2 KL(p_l || p_m)] (Zhang et al. 2018, arXiv:1706.00384, eq. 8).

    p_m are the softened probabilities of peer m and w is `mutual_weight`. Each peer takes the others' as given:
    no gradient goes through p_l. All peers step at once, on the same rows, where the paper's take turns.

    Args:
        cohort: the module that is trained.
        hard: the label loss.
        temperature: T > 0; the paper's is 1.
        mutual_weight: w >= 0; the paper's is 1.
    """

    def loss(_: Tensor, batch: Batch) -> Tensor:
        outputs_MBK = cohort.take_outputs()
        terms = [hard(own_BK, batch) for own_BK in outputs_MBK]
        for own_BK in outputs_MBK:
            others = [other_BK.detach() for other_BK in outputs_MBK if other_BK is not own_BK]
            divergences = [softened_divergence(own_BK, other_BK, temperature) for other_BK in others]
            terms.append(mutual_weight * torch.stack(divergences).mean())
        return torch.stack(terms).sum()

    return loss
