"""What tests of techniques share: a stage's surroundings in memory, and data that tiny networks can learn."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tasks.contracts.errors import DataError
from tasks.techniques.technique import Arrays, StageContext


class MemoryCheckpoints:
    """The checkpoint of one stage, kept in memory."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def save(self, data: bytes) -> None:
        self.data = data

    def load(self) -> bytes | None:
        return self.data


def striped_images(num_rows: int, seed: int) -> Arrays:
    """Draw noisy 8x8 images of three classes: horizontal stripes, vertical stripes, checkerboard."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_rows, dtype=np.int64) % 3
    rows, columns = np.indices((8, 8))
    patterns = np.stack([rows % 2, columns % 2, (rows + columns) % 2]).astype(np.float32)
    noise = generator.normal(0.0, 0.2, (num_rows, 1, 8, 8)).astype(np.float32)
    return Arrays(patterns[labels, None] + noise, labels)


@pytest.fixture(scope="session")
def draw_images() -> Callable[[int, int], Arrays]:
    """Return the function that draws rows from a seed."""
    return striped_images


@pytest.fixture(scope="session")
def images() -> Arrays:
    return striped_images(42, seed=0)


@pytest.fixture(scope="session")
def make_context() -> Callable[..., StageContext]:
    """Return a function that makes a context on the striped images; keywords replace its members."""

    def load_split(name: str) -> Arrays:
        if name == "test":
            raise DataError("the test split is for the gate alone")
        return striped_images({"train": 42, "calibration": 12, "validation": 15}[name], seed=len(name))

    def make(**members: Any) -> StageContext:
        defaults = {
            "task": "classification",
            "input_shape": (1, 8, 8),
            "num_outputs": 3,
            "seed": 0,
            "load_split": load_split,
            "load_baseline": lambda: pytest.fail("this test has no baseline"),
            "checkpoints": MemoryCheckpoints(),
            "report": lambda record: None,
        }
        return StageContext(**(defaults | members))

    return make
