"""Speed and size of the default plan's networks, eager and exported, float and int8.

Untrained weights do: neither time nor size depends on what the weights are. Accuracy is what a run's
report shows, not this.
"""

from pathlib import Path

from benchmarks.digits import NUM_CLASSES, digits, in_memory_context
from benchmarks.result import RATIO, Figure, Findings, figure, ratio
from flows.plan import CompressionPlan, load_plan
from tasks.contracts.evaluation import LATENCY_BATCH_SIZES
from tasks.evaluation.latency import Samples, TimingBudget, time_interleaved
from tasks.evaluation.runners import Runner, make_runner
from tasks.models.architecture import Network, completed
from tasks.models.onnx_export import to_onnx
from tasks.techniques.baseline import TrainBaseline
from tasks.techniques.distillation.distill_response import DistillResponse
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.technique import Arrays

_PLAN = Path(__file__).parents[1] / "plans" / "digits.yaml"
_CANDIDATE = "student-int8"
_SHAPE = (1, 8, 8)
_SEED = 0
_BUDGET = TimingBudget(seconds=30.0, max_repeats=1000)

_EAGER, _BASELINE, _STUDENT, _INT8 = "eager torch baseline", "ONNX baseline", "FP32 student", "int8 student"
_PAIRS = ((_EAGER, _BASELINE), (_EAGER, _INT8), (_BASELINE, _STUDENT), (_BASELINE, _INT8), (_STUDENT, _INT8))


def measure() -> Findings:
    """Time the four models in turns at every batch size, and compare the sizes of the three files."""
    plan, rows = load_plan(_PLAN), digits()
    torch_baseline, models = _models(plan, rows)
    runners: dict[str, Runner] = {_EAGER: make_runner(torch_baseline, "torch")}
    runners |= {name: make_runner(model, "onnx") for name, model in models.items()}
    samples = time_interleaved(runners, rows.x, seed=_SEED, batch_sizes=LATENCY_BATCH_SIZES, budget=_BUDGET)
    return Findings(
        question="How much faster and smaller are the default plan's student and its int8 form than the baseline?",
        setup=(
            f"Networks of `plans/digits.yaml` (candidate `{_CANDIDATE}`), untrained, on rows of the digits; "
            "one thread, pre- and post-processing included. `a / b` is the time (or size) of a over that of b."
        ),
        seeds={"weights and timing": _SEED},
        figures=(*_ratios(samples), *_sizes(models), *_milliseconds(samples)),
    )


def _models(plan: CompressionPlan, rows: Arrays) -> tuple[bytes, dict[str, bytes]]:
    """Return the baseline as a torch artifact, and the ONNX files."""
    distill, quantize = plan.candidates[_CANDIDATE]
    assert isinstance(plan.baseline, TrainBaseline)
    assert isinstance(distill, DistillResponse)
    assert distill.student is not None
    assert isinstance(quantize, QuantizeStatic)
    baseline, student = (
        Network.create(completed(architecture, _SHAPE, NUM_CLASSES), _SEED)
        for architecture in (plan.baseline.train.model, distill.student)
    )
    exported = to_onnx(student, _SHAPE, "float32")
    models = {
        _BASELINE: to_onnx(baseline, _SHAPE, "float32"),
        _STUDENT: exported,
        _INT8: quantize.apply(exported, in_memory_context(rows, _SEED)).model,
    }
    return baseline.to_bytes(), models


def _ratios(samples: dict[str, Samples]) -> list[Figure]:
    return [
        ratio(f"time at batch {batch_size}: {slow} / {fast}", samples[slow][batch_size], samples[fast][batch_size])
        for batch_size in LATENCY_BATCH_SIZES
        for slow, fast in _PAIRS
    ]


def _milliseconds(samples: dict[str, Samples]) -> list[Figure]:
    return [
        figure(f"{name} at batch {batch_size}", "ms", milliseconds, supporting=True)
        for name, by_batch in samples.items()
        for batch_size, milliseconds in by_batch.items()
    ]


def _sizes(models: dict[str, bytes]) -> list[Figure]:
    sizes = {name: len(model) for name, model in models.items()}
    pairs = [pair for pair in _PAIRS if _EAGER not in pair]
    return [
        *(figure(f"file size: {big} / {small}", RATIO, [sizes[big] / sizes[small]]) for big, small in pairs),
        *(figure(f"size of {name}", "bytes", [size], supporting=True) for name, size in sizes.items()),
    ]
