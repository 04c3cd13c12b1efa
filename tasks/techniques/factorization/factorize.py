"""Low-rank factorization: a layer becomes two or three thinner ones that compute nearly the same."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat, Surgery
from tasks.techniques.distillation.recovery import recovery_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.targeting import Ignore, Targets, select_layers
from tasks.techniques.technique import Applied, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models.architecture import Network
    from tasks.techniques.factorization.decompositions import Decomposition, Ranks
    from tasks.techniques.factorization.ranks import RankOptions

_SURGERY = "tasks.techniques.factorization.surgery:split_layers"


class Factorize(TechniqueSpec):
    """Split linear layers by the SVD and convolutions by Tucker-2 or spatially, then fine-tune.

    Sources: Denton et al. 2014 (arXiv:1404.0736), Jaderberg et al. 2014 (arXiv:1405.3866), Kim et al. 2016
    (arXiv:1511.06530). Depthwise and grouped convolutions stay as they are.
    """

    summary: ClassVar[str] = "Split layers into thinner ones of low rank (SVD, Tucker-2, spatial), and fine-tune."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    establishes: ClassVar[frozenset[Invariant]] = frozenset({"low_rank"})
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"low_rank"})

    kind: Literal["factorize"] = "factorize"
    convolutions: Literal["tucker2", "spatial"] = Field(
        default="tucker2",
        description="How kernels above 1x1 are split: 1x1, kernel, 1x1 (`tucker2`), or Hx1, 1xW (`spatial`).",
    )
    rank_by: Literal["energy", "parameters", "flops", "fixed"] = Field(
        default="energy",
        description="`energy` keeps that share of each weight's squared norm; `parameters` and `flops` save "
        "`reduction` of the layers' cost where the measured loss suffers least; `fixed` takes `ranks`.",
    )
    energy: float = Field(default=0.9, gt=0, lt=1, description="Share of the squared norm that `energy` keeps.")
    reduction: float = Field(
        default=0.4, gt=0, lt=1, description="Share of the chosen layers' parameters or FLOPs to save."
    )
    ranks: dict[str, int | tuple[int, int]] = Field(
        default={},
        description="For `fixed`: from a glob on layer paths to the rank, or the ranks [inputs, outputs] of tucker2.",
    )
    round_to: int = Field(default=4, ge=1, le=1024, description="Ranks chosen by a rule are multiples of it.")
    targets: Targets = ("*",)
    ignore: Ignore = ()
    teacher_weight: float = Field(
        default=0.0, ge=0, le=1, description="While fine-tuning: weight of the baseline's answers beside the labels."
    )
    fine_tune: Schedule = Field(
        default=Schedule(epochs=10, learning_rate=1.5e-3),
        description="Training of the factors; half the usual learning rate is usual.",
    )

    @model_validator(mode="after")
    def _ranks_are_for_fixed(self) -> "Factorize":
        if (self.rank_by == "fixed") != bool(self.ranks):
            raise ValueError("rank_by 'fixed' and `ranks` come together; give both or neither")
        if any(min(rank if isinstance(rank, tuple) else (rank,)) < 1 for rank in self.ranks.values()):
            raise ValueError(f"ranks must be at least 1, got {self.ranks}")
        return self

    @property
    def planned_epochs(self) -> int:
        """Epochs of the fine-tuning."""
        return self.fine_tune.epochs

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Factorize and fine-tune; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: no layer matches, a rank saves nothing, or training diverged.
        """
        import torch

        from tasks.models.architecture import Network
        from tasks.techniques.factorization.surgery import factorized

        network = Network.from_bytes(model)
        train = context.load_split("train")
        num_before = _num_parameters(network)
        decompositions = self._decompositions(network)
        options = self._options(network, decompositions, torch.from_numpy(train.x[:2]))
        ranks = self._ranks(network, decompositions, options, context)
        module = factorized(network.module, self.convolutions, ranks)
        recipe = {"form": self.convolutions, "ranks": {path: list(layer_ranks) for path, layer_ranks in ranks.items()}}
        network = network.with_surgery(Surgery(function=_SURGERY, arguments=recipe), module)
        device = device_for(self.resources.num_gpus)
        loss, taught = recovery_loss(context, self.fine_tune, train.x, self.teacher_weight, device)
        fit(network.module, train, loss, self.fine_tune, context, device=device)
        return Applied(network.to_bytes(), _facts(ranks, options, num_before, _num_parameters(network)) | taught)

    def _decompositions(self, network: "Network") -> "dict[str, Decomposition]":
        from torch import nn

        from tasks.techniques.factorization.decompositions import decomposition_of

        layers = select_layers(network.module, (nn.Linear, nn.Conv2d), self.targets, self.ignore)
        found = {path: decomposition_of(layer, self.convolutions) for path, layer in layers.items()}
        usable = {path: one for path, one in found.items() if one is not None}
        if not usable:
            raise TechniqueError(f"only grouped convolutions match: {', '.join(found)}; they are not factorized")
        return usable

    def _options(
        self, network: "Network", decompositions: "Mapping[str, Decomposition]", example: "Tensor"
    ) -> "dict[str, RankOptions]":
        """List the ranks that would save something; layers too thin have none and count as they are."""
        from tasks.techniques.factorization.decompositions import Passes
        from tasks.techniques.factorization.ranks import rank_options
        from tasks.techniques.factorization.sensitivity import count_passes

        passes = count_passes(network.module, list(decompositions), example)
        if self.rank_by != "flops":
            passes = dict.fromkeys(passes, Passes())
        step = 1 if self.rank_by == "fixed" else self.round_to
        return {path: rank_options(one, passes[path], step) for path, one in decompositions.items()}

    def _ranks(
        self,
        network: "Network",
        decompositions: "Mapping[str, Decomposition]",
        options: "Mapping[str, RankOptions]",
        context: StageContext,
    ) -> "dict[str, Ranks]":
        from tasks.techniques.factorization.ranks import ranks_by_energy, ranks_under_budget
        from tasks.techniques.factorization.sensitivity import sensitivities

        if self.rank_by == "fixed":
            return {path: self._fixed(path, decompositions, options) for path in self._with_fixed_ranks(decompositions)}
        if self.rank_by == "energy":
            chosen = ranks_by_energy(options, self.energy)
        else:
            measured = sensitivities(network.module, decompositions, options, context)
            chosen = ranks_under_budget(options, measured, self.reduction)
            self._require_reduction(options, chosen)
        if not chosen:
            raise TechniqueError(
                f"no layer of {', '.join(decompositions)} becomes smaller with rank_by={self.rank_by!r}, "
                f"energy={self.energy:g}, round_to={self.round_to}: lower energy or round_to, or set rank_by to "
                "'parameters' or 'flops'"
            )
        return chosen

    def _require_reduction(self, options: "Mapping[str, RankOptions]", chosen: "Mapping[str, Ranks]") -> None:
        from tasks.techniques.factorization.ranks import share_saved

        saved = share_saved(options, chosen)
        if saved < self.reduction:
            raise TechniqueError(
                f"the lowest ranks save {saved:.1%} of the {self.rank_by} of {', '.join(options) or 'no layer'}, "
                f"reduction={self.reduction:g} is asked for; lower reduction or round_to, or target more layers"
            )

    def _with_fixed_ranks(self, decompositions: "Mapping[str, Decomposition]") -> list[str]:
        for glob in self.ranks:
            if not any(fnmatchcase(path, glob) for path in decompositions):
                raise TechniqueError(f"ranks: {glob!r} matches no layer; the layers are {', '.join(decompositions)}")
        return [path for path in decompositions if any(fnmatchcase(path, glob) for glob in self.ranks)]

    def _fixed(
        self, path: str, decompositions: "Mapping[str, Decomposition]", options: "Mapping[str, RankOptions]"
    ) -> "Ranks":
        """Return the rank that the first matching glob gives to a layer; refuse one that saves nothing."""
        given = next(rank for glob, rank in self.ranks.items() if fnmatchcase(path, glob))
        most = decompositions[path].max_ranks
        ranks = given if isinstance(given, tuple) else (given,) * len(most)
        if len(ranks) != len(most):
            raise TechniqueError(f"ranks: layer {path!r} takes {len(most)} rank(s), got {given}")
        saving = options[path].ranks
        if ranks not in saving:
            largest = max((one for one in saving if len(set(one)) == 1), default=None)
            remedy = f"the largest that saves is {largest[0]}" if largest else "no rank saves any; put it in ignore"
            raise TechniqueError(
                f"ranks: rank {given} of layer {path!r} saves nothing ({decompositions[path].layer.weight.numel()} "
                f"weights as it is, full rank {most}); {remedy}"
            )
        return ranks


def _num_parameters(network: "Network") -> int:
    return sum(parameter.numel() for parameter in network.module.parameters())


def _facts(
    ranks: "Mapping[str, Ranks]", options: "Mapping[str, RankOptions]", num_before: int, num_after: int
) -> dict[str, float | int | str]:
    text = ", ".join(f"{path} {'x'.join(map(str, layer_ranks))}" for path, layer_ranks in ranks.items())
    whole = ", ".join(path for path in options if path not in ranks)
    return {
        "parameters_before": num_before,
        "parameters_after": num_after,
        "layers_factorized": len(ranks),
        "ranks": text,
        "layers_kept_whole": whole or "none",
    }
