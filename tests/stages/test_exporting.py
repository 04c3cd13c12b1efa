import numpy as np
import pytest

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.stages import exporting
from tasks.stages.exporting import export_network
from tasks.techniques.technique import Arrays, StageContext

LINEAR = Architecture(factory="torch.nn:Linear", kwargs={"in_features": 6, "out_features": 3})


def context_with(x: np.ndarray) -> StageContext:
    splits = {"calibration": Arrays(x, np.zeros(len(x), np.int64))}
    return StageContext(
        task="classification",
        input_shape=x.shape[1:],
        num_outputs=3,
        seed=0,
        load_split=splits.__getitem__,
        load_baseline=lambda: pytest.fail("an export needs no baseline"),
        checkpoints=None,
        report=lambda record: None,
    )


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)


def test_export_network_gives_an_equal_model_and_the_figures_of_the_comparison(rows):
    network = Network.create(LINEAR, seed=0)
    applied = export_network(network.to_bytes(), context_with(rows))
    expected = rows @ network.module.weight.detach().numpy().T + network.module.bias.detach().numpy()
    np.testing.assert_allclose(run_rows(make_session(applied.model), rows), expected, atol=1e-5)
    assert applied.details["input_dtype"] == "float32"
    assert applied.details["parity_rows"] == 300
    assert applied.details["parity_agreement"] == 1.0
    assert applied.details["parity_max_relative_difference"] < 1e-5


def test_export_network_fails_when_the_copy_answers_otherwise(rows, monkeypatch):
    other = export_network(Network.create(LINEAR, seed=1).to_bytes(), context_with(rows)).model
    monkeypatch.setattr(exporting, "make_session", lambda model: make_session(other))
    with pytest.raises(ModelError, match=r"parity is broken: outputs differ by up to .* on 300 rows"):
        export_network(Network.create(LINEAR, seed=0).to_bytes(), context_with(rows))
