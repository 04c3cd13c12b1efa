"""What is measured of a model: quality on a split, timing on a machine, and both together."""

from typing import Literal

from pydantic import Field

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.data import SplitName
from tasks.contracts.value import Digest, Value

LATENCY_BATCH_SIZES: tuple[int, ...] = (1, 8, 32)

METRIC_DIRECTIONS: dict[str, Literal["higher", "lower"]] = {
    "accuracy": "higher",
    "macro_f1": "higher",
    "log_loss": "lower",
    "brier": "lower",
    "rmse": "lower",
    "mae": "lower",
    "r2": "higher",
}
"""Which way each metric improves; every comparison goes through this table."""


class Quality(Value):
    """Everything about a deployable model that does not depend on the machine."""

    model: Digest
    split: SplitName
    num_rows: int
    metrics: dict[str, float]
    per_class: dict[str, float]
    """Recall per class name; empty for regression."""
    num_parameters: int
    flops: int
    """Floating-point operations for one row; a multiply-accumulate counts as two."""
    size_bytes: int
    size_zip_bytes: int
    int8_coverage: float
    """Share of convolution and matrix-product nodes that run in int8 in the optimised graph."""
    zero_share: float = 0.0
    """Share of the weights that is exactly zero. Zeros make the zipped file smaller; dense kernels run no faster."""
    ece: float | None
    """Expected calibration error over 15 equal-width bins; None for regression."""
    flip_rate: float | None
    """Share of rows whose prediction differs from the baseline's; None for regression."""
    predictions: ArtifactRef
    """npz with `outputs` float32 [N, K] in the order of the split's rows."""


class Robustness(Value):
    """How a deployable model answers when the rows of a split are corrupted in several ways."""

    model: Digest
    split: SplitName
    metrics: dict[str, dict[str, float]]
    """Task metrics by the name of the corruption, where all outputs are finite; empty where none suits the rows."""
    predictions: ArtifactRef
    """npz with one array float32 [N, K] for each corruption, in the order of the split's rows; not always finite."""


class ServingTrial(Value):
    """What the gateway of production made of a model's file."""

    model: Digest
    refusal: str = ""
    """Why the gateway does not serve it; empty if it does."""
    num_requests: int
    failures: dict[str, int] = Field(default={})
    """Requests that were not answered, by reason."""
    max_relative_difference: float | None = None
    """Largest difference between an answer and onnxruntime's own, as a share of the range of outputs."""


class LatencyQuantiles(Value):
    """Milliseconds for one call, pre- and post-processing included."""

    p50: float
    p95: float
    p99: float


class Machine(Value):
    """Fingerprint of where timing was measured; figures of two fingerprints are not compared."""

    processor: str
    num_cpus: int
    memory_bytes: int
    system: str
    provider: str
    versions: dict[str, str]
    instructions: tuple[str, ...] = ()
    """Instruction sets that decide how fast int8 and bfloat16 are: processors of one name differ in them."""


class Timing(Value):
    """Timing of one model, measured interleaved with all others of the same `TimingTable`."""

    latency_ms: dict[str, LatencyQuantiles]
    """Keyed by batch size as text, since JSON keys are text."""
    throughput_per_s: float
    """Rows a second at the best of the measured batch sizes."""
    peak_memory_bytes: int
    """Growth of a fresh process's peak resident memory by loading and running the model."""
    cold_start_ms: float
    """From a fresh session to the first answer."""
    energy_mj: float | None = None
    """Millijoules for one row at batch 1; None where the machine does not let it be read."""
    samples: ArtifactRef
    """npz with float64 arrays `batch_<n>` [repeats], milliseconds, paired by position across models."""


class TimingTable(Value):
    """One interleaved measurement of several models on one machine."""

    machine: Machine
    models: dict[Digest, Timing]


class SplitOutcome(Value):
    """What baseline and candidate reach when both are made anew on another data split."""

    seed: int
    """That the split was drawn with."""
    num_train: int
    num_test: int
    baseline: float
    """Accuracy, or RMSE for regression, on the split's test rows."""
    candidate: float | None
    """Likewise; None where the chain failed."""
    failure: str = ""


class Measured(Value):
    """All that was measured of one model for the gate."""

    quality: Quality
    """On the test split."""
    timing: Timing
    robustness: Robustness | None = None
    """On the test split; None where nobody asks for it."""
    serving: ServingTrial | None = None
    """None where nobody asks for it."""
    splits: tuple[SplitOutcome, ...] = ()
    """What the candidate's chain reaches on other data splits; empty where nobody asks for it."""


class Evaluation(Value):
    """Quality and timing of one model in one flat record; the shape that reports show."""

    split: SplitName
    num_rows: int
    metrics: dict[str, float]
    per_class: dict[str, float]
    num_parameters: int
    flops: int
    size_bytes: int
    size_zip_bytes: int
    latency_ms: dict[str, LatencyQuantiles]
    throughput_per_s: float
    peak_memory_bytes: int
    cold_start_ms: float
    int8_coverage: float
    zero_share: float = 0.0
    ece: float | None
    flip_rate: float | None

    @classmethod
    def combine(cls, quality: Quality, timing: Timing) -> "Evaluation":
        """Join the two halves; both must be of the same model."""
        halves = quality.model_dump() | timing.model_dump()
        return cls.model_validate({name: halves[name] for name in cls.model_fields})
