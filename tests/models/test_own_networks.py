"""Factories of users: any importable function, with layers of their own, goes the whole way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network, build, completed
from tasks.models.onnx_export import to_onnx
from tasks.runtime.source import executed_modules, source_digest
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `own_networks` importable, as a user's package is where their stages run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


class NoCheckpoints:
    def save(self, data: bytes) -> None:
        del data

    def load(self) -> bytes | None:
        return None


def test_a_users_network_trains_reloads_and_exports() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 2, 3)).astype(np.float32)
    y = (x[:, 0, 0] > 0).astype(np.int64)
    architecture = completed(Architecture(factory="own_networks:gated"), (2, 3), 2, vocab_size=None)
    network = Network.create(architecture, seed=0)
    no_report: Callable[..., None] = lambda _: None  # noqa: E731
    context = StageContext(
        "classification", (2, 3), 2, 0, lambda _: Arrays(x, y), lambda: b"", NoCheckpoints(), no_report
    )

    fit(network.module, Arrays(x, y), label_loss("classification"), Schedule(epochs=20, learning_rate=0.02), context)
    rebuilt = Network.from_bytes(network.to_bytes())
    exported = to_onnx(rebuilt, (2, 3), "float32")

    assert architecture.kwargs == {"input_shape": [2, 3], "num_outputs": 2}
    with torch.no_grad():
        outputs = rebuilt.module(torch.from_numpy(x)).numpy()
    assert (outputs.argmax(1) == y).mean() > 0.9
    assert bool(rebuilt.module[3].logits.any()), "the user's own layer learned too"
    assert np.allclose(run_rows(make_session(exported), x), outputs, atol=1e-5)


def test_a_users_factory_counts_in_the_source_that_a_stage_executes() -> None:
    assert "own_networks" in executed_modules(["tasks.stages.training", "own_networks"])
    assert source_digest(["tasks.stages.training"]) != source_digest(["tasks.stages.training", "own_networks"])


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("own_networks:without_annotation", "add the return annotation"),
        ("own_networks:missing", "cannot be imported"),
        ("no_such_package:net", "make the package importable where the stage runs"),
    ],
)
def test_build_names_the_remedy_when_a_users_factory_cannot_be_used(factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(Architecture(factory=factory, kwargs={"input_shape": [3], "num_outputs": 2}))
