import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tasks.contracts.model import ModelRef, StageResult, UsageSample
from tasks.runtime import usage
from tasks.runtime.isolation import StageCall
from tasks.runtime.placement import run_placed
from tasks.runtime.usage import UsageSampler, gpu_reader, sampled

NAMES = {
    "cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage",
    "stage_cpu_percentage", "stage_memory_megabytes",
}  # fmt: skip


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_look_tells_machine_and_process_apart() -> None:
    sampler = UsageSampler(os.getpid(), gpus=dict)
    began, own = time.monotonic(), time.process_time()
    burn(0.2)
    sampler.look()
    elapsed, spent = time.monotonic() - began, time.process_time() - own

    (sample,) = sampler._samples
    assert set(sample.metrics) == NAMES
    assert sample.metrics["stage_cpu_percentage"] == pytest.approx(100 * spent / elapsed, abs=15)
    assert sample.metrics["stage_memory_megabytes"] == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.2)
    assert 0 < sample.metrics["cpu_utilization_percentage"] <= 100
    assert 0 < sample.metrics["system_memory_usage_percentage"] < 100


def test_a_long_stage_has_no_more_samples_than_a_short_one_and_keeps_its_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_MAX_SAMPLES", 8)
    values = iter(range(1000))
    sampler = UsageSampler(os.getpid(), pause_s=1.0, gpus=lambda: {"gpu_0_power_usage_watts": float(next(values))})

    for _ in range(8):
        sampler.look()

    assert [sample.metrics["gpu_0_power_usage_watts"] for sample in sampler._samples] == [0.5, 2.5, 4.5, 6.5]
    assert sampler._pause_s == 2.0


def test_a_sample_costs_less_than_a_hundredth_of_its_pause() -> None:
    sampler = UsageSampler(os.getpid(), gpus=dict)
    began = time.thread_time()
    for _ in range(50):
        sampler.look()

    assert (time.thread_time() - began) / 50 < 0.01 * usage._PAUSE_S


def test_sampled_never_ends_what_it_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with sampled(2**22 + 1, wanted=True) as ended:  # no such process
        assert ended() == ()
    with sampled(os.getpid(), wanted=False) as ended:
        assert ended() == ()
    sampler = UsageSampler(os.getpid(), pause_s=0.001, gpus=dict)
    monkeypatch.setattr(sampler, "look", lambda: (_ for _ in ()).throw(psutil.NoSuchProcess(1)))
    sampler.start()
    sampler._thread.join(10)
    assert not sampler._thread.is_alive()
    assert sampler.stop() == ()


class NvmlError(Exception):
    """As NVIDIA's library raises it."""


def refuse(_device: Any) -> Any:
    raise NvmlError("Not Supported")


def test_gpus_are_read_under_mlflows_names_and_what_one_does_not_tell_is_left_out(monkeypatch) -> None:
    nvml = SimpleNamespace(
        NVMLError=NvmlError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu=73),
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=2e9, total=8e9), nvmlDeviceGetPowerUsage=refuse,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    assert gpu_reader()() == {
        "gpu_0_utilization_percentage": 73.0,
        "gpu_0_memory_usage_megabytes": 2000.0,
        "gpu_0_memory_usage_percentage": 25.0,
    }
    nvml.nvmlInit = lambda: refuse(0)
    assert gpu_reader()() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_reader()() == {}


def make_model() -> StageResult:
    raise NotImplementedError


def test_a_stages_result_keeps_what_was_used_wherever_it_ran() -> None:
    made = StageResult(
        stage_key="k", kind="train", model=ModelRef(digest="a" * 64, format="torch", size_bytes=1), seconds=2
    )
    sample = {"at_s": 1.0, "metrics": {"stage_cpu_percentage": 99.0}}

    class Elsewhere:
        def run(self, call: StageCall, on_progress: Any) -> dict[str, Any]:
            return {"result": made.model_dump(mode="json"), "usage": [sample]}

    found = run_placed(Elsewhere(), make_model)

    assert found.usage == (UsageSample.model_validate(sample),)
    assert found.model_copy(update={"usage": ()}) == made
