import logging

import pytest

from tasks.contracts.model import EpochRecord
from tasks.techniques.rounds import Round, RoundCheckpoints, last_round


class MemoryCheckpoints:
    def __init__(self, data: bytes | None = None) -> None:
        self.data = data

    def save(self, data: bytes) -> None:
        self.data = data

    def load(self) -> bytes | None:
        return self.data


SECOND = Round(2, b"network", (EpochRecord(step=1, metrics={"loss": 0.1}), EpochRecord(step=2, metrics={"loss": 1e-9})))


def test_round_checkpoints_bring_back_the_round_and_the_training() -> None:
    store = MemoryCheckpoints()
    RoundCheckpoints(store, SECOND).save(b"\x00training")
    assert last_round(store) == SECOND
    assert RoundCheckpoints(store, SECOND).load() == b"\x00training"


def test_round_checkpoints_load_nothing_when_the_stored_one_is_of_another_round() -> None:
    store = MemoryCheckpoints()
    RoundCheckpoints(store, SECOND).save(b"training")
    assert RoundCheckpoints(store, Round(3, b"", ())).load() is None


def test_last_round_is_none_when_nothing_is_stored() -> None:
    assert last_round(MemoryCheckpoints()) is None
    assert RoundCheckpoints(MemoryCheckpoints(), SECOND).load() is None


@pytest.mark.parametrize(
    "data", [b"", b"short", b"\x02" + bytes(7) + b"{}", b"\x04" + bytes(7) + b"null", b"\xff" * 40]
)
def test_last_round_is_none_and_says_so_when_the_bytes_are_of_another_format(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert last_round(MemoryCheckpoints(data)) is None
    assert "starts anew" in caplog.text
