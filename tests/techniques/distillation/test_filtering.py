import torch

from tasks.techniques.distillation.filtering import CountedStudent, trusted_rows
from tasks.techniques.loss import Batch

# the teacher's probabilities at temperature 1
TEACHER = torch.tensor([[0.9, 0.1, 0.0001], [0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.2, 0.1, 0.7]]).log()


def batch(labels: list[int], partners: list[int] | None = None) -> Batch:
    partner_labels = None if partners is None else torch.tensor(partners)
    return Batch(torch.zeros(4, 1), torch.tensor(labels), torch.arange(4), partner_labels, 0.75)


def test_trusted_rows_rejects_unsure_answers_when_a_confidence_is_asked_for() -> None:
    assert trusted_rows(TEACHER, batch([0, 0, 0, 0]), 0.59, only_where_right=False).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_trusted_rows_rejects_nothing_when_nothing_is_asked_for() -> None:
    assert trusted_rows(TEACHER, batch([1, 1, 1, 1]), 0.0, only_where_right=False).all()


def test_trusted_rows_rejects_wrong_answers_when_they_must_be_right() -> None:
    assert trusted_rows(TEACHER, batch([0, 1, 0, 2]), 0.0, only_where_right=True).tolist() == [True, False, True, True]
    assert trusted_rows(TEACHER, batch([0, 1, 0, 2]), 0.5, only_where_right=True).tolist() == [True, False, False, True]


def test_trusted_rows_does_not_judge_a_row_that_has_no_label() -> None:
    found = trusted_rows(TEACHER, batch([-1, 1, -1, 0]), 0.5, only_where_right=True)
    assert found.tolist() == [True, False, False, False]


def test_trusted_rows_takes_either_label_of_a_blended_row() -> None:
    found = trusted_rows(TEACHER, batch([1, 1, 1, 1], [0, 2, -1, 2]), 0.0, only_where_right=True)
    assert found.tolist() == [True, False, True, True]


def test_counted_student_answers_as_the_student_and_carries_the_counts_in_its_state() -> None:
    student = torch.nn.Linear(2, 3)
    counted = CountedStudent(student)
    inputs = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(counted(inputs), student(inputs))
    assert counted.share_left_out == 0.0
    counted.count(torch.tensor([True, False, True]))
    counted.count(torch.tensor([False]))
    restored = CountedStudent(torch.nn.Linear(2, 3))
    restored.load_state_dict(counted.state_dict())
    assert restored.share_left_out == 0.5
