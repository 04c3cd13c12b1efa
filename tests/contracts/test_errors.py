import pytest
import torch

from tasks.contracts.errors import ran_out_of_memory


def test_ran_out_of_memory_knows_what_python_and_pytorch_raise() -> None:
    assert ran_out_of_memory(MemoryError())
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert ran_out_of_memory(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no memory")])
def test_ran_out_of_memory_is_said_of_nothing_else(error: Exception) -> None:
    assert not ran_out_of_memory(error)
