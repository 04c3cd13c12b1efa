import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InvalidCxxCompiler

from tasks.contracts.errors import TechniqueError
from tasks.techniques.compiling import compiled, survives_compiling
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is installed")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is temporary lies there, and nothing else does."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # set by the import at the head of this file
    return tmp_path


def test_survives_compiling_tells_of_whoever_listens_to_a_layer() -> None:
    module = network()
    assert survives_compiling(module)
    handle = module[2].register_forward_hook(lambda *_: None)
    assert not survives_compiling(module)
    handle.remove()
    module[3].register_forward_pre_hook(lambda *_: None)
    assert not survives_compiling(module)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BackendCompilerFailed("inductor", ValueError("no such operator"), None), "no such operator"),
        (InvalidCxxCompiler(), "No working C\\+\\+ compiler"),
    ],
)
def test_compiled_says_why_a_network_cannot_be_compiled_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    seen: list[str] = []

    def fails(_: torch.Tensor) -> torch.Tensor:
        seen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        Path(seen[0]).mkdir()
        (Path(seen[0]) / "half-written").write_text("kernel")
        raise error

    monkeypatch.setattr(torch, "compile", lambda module, dynamic: fails)
    expected = f"Sequential cannot be compiled here: .*{words}.*; set schedule.compile"
    with pytest.raises(TechniqueError, match=expected), compiled(network()) as forward:
        forward(torch.zeros(1))
    assert seen[0].startswith(str(folder))
    assert list(folder.iterdir()) == []
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_compiled_leaves_other_errors_as_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: module)
    with pytest.raises(MemoryError), compiled(network()):
        raise MemoryError
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("default")  # the compiler warns about its own parts
def test_fit_learns_the_same_to_rounding_by_compiled_kernels_and_goes_on_where_it_was_killed(
    images: Arrays, make_context: MakeContext, folder: Path
) -> None:
    schedule = Schedule(epochs=4, batch_size=20, optimizer="sgd", learning_rate=0.02, checkpoint_every=2)
    plain, whole, killed = network(), network(), network()
    loss = label_loss("classification")
    fit(plain, images, loss, schedule, make_context())
    schedule = schedule.model_copy(update={"compile": True})
    context = make_context()
    fit(whole, images, loss, schedule, context)

    class KilledError(Exception):
        pass

    def dies(step: int, _num_steps: int) -> None:
        if step == 7:
            raise KilledError

    context = make_context()
    with pytest.raises(KilledError):
        fit(killed, images, loss, schedule, context, before_step=dies)
    killed = network()
    fit(killed, images, loss, schedule, context)

    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-3, atol=1e-4)
        assert torch.equal(tensor, killed.state_dict()[name]), name
    assert list(folder.iterdir()) == []
