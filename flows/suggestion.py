"""Which chains are worth trying for what a plan asks, and why: rules of practice, as plain functions over values.

Sizes are predicted (one byte a weight in int8, half a byte in 4 bits, and some graph); the run measures them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flows.plan import CompressionPlan, parse_plan
from flows.plan_text import Reasoned, plan_text
from tasks.contracts.errors import PlanError
from tasks.contracts.model import Architecture
from tasks.decisions.gate_policy import Constraints
from tasks.techniques.baseline import TrainBaseline, TrainSpec

GRAPH_BYTES = 4_000
"""Names, shapes and scales of a small int8 file: 3.5 to 4.6 kB were measured for 5 to 9 layers."""
_FLOAT_BYTES, _INT8_BYTES, _INT4_BYTES = 4.0, 1.03, 0.53
_PACE = 0.15
"""Share of the channels that goes in one round."""
_HARDEST = 0.7
"""Share of the channels above which pruning is no longer suggested."""
_SHARES = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.09375, 0.0625)
"""Widths that a student is tried at, of the baseline's."""
_WIDTHS: dict[str, tuple[str, int | list[int]]] = {
    "tasks.models.convnet:convnet": ("widths", [16, 32, 64]),
    "tasks.models.mlp:mlp": ("hidden", [64, 64]),
    "tasks.models.mobilenet:mobilenet": ("width", 16),
    "tasks.models.resnet:resnet": ("width", 32),
    "tasks.models.text_encoder:text_encoder": ("width", 64),
    "tasks.models.vit:vit": ("width", 64),
}
"""The argument that says how wide each shipped factory builds, and its default."""
_NARROW = 16
"""Width below which int8 tends to be slower than float32."""

Chain = list[dict[str, Any]]
CountParameters = Callable[[Architecture], int]


@dataclass(frozen=True)
class Request:
    """What is asked for: of which baseline, and how small."""

    train: TrainSpec
    num_parameters: int
    size_ratio: float | None
    """Largest size, as a share of the baseline's; None if size is not asked for."""
    latency_ratio: float | None
    """Largest latency, as a share of the baseline's; None if latency is not asked for."""

    @property
    def size_bytes(self) -> float:
        """The baseline's size in float32."""
        return self.num_parameters * _FLOAT_BYTES + GRAPH_BYTES

    @property
    def max_bytes(self) -> float:
        """Largest size in bytes; unbounded if size is not asked for."""
        return math.inf if self.size_ratio is None else self.size_ratio * self.size_bytes


def suggest_plan(document: dict[str, Any], origin: str) -> str:
    """Fetch the data, build the baseline untrained, and return the plan as YAML with candidates for its constraints.

    Args:
        document: a plan as parsed; its candidates, if it has any, are replaced, and its search is left out.
        origin: names the plan in errors.

    Raises:
        PlanError: the plan is not valid, its baseline is not trained by it, or no chain gets as small as it asks.
        DataError: the data are missing or break an expectation.
    """
    document = {key: value for key, value in document.items() if key != "search"}  # of candidates that are replaced
    plan = parse_plan(document | {"candidates": {"placeholder": [{"kind": "quantize_static"}]}}, origin)
    if not isinstance(plan.baseline, TrainBaseline):
        raise PlanError(f"plan {origin} loads its baseline; suggest needs baseline.train, to know its architecture")
    train = plan.baseline.train
    count = _parameter_counter(plan)
    return written(document, suggest(request_of(train, plan.constraints, count(train.model)), count))


def _parameter_counter(plan: CompressionPlan) -> CountParameters:
    """Return a function that builds a network for the plan's data and counts its parameters."""
    from tasks.models.architecture import build, completed
    from tasks.runtime.services import connect
    from tasks.stages.fetching import prepare_dataset, source_revision

    data = prepare_dataset(plan.dataset, source_revision(plan.dataset, connect().settings), plan.seed)

    def count(model: Architecture) -> int:
        module = build(completed(model, data.input_shape, data.num_outputs, data.vocab_size, data.special_tokens))
        return sum(parameter.numel() for parameter in module.parameters())

    return count


def request_of(train: TrainSpec, constraints: Constraints, num_parameters: int) -> Request:
    """Put both limits of the size into one."""
    whole = num_parameters * _FLOAT_BYTES + GRAPH_BYTES
    limits = [constraints.max_size_ratio]
    limits += [None if constraints.max_size_bytes is None else constraints.max_size_bytes / whole]
    given = [limit for limit in limits if limit is not None]
    return Request(train, num_parameters, min(given) if given else None, constraints.max_latency_ratio)


def suggest(request: Request, count_parameters: CountParameters) -> list[Reasoned]:
    """Return the chains to try, the gentlest first; each reaches the size that is asked for, by prediction.

    Raises:
        PlanError: no chain of practice gets that small.
    """
    found = [_int8(request), _pruned(request), _student(request, count_parameters, 8)]
    if request.size_ratio is not None and request.size_ratio < 1 / 30:
        found.append(_student(request, count_parameters, 4))
    suggestions = [one for one in found if one is not None]
    if not suggestions:
        raise PlanError(
            f"a model of at most {request.max_bytes:,.0f} bytes is asked for, of a baseline of "
            f"{request.num_parameters:,} parameters ({request.size_bytes:,.0f} bytes): no chain of practice gets "
            "there; raise constraints.max_size_ratio or max_size_bytes, or name a student of your own"
        )
    return suggestions


def _int8(request: Request) -> Reasoned | None:
    size = request.num_parameters * _INT8_BYTES + GRAPH_BYTES
    if size > request.max_bytes:
        return None
    return Reasoned(
        "int8",
        [{"kind": "quantize_static"}],
        f"int8 alone: about {request.size_bytes / size:.1f} times smaller at once, no training, 1.5 to 2 times faster "
        "where the layers are wide; quantize_auto instead trains if more than two points are lost",
    )


def _pruned(request: Request) -> Reasoned | None:
    """Halving the channels quarters the weights: a share p of them leaves (1 - p)^2 of the weights."""
    weights = (request.max_bytes - GRAPH_BYTES) / (request.num_parameters * _INT8_BYTES)
    ratio = max(0.3, 1 - math.sqrt(weights) if 0 < weights < 1 else 0.3)
    if weights <= 0 or ratio > _HARDEST:
        return None
    ratio = math.ceil(ratio * 20) / 20
    rounds = math.ceil(ratio / _PACE)
    chain: Chain = [
        {"kind": "prune_channels", "ratio": ratio, "rounds": rounds, "fine_tune": _fine_tuning(request.train)},
        {"kind": "quantize_static"},
    ]
    why = (
        f"{ratio:.0%} of the channels go in {rounds} rounds of 10 to 20 %, each followed by training at half the "
        f"learning rate: about {(1 - ratio) ** 2:.0%} of the weights and of the multiply-adds stay, then int8"
    )
    return Reasoned("pruned-int8", chain, why)


def _student(request: Request, count_parameters: CountParameters, bits: int) -> Reasoned | None:
    """The widest student of the baseline's own kind that fits; below the narrowest that is tried there is none."""
    bytes_each = _INT8_BYTES if bits == 8 else _INT4_BYTES
    for share in _SHARES:
        student = scaled(request.train.model, share)
        if student is None:
            return None
        num_parameters = count_parameters(student)
        if num_parameters > request.num_parameters / 3 or num_parameters * bytes_each + GRAPH_BYTES > request.max_bytes:
            continue
        return _taught(request, student, num_parameters, bits)
    return None


def _taught(request: Request, student: Architecture, num_parameters: int, bits: int) -> Reasoned:
    schedule = request.train.schedule
    longer = schedule.model_dump(mode="json", exclude_defaults=True) | {"epochs": 2 * schedule.epochs}
    distill = {
        "kind": "distill_response",
        "student": student.model_dump(mode="json", exclude_defaults=True),
        "temperature": 4,
        "label_weight": 0.5,
        "schedule": longer,
    }
    if bits == 8:
        last: dict[str, Any] = {"kind": "quantize_static"}
    else:
        last = {"kind": "quantize_aware", "weight_bits": 4, "schedule": _fine_tuning(request.train)}
    if _narrowest(student) < _NARROW and request.latency_ratio is None:
        last["allow_slower"] = True
    why = (
        f"a student with {num_parameters / request.num_parameters:.1%} of the baseline's {request.num_parameters:,} "
        f"parameters learns from it at T = 4 for twice its epochs, then {bits}-bit weights"
    )
    if _narrowest(student) < _NARROW:
        why += f"; at widths below {_NARROW} int8 may be slower than float32"
        why += ", which allow_slower accepts" if request.latency_ratio is None else ", which fails the stage"
    if num_parameters < 0.1 * request.num_parameters:
        why += "; below 10 % of the teacher accuracy often suffers: try distill_features too"
    return Reasoned(f"student-int{bits}", [distill, last], why)


def scaled(model: Architecture, share: float) -> Architecture | None:
    """Return the architecture at `share` of its width, in multiples of 4 and of its heads; None for users' own."""
    if model.factory not in _WIDTHS:
        return None
    argument, default = _WIDTHS[model.factory]
    width = model.kwargs.get(argument, default)
    step = math.lcm(4, int(model.kwargs.get("heads", 1)))

    def narrower(value: int) -> int:
        return max(step, round(value * share / step) * step)

    new = [narrower(one) for one in width] if isinstance(width, list | tuple) else narrower(width)
    return model.model_copy(update={"kwargs": model.kwargs | {argument: new}})


def _narrowest(model: Architecture) -> int:
    argument, default = _WIDTHS[model.factory]
    width = model.kwargs.get(argument, default)
    return min(width) if isinstance(width, list | tuple) else int(width)


def written(document: dict[str, Any], suggestions: list[Reasoned]) -> str:
    """Return the plan as YAML: what was given, then the candidates with the reasons as comments."""
    closing = (
        "Not suggested: prune_weights, prune_two_four. Zeros in a dense file take as many bytes as other weights;",
        "dense kernels multiply them like others: they pay only where the file is stored compressed.",
    )
    return plan_text(document, suggestions, closing)


def _fine_tuning(train: TrainSpec) -> dict[str, Any]:
    schedule = train.schedule
    given = schedule.model_dump(mode="json", exclude_defaults=True)
    return given | {"epochs": max(1, schedule.epochs // 4), "learning_rate": schedule.learning_rate / 2}
