"""A window of traffic, or a reference, as the arrays that the checks take.

N rows, D rows whose inputs are known, C classes, R requests, L labels.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.data import Task

Floats = NDArray[np.float64]


def _empty() -> Floats:
    return np.empty(0, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs and answers, in an order that does not depend on their values.

    A reference may know more inputs than answers (D > N): nothing that a model learned spoils them.
    """

    task: Task
    input_mean: Floats = field(default_factory=_empty)
    """[D]"""
    input_std: Floats = field(default_factory=_empty)
    """[D]"""
    input_sketch: Floats = field(default_factory=lambda: np.empty((0, 0)))
    """[D, 8]"""
    prediction: Floats = field(default_factory=_empty)
    """[N] class index, or the regression output."""
    confidence: Floats = field(default_factory=_empty)
    """[N] largest softmax probability; NaN for regression."""
    right: NDArray[np.bool_] | None = None
    """[N] whether the answer was right, where labels are known for all rows."""
    label: NDArray[np.int64] | None = None
    """[N] true classes of a reference, where they are known for all rows."""
    data_classes: NDArray[np.int64] | None = None
    """[C] rows per true class of all the data that such a reference was drawn from by class."""

    def __len__(self) -> int:
        return len(self.prediction)

    @property
    def num_inputs(self) -> int:
        """D."""
        return len(self.input_mean)

    def answers(self) -> dict[str, Floats]:
        """Return what is compared of the answers [N], by name."""
        if self.task == "regression":
            return {"prediction": self.prediction}
        return {"confidence": self.confidence}

    def inputs(self) -> dict[str, Floats]:
        """Return what is compared of the inputs [D], one by one, by name."""
        sketch = {f"input_sketch_{index}": column for index, column in enumerate(self.input_sketch.T)}
        return {"input_mean": self.input_mean, "input_std": self.input_std} | sketch


@dataclass(frozen=True, eq=False)
class Service:
    """How requests were served."""

    requests: int = 0
    errors: int = 0
    """Requests of which at least one row failed."""
    cached: int = 0
    """Requests answered from the cache; not among the latencies."""
    latencies_ms: dict[int, Floats] = field(default_factory=dict)
    """By rows per request: one value per request that the model answered."""

    @property
    def usual_batch(self) -> int:
        """Rows per request that most requests had."""
        return max(self.latencies_ms, key=lambda rows: (len(self.latencies_ms[rows]), -rows), default=1)


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels that arrived in the window, whenever their rows were answered within the look-back."""

    right: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    """[L]"""
    delays_s: Floats = field(default_factory=_empty)
    """[L] from answer to label."""
    answered: int = 0
    """Rows answered in the look-back."""
    labelled: int = 0
    """Those of them that have a label by now."""


@dataclass(frozen=True, eq=False)
class Window:
    """Everything seen of the champion in one window."""

    rows: Rows
    num_rows: int
    """Rows before drawing."""
    service: Service
    labels: Labels
