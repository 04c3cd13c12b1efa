"""Structured pruning of depth: whole residual or encoder blocks go."""

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.contracts.errors import TechniqueError
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.pruning_in_rounds import Facts, PrunesInRounds
from tasks.techniques.targeting import Targets
from tasks.techniques.technique import Applied, Arrays, StageContext
from tasks.techniques.training import device_for

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.models.architecture import Network


class PruneLayers(PrunesInRounds):
    """Remove whole blocks, the least missed first, with fine-tuning after each round.

    A block can go if it returns the shape that it takes. What is left is judged anew before the next one goes.
    """

    summary: ClassVar[str] = "Remove whole residual or encoder blocks, and fine-tune after each round."

    kind: Literal["prune_layers"] = "prune_layers"
    num_layers: int = Field(default=1, ge=1, le=1000, description="How many blocks to remove over all rounds.")
    rounds: int = Field(default=1, ge=1, le=100, description="Trainings on the way; at most one for each block.")
    criterion: Literal["harm", "similarity"] = Field(
        default="harm",
        description="`harm` removes the block without which the loss on calibration rows is least; `similarity` the "
        "one whose output is most like its input (Men et al. 2024), which takes one pass for all blocks.",
    )
    targets: Targets = ("*",)
    ignore: tuple[str, ...] = Field(default=(), description="Globs of the paths of blocks that stay.")

    @model_validator(mode="after")
    def _a_block_for_each_round(self) -> Self:
        if self.rounds > self.num_layers:
            raise ValueError(
                f"rounds={self.rounds} leaves rounds without a block to remove, since num_layers={self.num_layers}; "
                "lower rounds or raise num_layers"
            )
        return self

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Prune and fine-tune; an interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: the network has too few blocks that can go, or training diverged.
        """
        import torch

        from tasks.models.architecture import Network
        from tasks.techniques.pruning.blocks import removable_blocks
        from tasks.techniques.pruning.measures import size_facts
        from tasks.techniques.rounds import last_round

        incoming = Network.from_bytes(model)
        rows = context.load_split("calibration")
        blocks = removable_blocks(incoming.module, torch.from_numpy(rows.x[:2]), self.targets, self.ignore)
        if len(blocks) < self.num_layers:
            raise TechniqueError(
                f"num_layers={self.num_layers}, but only {len(blocks)} can go: {', '.join(blocks)}; lower num_layers, "
                "or let targets and ignore leave more"
            )
        network, facts = self._in_rounds(
            Network.from_bytes(model), partial(self._drop, rows, context), context, last_round(context.checkpoints)
        )
        details = size_facts(incoming.module, network.module, torch.from_numpy(rows.x[:2]))
        return Applied(network.to_bytes(), details | dict(facts) | {"rounds": self.rounds})

    def _drop(self, rows: Arrays, context: StageContext, network: "Network", number: int) -> "tuple[Network, Facts]":
        """Remove the blocks of one round, one after the other."""
        import torch

        from tasks.contracts.model import Surgery
        from tasks.techniques.pruning.blocks import drop_layers

        device = device_for(self.resources.num_gpus)
        inputs = torch.from_numpy(rows.x[: self.score_rows]).to(device)
        labels_N = torch.from_numpy(rows.y[: self.score_rows]).to(device)
        count = self.num_layers * number // self.rounds - self.num_layers * (number - 1) // self.rounds
        dropped: list[str] = []
        told: list[str] = []
        for _ in range(count):
            worths = self._worths(network.module, inputs, labels_N, context)
            path = min(worths, key=lambda block: worths[block])
            drop_layers(network.module, [path])
            dropped.append(path)
            told.append(f"{path} ({self.criterion} {worths[path]:.4g}, at most {max(worths.values()):.4g})")
        operation = Surgery(function="tasks.techniques.pruning.blocks:drop_layers", arguments={"layers": dropped})
        return network.with_surgery(operation, network.module), {f"layers_removed_in_round_{number}": ", ".join(told)}

    def _worths(
        self, module: "nn.Module", inputs: "Tensor", labels_N: "Tensor", context: StageContext
    ) -> dict[str, float]:
        """Return by path what each block that can go is worth; the least goes first."""
        from tasks.techniques.pruning.blocks import block_harms, block_influences, removable_blocks

        blocks = removable_blocks(module, inputs[:2].cpu(), self.targets, self.ignore)
        if self.criterion == "similarity":
            return block_influences(module, blocks, inputs)
        return block_harms(module, blocks, inputs, labels_N, label_loss(context.task))
