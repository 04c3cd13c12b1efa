"""What tests of stages share: a store of their own, and data sets and models in it."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tasks.contracts.data import SPLIT_NAMES, DatasetRef, SplitRef, Task
from tasks.contracts.model import ModelFormat, ModelRef
from tasks.runtime.services import Services, connect
from tasks.runtime.settings import current_settings


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Connect to embedded services below a folder of the test, as a stage does."""
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    for cached in (current_settings, connect):
        cached.cache_clear()
    yield connect()
    for cached in (current_settings, connect):
        cached.cache_clear()


@pytest.fixture
def store_dataset(services: Services) -> Callable[[np.ndarray, np.ndarray, Task, tuple[str, ...]], DatasetRef]:
    """Return a function that stores rows as all four splits of a data set."""

    def store(x: np.ndarray, y: np.ndarray, task: Task, class_names: tuple[str, ...]) -> DatasetRef:
        buffer = io.BytesIO()
        np.savez(buffer, x=x, y=y)
        blob = services.artifacts.put(buffer.getvalue())
        split = SplitRef(digest=blob.digest, size_bytes=blob.size_bytes, num_rows=len(y), composition={})
        return DatasetRef(
            name="rows",
            task=task,
            revision="0",
            input_shape=x.shape[1:],
            class_names=class_names,
            splits=dict.fromkeys(SPLIT_NAMES, split),
        )

    return store


@pytest.fixture
def store_model(services: Services) -> Callable[..., ModelRef]:
    """Return a function that stores bytes as a model."""

    def store(model: bytes, model_format: ModelFormat = "onnx") -> ModelRef:
        blob = services.artifacts.put(model)
        return ModelRef(digest=blob.digest, format=model_format, size_bytes=blob.size_bytes)

    return store


@pytest.fixture(scope="session")
def linear_onnx() -> Callable[..., bytes]:
    """Return a function that makes the ONNX model x @ weight, after `num_detours` products with the identity."""

    def make(weight: np.ndarray, num_detours: int = 0) -> bytes:
        num_inputs, num_outputs = weight.shape
        steps = [f"x{k + 1} = MatMul (x{k}, identity{k})" for k in range(num_detours)]
        model = onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["" : 21]>
            linear (float[batch, {num_inputs}] x0) => (float[batch, {num_outputs}] output) {{
                {" ".join(steps)} output = MatMul (x{num_detours}, weight)
            }}"""
        )
        constants = {f"identity{k}": np.eye(num_inputs) for k in range(num_detours)} | {"weight": weight}
        for name, value in constants.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
        return bytes(model.SerializeToString())

    return make
