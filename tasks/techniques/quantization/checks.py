"""What every quantiser checks of its result: that it is not slower than the model that it was made from."""

from typing import Annotated

import numpy as np
from pydantic import Field

from tasks.contracts.errors import TechniqueError

AllowSlower = Annotated[
    bool,
    Field(
        description="Accept a model that is proven slower than its input, where size is what is bought; else it fails."
    ),
]

SAME_SPEED = 0.97
"""Speed ratio from which a model counts as slower. Two sessions of one and the same model differ by up to 1.5 %
(80 pairs of four networks), since their weights lie elsewhere in memory."""


def require_speed(
    before: bytes, after: bytes, x: np.ndarray, *, kind: str, seed: int, allow_slower: bool
) -> dict[str, float | int | str]:
    """Time the quantised model beside the model that it was made from, and stop it if it is proven slower.

    Args:
        before: the float model, as ONNX.
        after: the quantised one.
        x: rows [N, *input_shape] to time on.
        kind: of the technique, for the message.
        seed: for the rows and orders.
        allow_slower: note the reasons in the details instead of failing.

    Returns:
        Details `measured_speedup`, `measured_speedup_lower` and `measured_speedup_upper`: how many times as fast
        at batch 1 on one thread, with one-sided 95 % bounds; and `measured_slower_because` where it is slower.

    Raises:
        TechniqueError: the upper bound lies below `SAME_SPEED`; the message says what in the graph is slow.
    """
    from tasks.evaluation.speed import measure_speedup
    from tasks.techniques.quantization.slowness import slowness_reasons

    speedup = measure_speedup(before, after, x, seed)
    details: dict[str, float | int | str] = {
        "measured_speedup": speedup.ratio,
        "measured_speedup_lower": speedup.lower,
        "measured_speedup_upper": speedup.upper,
    }
    if speedup.upper >= SAME_SPEED:
        return details
    reasons = "; ".join(slowness_reasons(before, after)) or "nothing in its graph is known to be slow"
    if allow_slower:
        return details | {"measured_slower_because": reasons}
    raise TechniqueError(
        f"{kind} made the model slower: {speedup.ratio:.2f} times its input's speed at batch 1 on one thread (at most "
        f"{speedup.upper:.2f} with 95 % confidence). Found in its graph: {reasons}. Keep layers float, use another "
        "technique or a wider network, or set allow_slower if the smaller file is what you want"
    )
