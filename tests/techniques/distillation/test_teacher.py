from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tasks.contracts.errors import TechniqueError
from tasks.techniques.distillation.teacher import calibration_score, verified
from tasks.techniques.technique import Arrays, StageContext

MakeContext = Callable[..., StageContext]


def test_calibration_score_is_the_accuracy_and_the_share_of_the_largest_class(make_context: MakeContext) -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    split = Arrays(logits, np.array([0, 1, 1, 0]))
    score = calibration_score(nn.Identity(), make_context(load_split=lambda name: split), "cpu")
    assert score == (0.75, 0.5, 4)


def test_calibration_score_is_r2_when_the_task_is_regression(make_context: MakeContext) -> None:
    split = Arrays(np.array([[1.0], [2.0], [4.0]], dtype=np.float32), np.array([1.0, 2.0, 3.0], dtype=np.float32))
    context = make_context(task="regression", load_split=lambda name: split)
    assert calibration_score(nn.Identity(), context, "cpu") == (pytest.approx(1 - 1 / 2), 0.0, 3)


def test_calibration_score_is_zero_when_all_targets_are_equal(make_context: MakeContext) -> None:
    split = Arrays(np.ones((3, 1), dtype=np.float32), np.ones(3, dtype=np.float32))
    context = make_context(task="regression", load_split=lambda name: split)
    assert calibration_score(nn.Identity(), context, "cpu").value == 0.0


def test_verified_freezes_the_module_in_evaluation_mode(make_context: MakeContext) -> None:
    split = Arrays(np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.array([0, 1, 1, 0]))
    module = nn.Linear(3, 3).train()
    with torch.no_grad():
        module.weight.copy_(torch.eye(3))
        module.bias.zero_()
    context = make_context(load_split=lambda name: split)
    teacher = verified(module, context, 0.7, "cpu")
    assert (teacher.score, teacher.num_parameters) == (0.75, 12)
    assert not teacher.module.training
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    with pytest.raises(TechniqueError, match=r"0\.7500; distillation needs at least teacher_floor=0\.8"):
        verified(module, context, 0.8, "cpu")
