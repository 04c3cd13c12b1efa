import time

import numpy as np
import pytest

from infra.gateway.backend import Backend
from infra.gateway.errors import InferenceError
from infra.gateway.watchdog import Watchdog
from tasks.contracts.errors import ModelError
from tasks.contracts.route import ModelSignature

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))


@pytest.fixture
def watchdog():
    made = Watchdog(timeout_s=0.1)
    made.start()
    yield made
    made.stop()


def load(model, watchdog, signature=SIGNATURE):
    return Backend("d" * 64, model, signature, watchdog)


def test_run_gives_the_models_answer(models, watchdog):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    backend = load(models.linear(), watchdog)
    np.testing.assert_allclose(backend.run(x)[0], models.expected(x), rtol=1e-5)
    assert [spec.describe() for spec in backend.outputs] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize(
    ("model", "first", "reason"),
    [("raising", 3.0, "run_failed"), ("dividing", 0.0, "not_finite"), ("endless", 1.0, "timeout")],
)
def test_run_names_the_reason_when_the_model_fails(models, watchdog, model, first, reason):
    backend = load(getattr(models, model)(), watchdog)
    started = time.monotonic()
    with pytest.raises(InferenceError) as failure:
        backend.run(np.array([[first, 1, 1, 1]], np.float32))
    assert failure.value.reason == reason
    assert time.monotonic() - started < 5


def test_run_still_answers_after_a_failure(models, watchdog):
    backend = load(models.raising(), watchdog)
    with pytest.raises(InferenceError):
        backend.run(np.full((1, 4), 3, np.float32))
    x = np.zeros((1, 4), np.float32)
    np.testing.assert_allclose(backend.run(x)[0], models.expected(x))


def test_expected_ms_rises_when_a_run_was_slow(models, watchdog):
    backend = load(models.endless(), watchdog)
    before = backend.expected_ms(1)
    with pytest.raises(InferenceError):
        backend.run(np.ones((1, 4), np.float32))
    assert backend.expected_ms(1) > before + 5
    assert backend.expected_ms(8) == pytest.approx(8 * backend.expected_ms(1))


@pytest.mark.parametrize(
    ("model", "signature", "message"),
    [
        (lambda models: b"no model", SIGNATURE, "cannot be loaded"),
        (lambda models: models.linear()[:-20], SIGNATURE, "cannot be loaded"),
        (lambda models: models.fixed_batch(), SIGNATURE, "dynamic batch"),
        (lambda models: models.wide(), SIGNATURE, "3 outputs a row"),
        (lambda models: models.linear(), SIGNATURE.model_copy(update={"input_dtype": "int64"}), "takes tensor"),
        (lambda models: models.linear(), SIGNATURE.model_copy(update={"input_shape": (2, 2)}), "takes shape"),
        (lambda models: models.linear(), SIGNATURE.model_copy(update={"input_shape": (5,)}), "fails on 2 rows"),
        (lambda models: models.linear(), SIGNATURE.model_copy(update={"class_names": ("a",)}), "1 outputs a row"),
    ],
)
def test_backend_is_refused_when_the_model_does_not_fit_its_route(models, watchdog, model, signature, message):
    with pytest.raises(ModelError, match=message):
        load(model(models), watchdog, signature)
