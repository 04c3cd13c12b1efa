import numpy as np
import scipy.special

from tasks.evaluation.probabilities import log_softmax, softmax


def test_softmax_gives_the_shares_worked_by_hand():
    logits = np.log(np.array([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]]))
    np.testing.assert_allclose(softmax(logits), [[0.125, 0.25, 0.625], [0.375, 0.375, 0.25]], rtol=1e-15)


def test_softmax_agrees_with_scipy_and_keeps_the_type():
    logits = np.random.default_rng(0).normal(scale=20, size=(50, 7)).astype(np.float32)
    np.testing.assert_allclose(softmax(logits), scipy.special.softmax(logits, axis=1), rtol=1e-5)
    assert softmax(logits).dtype == np.float32


def test_log_softmax_agrees_with_scipy_when_logits_are_far_apart():
    logits = np.array([[1e4, 0.0, -1e4], [-800.0, -801.0, 800.0]])
    np.testing.assert_allclose(log_softmax(logits), scipy.special.log_softmax(logits, axis=1), rtol=1e-15)
    assert np.isfinite(log_softmax(logits)).all()


def test_softmax_stays_finite_when_exp_would_overflow():
    np.testing.assert_allclose(softmax(np.array([[1e30, 1e30, 0.0]], np.float32)), [[0.5, 0.5, 0.0]])
