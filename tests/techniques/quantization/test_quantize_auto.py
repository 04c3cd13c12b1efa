from collections.abc import Callable

import numpy as np
import pytest

from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.techniques.loss import label_loss
from tasks.techniques.quantization.quantize_auto import QuantizeAuto, _drop
from tasks.techniques.quantization.quantize_aware import QuantizeAware
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]
STATIC = QuantizeStatic(allow_slower=True)
AWARE = QuantizeAware(allow_slower=True, schedule=Schedule(epochs=2, learning_rate=1e-4), teacher_weight=0.0)


def draw_targets(num_rows: int, seed: int) -> Arrays:
    x = np.random.default_rng(seed).normal(size=(num_rows, 4)).astype(np.float32)
    return Arrays(x, (x[:, 0] - 2 * x[:, 1] + 3).astype(np.float32))


@pytest.fixture(scope="module")
def context(make_context: MakeContext) -> StageContext:
    splits = {"train": draw_targets(256, 0), "calibration": draw_targets(200, 1), "validation": draw_targets(200, 2)}
    return make_context(task="regression", input_shape=(4,), num_outputs=1, load_split=splits.__getitem__)


@pytest.fixture(scope="module")
def regressor(context: StageContext) -> Network:
    kwargs = {"input_shape": [4], "num_outputs": 1, "hidden": [16]}
    network = Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=kwargs), seed=0)
    schedule = Schedule(epochs=20, batch_size=32, learning_rate=1e-2)
    fit(network.module, context.load_split("train"), label_loss("regression"), schedule, context)
    return network


def test_apply_keeps_the_static_model_and_trains_nothing_when_it_is_good_enough(regressor, context):
    records: list[EpochRecord] = []
    spec = QuantizeAuto(static=STATIC, aware=AWARE, static_drop_limit=1.0)
    context = StageContext(**{**vars(context), "report": records.append})
    applied = spec.apply(regressor.to_bytes(), context)
    assert (applied.details["used"], records) == ("quantize_static", [])
    assert applied.model == STATIC.apply(to_onnx(regressor, (4,), "float32"), context).model
    before, after = applied.details["float_rmse"], applied.details["static_rmse"]
    assert applied.details["static_drop"] == pytest.approx((after - before) / before)
    assert applied.details["static_drop"] < 1.0


def test_apply_trains_when_the_static_model_loses_more_than_the_limit(regressor, context):
    records: list[EpochRecord] = []
    clipping = STATIC.model_copy(update={"calibration": "percentile", "percentile": 90.0})
    spec = QuantizeAuto(static=clipping, aware=AWARE, static_drop_limit=0.02)
    context = StageContext(**{**vars(context), "report": records.append})
    applied = spec.apply(regressor.to_bytes(), context)
    assert (applied.details["used"], len(records)) == ("quantize_aware", spec.planned_epochs)
    assert applied.details["static_drop"] > 0.02
    assert applied.details["aware_rmse"] < 1.1 * applied.details["float_rmse"]
    assert applied.details["validation_rows"] == 200


def test_apply_keeps_the_static_model_when_training_made_it_worse(regressor, context):
    ruinous = AWARE.model_copy(update={"schedule": Schedule(epochs=1, learning_rate=0.5)})
    spec = QuantizeAuto(static=STATIC, aware=ruinous, static_drop_limit=-1.0)
    applied = spec.apply(regressor.to_bytes(), context)
    assert applied.details["aware_rmse"] > applied.details["static_rmse"]
    assert applied.details["used"] == "quantize_static"
    assert applied.model == STATIC.apply(to_onnx(regressor, (4,), "float32"), context).model


def test_drop_is_in_points_of_accuracy_or_relative_to_the_error():
    assert _drop("classification", 0.95, 0.92) == pytest.approx(0.03)
    assert _drop("regression", 2.0, 2.5) == pytest.approx(0.25)
    assert (_drop("regression", 0.0, 0.0), _drop("regression", 0.0, 0.1)) == (0.0, 1.0)


def test_the_stage_runs_both_with_its_own_threads():
    spec = QuantizeAuto(num_threads=2)
    assert spec._placed(spec.aware).num_threads == spec._placed(spec.static).num_threads == 2
