import pytest

from tasks.techniques.pruning.sparsity_schedule import CubicSchedule


def test_sparsity_at_follows_the_cubic_worked_by_hand() -> None:
    schedule = CubicSchedule(initial=0.1, final=0.9, begin=0.2, end=0.6, update_every=1)  # from step 20 to 60 of 100
    assert schedule.sparsity_at(5, 100) == pytest.approx(0.1)
    assert schedule.sparsity_at(20, 100) == pytest.approx(0.1)
    assert schedule.sparsity_at(30, 100) == pytest.approx(0.9 - 0.8 * 0.75**3)
    assert schedule.sparsity_at(40, 100) == pytest.approx(0.9 - 0.8 / 8)
    assert schedule.sparsity_at(60, 100) == 0.9
    assert schedule.sparsity_at(99, 100) == 0.9


def test_sparsity_at_never_falls() -> None:
    schedule = CubicSchedule(initial=0.0, final=0.8, begin=0.0, end=1.0, update_every=7)
    shares = [schedule.sparsity_at(step, 50) for step in range(50)]
    assert shares == sorted(shares)


def test_is_update_comes_every_so_many_steps_of_the_window_and_at_its_end() -> None:
    schedule = CubicSchedule(initial=0.0, final=0.8, begin=0.25, end=0.75, update_every=4)
    assert [step for step in range(20) if schedule.is_update(step, 20)] == [5, 9, 13, 15]


@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
@pytest.mark.parametrize(("begin", "end"), [(0.0, 0.75), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5)])
def test_last_update_reaches_the_final_sparsity_before_the_last_step_ends(
    num_steps: int, begin: float, end: float
) -> None:
    schedule = CubicSchedule(initial=0.0, final=0.8, begin=begin, end=end, update_every=1000)
    updates = [step for step in range(num_steps) if schedule.is_update(step, num_steps)]
    assert updates
    assert schedule.sparsity_at(updates[-1], num_steps) == 0.8
