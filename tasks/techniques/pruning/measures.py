"""What a network costs: parameters, multiply-adds, and time on this machine."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tasks.evaluation.latency import TimingBudget
from tasks.evaluation.speed import measure_speedup
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.techniques.technique import Arrays

_BUDGET = TimingBudget(seconds=1.5, min_repeats=60, max_repeats=400)


def multiply_adds(module: nn.Module, example: Tensor) -> int:
    """Count the multiply-adds of convolutions and matrix products for one row of `example` [B, *input_shape]."""
    was_training = module.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(example[:1])
    module.train(was_training)
    return int(counter.get_total_flops()) // 2


def num_parameters(module: nn.Module) -> int:
    """Count the trainable and frozen parameters; running statistics are none."""
    return sum(parameter.numel() for parameter in module.parameters())


def size_facts(before: nn.Module, after: nn.Module, example: Tensor) -> dict[str, float | int | str]:
    """Return parameters and multiply-adds of both networks."""
    return {
        "parameters_before": num_parameters(before),
        "parameters_after": num_parameters(after),
        "multiply_adds_before": multiply_adds(before, example),
        "multiply_adds_after": multiply_adds(after, example),
    }


def latency_reduction(before: bytes, after: Network, rows: Arrays, seed: int) -> float:
    """Return the share of the time for one row that `after` saves, float32 in onnxruntime on one thread.

    Both are timed in turn on the same rows, on this machine; negative where `after` is slower.

    Args:
        before: ONNX file.
        after: the network to compare, exported here.
        rows: rows to time with.
        seed: for the rows and their order.
    """
    exported = to_onnx(after, rows.x.shape[1:], str(rows.x.dtype))
    return 1 - 1 / measure_speedup(before, exported, rows.x, seed, budget=_BUDGET).ratio
