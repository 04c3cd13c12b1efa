import pytest

from flows.diagnosis.clocks import clocks, judge_clocks
from tasks.runtime.settings import Settings


@pytest.mark.parametrize(
    ("offsets", "state"),
    [
        ({}, "ok"),
        ({"ledger": 1.9, "s3": -1.0}, "ok"),
        ({"ledger": 2.1}, "note"),
        ({"ledger": 0.0, "s3": -16.0}, "broken"),
    ],
)
def test_judge_clocks_goes_by_the_worst(offsets: dict[str, float], state: str) -> None:
    found = judge_clocks(offsets)

    assert found.state == state
    assert all(name in found.detail for name in offsets)
    assert bool(found.remedy) is (state != "ok")


def test_clocks_leaves_out_who_does_not_answer() -> None:
    assert clocks(Settings(), {"mlflow": "http://127.0.0.1:9"}).detail == "no other host's clock takes part"
