import pytest

from infra.gateway.errors import RequestError
from infra.gateway.protocol.feedback import parse_feedback
from tasks.contracts.route import ModelSignature

IMAGE = ModelSignature(task="classification", input_shape=(1, 2, 3), input_dtype="float32", class_names=("a", "b"))
PRICE = ModelSignature(task="regression", input_shape=(3,), input_dtype="float32", class_names=())


def test_parse_feedback_keeps_unknown_labels_as_none():
    feedback = parse_feedback(b'{"id": "r", "labels": [1, null, 0]}', IMAGE, 4)
    assert feedback == ("r", [1.0, None, 0.0])


def test_parse_feedback_takes_numbers_when_the_task_is_regression():
    assert parse_feedback(b'{"id": "r", "labels": [1.5, -2]}', PRICE, 4).labels == [1.5, -2.0]


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"labels": [1]}',
        b'{"id": null, "labels": [1]}',
        b'{"id": "r"}',
        b'{"id": "r", "labels": []}',
        b'{"id": "r", "labels": 1}',
        b'{"id": "r", "labels": [0, 0, 0, 0, 0]}',
        b'{"id": "r", "labels": [2]}',
        b'{"id": "r", "labels": [-1]}',
        b'{"id": "r", "labels": [0.5]}',
        b'{"id": "r", "labels": [true]}',
        b'{"id": "r", "labels": ["a"]}',
    ],
)
def test_parse_feedback_refuses_with_400_when_it_is_wrong(body):
    with pytest.raises(RequestError) as refusal:
        parse_feedback(body, IMAGE, 4)
    assert refusal.value.status == 400
