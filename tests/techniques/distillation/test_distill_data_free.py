from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.techniques.distillation.distill_data_free import DistillDataFree
from tasks.techniques.inference import outputs_of
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import StageContext

MakeContext = Callable[..., StageContext]

STUDENT = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 4, "blocks": [1]})
FEW: dict[str, Any] = {"num_rows": 24, "batch_size": 12, "steps": 3}


def no_data(name: str) -> NoReturn:
    raise AssertionError(f"the split {name!r} was read")


def data_free(**fields: Any) -> DistillDataFree:
    return DistillDataFree.model_validate({"student": STUDENT, "synthesis": FEW, "schedule": {"epochs": 1}} | fields)


def test_apply_learns_the_stripes_without_reading_a_row(teacher: bytes, make_context: MakeContext) -> None:
    records: list[EpochRecord] = []
    spec = data_free(
        synthesis={"num_rows": 192, "batch_size": 96, "steps": 120, "variation_weight": 0},  # stripes are not smooth
        schedule={"epochs": 16, "batch_size": 32, "learning_rate": 1e-2},
    )
    context = make_context(load_baseline=lambda: teacher, load_split=no_data, report=records.append)
    applied = spec.apply(b"", context)
    split = make_context().load_split("train")
    student = Network.from_bytes(applied.model)
    accuracy = (outputs_of(student.module, torch.from_numpy(split.x), 64).argmax(1).numpy() == split.y).mean()
    assert accuracy > 0.6  # chance is a third
    assert len(records) == spec.planned_epochs
    assert applied.details["synthetic_rows"] == 192
    assert applied.details["synthetic_bytes"] == 192 * 64 * 4
    assert spec.starts_over


def test_apply_goes_on_with_the_incoming_model_when_no_student_is_given(
    teacher: bytes, make_context: MakeContext
) -> None:
    incoming = Network.create(Network.from_bytes(teacher).architecture, seed=5)
    spec = data_free(student=None, schedule={"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-9})
    applied = spec.apply(incoming.to_bytes(), make_context(load_baseline=lambda: teacher, load_split=no_data))
    trained = Network.from_bytes(applied.model).module
    torch.testing.assert_close(dict(trained.named_parameters()), dict(incoming.module.named_parameters()))
    assert not spec.starts_over


def test_apply_makes_no_rows_again_when_it_was_killed_while_training(
    teacher: bytes, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = data_free(schedule=Schedule(epochs=2, batch_size=8, checkpoint_every=2))
    expected = spec.apply(b"", make_context(load_baseline=lambda: teacher, load_split=no_data))

    def killed(record: EpochRecord) -> NoReturn:
        raise KeyboardInterrupt

    context = make_context(load_baseline=lambda: teacher, load_split=no_data, report=killed)
    with pytest.raises(KeyboardInterrupt):
        spec.apply(b"", context)  # dies in the first epoch, before the training saves anything
    monkeypatch.setattr(
        "tasks.techniques.distillation.inversion.Inversion.synthesise", lambda *_: pytest.fail("rows were made again")
    )
    again = make_context(load_baseline=lambda: teacher, load_split=no_data, checkpoints=context.checkpoints)
    assert spec.apply(b"", again).model == expected.model


def test_apply_warns_of_rows_that_the_teacher_takes_for_others_and_of_images_without_views(
    teacher: bytes, make_context: MakeContext
) -> None:
    context = make_context(load_baseline=lambda: teacher, load_split=no_data)
    hasty = data_free(synthesis={"num_rows": 24, "batch_size": 12, "steps": 1}).apply(b"", context).details
    assert hasty["synthetic_rows_confirmed"] < 0.9
    assert "for the class that they were made for: raise synthesis.steps" in str(hasty["warning"])
    assert "shown only as they were made: with schedule.augmentation" in str(hasty["warning"])

    careful = data_free(
        synthesis={"num_rows": 96, "batch_size": 96, "steps": 120, "variation_weight": 0},
        schedule={"epochs": 1, "augmentation": {"shift_pixels": 1}},
    ).apply(b"", make_context(load_baseline=lambda: teacher, load_split=no_data))
    assert careful.details["synthetic_rows_confirmed"] > 0.9
    assert "warning" not in careful.details


def test_apply_refuses_what_it_cannot_do(teacher: bytes, make_context: MakeContext) -> None:
    context = make_context(load_baseline=lambda: teacher, load_split=no_data)
    with pytest.raises(TechniqueError, match="the task is regression; use distill_response"):
        data_free().apply(b"", make_context(task="regression"))
    with pytest.raises(TechniqueError, match="these rows are token ids"):
        data_free().apply(b"", make_context(vocab_size=100, input_shape=(12,)))
    with pytest.raises(
        TechniqueError, match=r"num_rows=100000 rows of shape \[1, 8, 8\] take 24 MiB, over .*max_mib=1"
    ):
        data_free(synthesis={"num_rows": 100_000, "max_mib": 1}).apply(b"", context)
    wide = STUDENT.model_copy(update={"kwargs": STUDENT.kwargs | {"num_outputs": 5}})
    with pytest.raises(TechniqueError, match=r"outputs of shape \[5\]"):
        data_free(student=wide).apply(b"", context)
