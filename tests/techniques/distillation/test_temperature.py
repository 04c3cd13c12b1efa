import math

import pytest

from tasks.techniques.distillation.temperature import ScheduledTemperature, temperature_at


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        ("constant", [8, 8, 8, 8, 8]),
        ("linear", [8, 6.5, 5, 3.5, 2]),
        ("cosine", [8, 5 + 3 * math.sqrt(0.5), 5, 5 - 3 * math.sqrt(0.5), 2]),
    ],
)
def test_temperature_at_equals_the_values_worked_by_hand(course, expected: list[float]) -> None:
    found = [temperature_at(step, 5, 8.0, 2.0, course) for step in range(5)]
    assert found == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("course", ["constant", "linear", "cosine"])
def test_temperature_at_is_the_first_when_there_is_one_step(course) -> None:
    assert temperature_at(0, 1, 8.0, 2.0, course) == 8.0


def test_scheduled_temperature_depends_on_the_step_alone() -> None:
    temperature = ScheduledTemperature(8.0, 2.0, "linear")
    assert temperature.current == 8.0
    for step in (4, 1, 3):  # as a resumed run, which begins anywhere
        temperature.before_step(step, 5)
        assert temperature.current == temperature_at(step, 5, 8.0, 2.0, "linear")
