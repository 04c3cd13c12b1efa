import math

import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from tasks.contracts.errors import DataError, UserError
from tasks.contracts.evaluation import METRIC_DIRECTIONS
from tasks.evaluation import metrics

Y = np.array([0, 0, 1, 1, 2])
PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.25, 0.5, 0.25], [0.4, 0.3, 0.3]])
LOGITS = np.log(PROBABILITIES)
"""Predicted 0, 1, 1, 1, 0: three of five right."""


def drawn(num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(num_classes, size=400)
    logits = rng.normal(scale=2, size=(400, num_classes)) + 2 * np.eye(num_classes)[y]
    return logits.astype(np.float32), y


def test_classification_metrics_equal_the_case_worked_by_hand():
    assert metrics.accuracy(LOGITS, Y) == 3 / 5
    # F1 is 2/4 for class 0 (1 hit, 2 claimed, 2 there), 4/5 for class 1 (2, 3, 2), 0 for class 2
    assert metrics.macro_f1(LOGITS, Y) == pytest.approx((0.5 + 0.8 + 0.0) / 3, rel=1e-15)
    of_label = [0.5, 0.2, 0.8, 0.5, 0.3]
    assert metrics.log_loss(LOGITS, Y) == pytest.approx(-sum(map(math.log, of_label)) / 5, rel=1e-14)
    squares = [0.25 + 2 / 16, 0.64 + 0.36 + 0.04, 0.01 + 0.04 + 0.01, 2 / 16 + 0.25, 0.16 + 0.09 + 0.49]
    assert metrics.brier(LOGITS, Y) == pytest.approx(sum(squares) / 5, rel=1e-14)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_classification_metrics_agree_with_scikit_learn(num_classes):
    logits, y = drawn(num_classes, seed=num_classes)
    predicted, p = logits.argmax(axis=1), scipy.special.softmax(logits.astype(np.float64), axis=1)
    found = metrics.task_metrics("classification", logits, y)
    labels = np.arange(num_classes)
    assert found["accuracy"] == sklearn.metrics.accuracy_score(y, predicted)
    assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(y, predicted, average="macro"), rel=1e-13)
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(y, p, labels=labels), rel=1e-12)
    brier = sklearn.metrics.brier_score_loss(y, p[:, 1] if num_classes == 2 else p, scale_by_half=False)
    assert found["brier"] == pytest.approx(brier, rel=1e-12)


def test_macro_f1_leaves_out_a_class_when_it_is_neither_there_nor_predicted():
    logits, y = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]]), np.array([0, 1])
    assert metrics.macro_f1(logits, y) == 1.0 == sklearn.metrics.f1_score(y, logits.argmax(axis=1), average="macro")


def test_log_loss_is_finite_when_the_probability_of_the_label_underflows():
    assert metrics.log_loss(np.array([[2000.0, 0.0]], np.float32), np.array([1])) == 2000.0


def test_accuracy_is_exactly_the_mean_of_hits_and_the_first_of_equal_outputs_wins():
    logits, y = drawn(10, seed=0)
    assert metrics.accuracy(logits, y) == np.mean(logits.argmax(axis=1) == y)
    assert metrics.accuracy(np.ones((2, 3)), np.array([0, 1])) == 0.5


def test_regression_metrics_equal_the_case_worked_by_hand():
    outputs, y = np.array([[1.0], [2.0], [6.0]]), np.array([1.0, 4.0, 4.0])
    found = metrics.task_metrics("regression", outputs, y)
    assert found["rmse"] == pytest.approx(math.sqrt(8 / 3))
    assert found["mae"] == pytest.approx(4 / 3)
    assert found["r2"] == pytest.approx(1 - 8 / 6)


def test_regression_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(5)
    y = rng.normal(100, 20, size=300).astype(np.float32)
    outputs = (y + rng.normal(0, 5, size=300)).astype(np.float32)[:, None]
    found = metrics.task_metrics("regression", outputs, y)
    reference = (y.astype(np.float64), outputs[:, 0].astype(np.float64))
    assert found["rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(*reference), rel=1e-12)
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(*reference), rel=1e-12)
    assert found["r2"] == pytest.approx(sklearn.metrics.r2_score(*reference), rel=1e-12)


@pytest.mark.parametrize(("output", "expected"), [(3.0, 1.0), (2.0, 0.0)])
def test_r2_follows_scikit_learn_when_all_targets_are_equal(output, expected):
    y, outputs = np.full(4, 3.0), np.full((4, 1), output)
    assert metrics.r2(outputs, y) == expected == sklearn.metrics.r2_score(y, outputs[:, 0])


def test_metrics_of_both_tasks_are_those_with_a_direction():
    classification = metrics.task_metrics("classification", LOGITS, Y)
    regression = metrics.task_metrics("regression", np.ones((5, 1)), Y)
    assert set(classification) | set(regression) == set(METRIC_DIRECTIONS)


def test_per_class_recall_names_classes_and_leaves_out_those_without_rows():
    assert metrics.per_class_recall(LOGITS, Y, ("cat", "dog", "fox")) == {"cat": 0.5, "dog": 1.0, "fox": 0.0}
    assert metrics.per_class_recall(LOGITS[:4], Y[:4], ("cat", "dog", "fox")) == {"cat": 0.5, "dog": 1.0}


def test_per_class_recall_agrees_with_scikit_learn():
    logits, y = drawn(10, seed=1)
    names = tuple("abcdefghij")
    expected = sklearn.metrics.recall_score(y, logits.argmax(axis=1), average=None)
    np.testing.assert_allclose(list(metrics.per_class_recall(logits, y, names).values()), expected, rtol=1e-15)


def test_flip_rate_counts_rows_whose_prediction_moved_whether_right_or_wrong():
    moved = LOGITS.copy()
    moved[[0, 4]] = moved[[0, 4], ::-1] + np.array([0.0, 0.0, 1.0])
    assert metrics.flip_rate(moved, LOGITS) == 2 / 5
    assert metrics.flip_rate(3 * LOGITS + 1, LOGITS) == 0.0


@pytest.mark.parametrize(
    ("metric", "candidate", "baseline", "expected"),
    [("accuracy", 0.75, 0.5, 0.25), ("log_loss", 0.75, 0.5, -0.25), ("r2", -1.0, 0.5, -1.5), ("rmse", 2.0, 3.0, 1.0)],
)
def test_improvement_is_positive_when_the_candidate_is_better(metric, candidate, baseline, expected):
    assert metrics.improvement(metric, candidate, baseline) == expected


def test_improvement_names_the_known_metrics_when_the_metric_is_unknown():
    with pytest.raises(UserError, match=r"'acuracy' is unknown; use one of accuracy, brier"):
        metrics.improvement("acuracy", 1.0, 0.0)


@pytest.mark.parametrize(
    ("outputs", "y"), [((0, 3), 0), ((4, 3), 5), ((4,), 4)], ids=["no rows", "unequal", "one axis"]
)
@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.log_loss, metrics.brier, metrics.rmse])
def test_metrics_refuse_when_outputs_and_labels_do_not_fit(metric, outputs, y):
    with pytest.raises(DataError, match="outputs"):
        metric(np.zeros(outputs), np.zeros(y, np.int64))


def test_regression_metrics_refuse_when_there_is_more_than_one_output():
    with pytest.raises(DataError, match=r"\[N, 1\]"):
        metrics.rmse(np.zeros((4, 2)), np.zeros(4))


def test_flip_rate_refuses_when_the_rows_are_not_the_same():
    with pytest.raises(DataError, match="same split"):
        metrics.flip_rate(LOGITS[:3], LOGITS)
