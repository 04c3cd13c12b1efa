import io

import numpy as np
import pytest

from tasks.contracts.errors import InfrastructureError
from tasks.contracts.model import Architecture
from tasks.evaluation.machine import current_machine
from tasks.models.architecture import Network
from tasks.stages import timing
from tasks.stages.timing import time_models

SIZE = 128


@pytest.fixture
def data(store_dataset):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, SIZE)).astype(np.float32)
    return store_dataset(x, np.arange(20) % 3, "classification", ("ant", "bee", "cat"))


def test_time_models_measures_all_models_interleaved_on_this_machine(
    services, monkeypatch, store_model, linear_onnx, data
):
    monkeypatch.setattr(timing, "find_counters", tuple)  # a counter's figure is tested in test_energy
    weight = np.random.default_rng(1).normal(size=(SIZE, 3))
    fast, slow = store_model(linear_onnx(weight)), store_model(linear_onnx(weight, num_detours=30))
    linear = Architecture(factory="torch.nn:Linear", kwargs={"in_features": SIZE, "out_features": 3})
    eager = store_model(Network.create(linear, seed=0).to_bytes(), "torch")

    table = time_models((eager, fast, slow, fast), data, current_machine(), seed=0)

    assert table.machine == current_machine()
    assert set(table.models) == {fast.digest, slow.digest, eager.digest}
    for measured in table.models.values():
        assert list(measured.latency_ms) == ["1", "8", "32"]
        assert all(0 < each.p50 <= each.p95 <= each.p99 for each in measured.latency_ms.values())
        assert measured.peak_memory_bytes > 0
        assert measured.cold_start_ms > 0
        assert measured.energy_mj is None
        best = max(size / measured.latency_ms[str(size)].p50 for size in (1, 8, 32))
        assert measured.throughput_per_s == pytest.approx(1e3 * best)
    for batch_size in ("1", "8", "32"):
        assert (
            table.models[slow.digest].latency_ms[batch_size].p50 > table.models[fast.digest].latency_ms[batch_size].p50
        )
    samples = [
        np.load(io.BytesIO(services.artifacts.get(measured.samples.digest))) for measured in table.models.values()
    ]
    for batch_size in (1, 8, 32):
        assert len({len(of_model[f"batch_{batch_size}"]) for of_model in samples}) == 1
        assert samples[0][f"batch_{batch_size}"].dtype == np.float64


def test_time_models_refuses_when_it_runs_on_another_machine(store_model, linear_onnx, data):
    elsewhere = current_machine().model_copy(update={"processor": "Imaginary CPU", "num_cpus": 4096})
    with pytest.raises(InfrastructureError, match=r"processor is '.*', not 'Imaginary CPU'; num_cpus is .*, not 4096"):
        time_models((store_model(linear_onnx(np.eye(SIZE, 3))),), data, elsewhere, seed=0)
