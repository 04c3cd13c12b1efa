"""Quantization-aware training: the network learns with the rounding errors that it will have in int8."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from tasks.contracts.model import ModelFormat
from tasks.techniques.distillation.fields import TeacherCacheMib, TeacherFloor, Temperature
from tasks.techniques.distillation.recovery import recovery_loss
from tasks.techniques.quantization.calibration import calibration_rows
from tasks.techniques.quantization.checks import AllowSlower, require_speed
from tasks.techniques.quantization.coverage import coverage_details, require_coverage
from tasks.techniques.schedule import Schedule
from tasks.techniques.targeting import Ignore, Targets
from tasks.techniques.technique import Applied, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from tasks.models.architecture import Network
    from tasks.techniques.quantization.simulation import Simulation

Details = dict[str, float | int | str]

_MAX_RELATIVE_DIFFERENCE = 0.03

EightBit = Annotated[
    tuple[str, ...],
    Field(
        description="Globs on module paths of layers whose weights keep 8 bits when the others have 4, such as 'head'."
    ),
]


class QuantizeAware(TechniqueSpec):
    """Train a simulation of the int8 network, then export it as QuantizeLinear and DequantizeLinear pairs.

    Batch norms are folded into the layers before them first. Rounding takes the gradient of the identity
    inside the range (straight-through estimator). The loss is (1 - v) label loss + v soft loss, where v is
    `teacher_weight` and the soft loss is T^2 KL(teacher || student) against the run's baseline, or the squared
    error for regression.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"allow_slower": True}]})

    summary: ClassVar[str] = "Train with the rounding of int8 (weights of 8 or 4 bits), then export to real int8."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "onnx"
    gives_int8: ClassVar[bool] = True
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"low_rank", "sparsity"})

    kind: Literal["quantize_aware"] = "quantize_aware"
    weight_bits: Literal[4, 8] = Field(
        default=8, description="Bits of a stored weight, bits. Weights of 4 bits run as int8, at its speed."
    )
    eight_bit: EightBit = ()
    learn_scales: bool = Field(
        default=True,
        description="Train the scales of 4-bit weights too (LSQ); otherwise they follow the weights. No effect at 8.",
    )
    targets: Targets = ("*",)
    ignore: Ignore = ()
    teacher_weight: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the baseline's answers in the loss; labels have the rest."
    )
    temperature: Temperature = 4.0
    teacher_floor: TeacherFloor = 0.0
    teacher_cache_mib: TeacherCacheMib = 1024
    num_calibration_rows: int = Field(
        default=256, ge=100, le=1000, description="Rows of the calibration split that set the first ranges."
    )
    freeze_observers_at: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the steps in which ranges and scales follow the network; then they stay.",
    )
    schedule: Schedule = Field(
        default=Schedule(epochs=10, learning_rate=4e-4),
        description="How long and how fast to train; a learning rate 5 to 10 times below the usual one.",
    )
    min_coverage: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="Share of the layers meant to be int8 that must be so in onnxruntime's optimised graph.",
    )
    allow_slower: AllowSlower = False

    @model_validator(mode="after")
    def _computes_finer_than_it_rounds(self) -> "QuantizeAware":
        if self.schedule.precision != "float32":
            raise ValueError(
                f"quantize_aware: schedule.precision is {self.schedule.precision}; bfloat16's own rounding is as "
                "coarse as int8's, so the simulation would be wrong; leave it at float32"
            )
        if self.schedule.compile:
            raise ValueError(
                f"quantize_aware: schedule.compile is {self.schedule.compile}; the ranges of the simulation follow the "
                "network from step to step, which compiled kernels do not; leave it out"
            )
        return self

    @property
    def planned_epochs(self) -> int:
        """See `TechniqueSpec.planned_epochs`."""
        return self.schedule.epochs

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train and export; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: the network cannot be traced, a glob matches nothing, the teacher is below its floor,
                training diverged, too few layers run in int8, or the result is slower than the float model.
            ModelError: the exported model does not answer as the simulated one.
        """
        import torch

        from tasks.models.architecture import Network
        from tasks.techniques.quantization.simulation import simulate

        network = Network.from_bytes(model)
        train = context.load_split("train")
        rows = calibration_rows(
            context.load_split("calibration"), context.task, self.num_calibration_rows, context.seed
        )
        simulation = simulate(
            network.module,
            torch.from_numpy(train.x[:2]),
            targets=self.targets,
            ignore=self.ignore,
            weight_bits=self.weight_bits,
            eight_bit=self.eight_bit if self.weight_bits < 8 else (),
            learn_scales=self.learn_scales,
        )
        simulation.calibrate(rows)
        device = device_for(self.resources.num_gpus)
        loss, taught = recovery_loss(
            context,
            self.schedule,
            train.x,
            self.teacher_weight,
            device,
            temperature=self.temperature,
            floor=self.teacher_floor,
            cache_mib=self.teacher_cache_mib,
        )
        following = simulation.observe_until(self.freeze_observers_at)
        fit(simulation.module, train, loss, self.schedule, context, device=device, before_step=following)
        simulation.settle()
        applied = self._exported(simulation, network, rows, context)
        return Applied(applied.model, applied.details | taught)

    def _exported(
        self, simulation: "Simulation", network: "Network", rows: np.ndarray, context: StageContext
    ) -> Applied:
        """Export, and check that the result runs in int8, as simulated, and not slower than the float network."""
        from tasks.evaluation.onnx_graph import measure_int8_coverage
        from tasks.models.onnx_export import to_onnx
        from tasks.techniques.quantization.integer_export import float_by_wish, integer_onnx

        shape, dtype = context.input_shape, rows.dtype.name
        result = integer_onnx(simulation, network.architecture, shape, dtype)
        coverage = measure_int8_coverage(result)
        require_coverage(coverage, float_by_wish(simulation, coverage), self.min_coverage)
        parity = _require_simulated_answers(simulation, result, rows)
        before = to_onnx(network, shape, dtype)
        speed = require_speed(before, result, rows, kind=self.kind, seed=context.seed, allow_slower=self.allow_slower)
        details: Details = {
            "weight_bits": self.weight_bits,
            "batch_norms_folded": simulation.num_folded,
            "calibration_rows": len(rows),
            **coverage_details(coverage),
            **parity,
            "size_bytes": len(result),
            **speed,
        }
        if simulation.unreached:
            details["unreached_layers"] = ", ".join(simulation.unreached)
        return Applied(result, details)


def _require_simulated_answers(simulation: "Simulation", exported: bytes, rows: np.ndarray) -> Details:
    """Stop an export that does not answer as the network that was trained; sums in int32 round a little otherwise."""
    import torch

    from tasks.evaluation.parity import ParityTolerance, measure_parity, require_parity
    from tasks.evaluation.runtime_session import make_session, run_rows
    from tasks.techniques.inference import outputs_of

    simulated = outputs_of(simulation.module, torch.from_numpy(rows), 256).numpy()
    parity = measure_parity(simulated, run_rows(make_session(exported), rows))
    require_parity(parity, ParityTolerance(max_relative_difference=_MAX_RELATIVE_DIFFERENCE))
    return parity.details()
