import pytest
import torch

from tasks.contracts.errors import TechniqueError
from tasks.techniques import precision
from tasks.techniques.precision import computing_in, widened


def on_processor(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    monkeypatch.setattr(precision, "instruction_sets", lambda: instructions)


def test_computing_in_bfloat16_is_refused_when_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on_processor(monkeypatch, "avx2")
    with pytest.raises(TechniqueError, match=r"set schedule\.precision to float32"):
        computing_in("bfloat16", "cpu")
    with computing_in("float32", "cpu"):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("instructions", [("avx2", "avx512bw"), ("asimd", "bf16"), ()])
def test_computing_in_bfloat16_is_on_when_the_processor_has_it_or_is_not_known(
    monkeypatch: pytest.MonkeyPatch, instructions: tuple[str, ...]
) -> None:
    on_processor(monkeypatch, *instructions)
    with computing_in("bfloat16", "cpu"):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16


@pytest.mark.filterwarnings("ignore:.*Disabling autocast:UserWarning")
def test_computing_in_bfloat16_is_not_refused_on_a_gpu_when_the_processor_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_processor(monkeypatch, "avx2")
    assert computing_in("bfloat16", "cuda:0").device == "cuda"


def test_widened_gives_float32_and_leaves_other_types() -> None:
    assert widened(torch.ones(2, dtype=torch.bfloat16)).dtype is torch.float32
    assert widened(torch.ones(2, dtype=torch.float64)).dtype is torch.float64
