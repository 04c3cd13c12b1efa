"""The handwritten digits as benchmarks use them, straight from scikit-learn: no data version, no store."""

import numpy as np

from tasks.techniques.technique import Arrays, StageContext

NUM_CLASSES = 10


def digits() -> Arrays:
    """Return all rows: `x` float32 [1797, 1, 8, 8] in [0, 1], `y` int64 [1797]."""
    from sklearn.datasets import load_digits

    shipped = load_digits()
    return Arrays((shipped.images[:, None] / 16.0).astype(np.float32), shipped.target.astype(np.int64))


def in_memory_context(rows: Arrays, seed: int) -> StageContext:
    """Return the surroundings of a stage in memory: the same rows for every split, and no baseline."""
    return StageContext(
        task="classification",
        input_shape=rows.x.shape[1:],
        num_outputs=NUM_CLASSES,
        seed=seed,
        load_split=lambda _: rows,
        load_baseline=bytes,
        checkpoints=_NoCheckpoints(),
        report=lambda _: None,
    )


class _NoCheckpoints:
    """Nothing is resumed in a benchmark."""

    def save(self, data: bytes) -> None:
        """Keep nothing."""

    def load(self) -> bytes | None:
        """There never is one."""
        return None
