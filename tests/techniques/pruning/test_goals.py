import pytest

from tasks.contracts.errors import TechniqueError
from tasks.techniques.pruning.goals import Goal, smallest_ratio


def steps(ratio: float) -> float:
    """Rise in four equal steps: widths are rounded."""
    return min(0.8, int(ratio * 4 + 1e-9) * 0.2)


@pytest.mark.parametrize(("share", "ratio", "reduction"), [(0.1, 0.25, 0.2), (0.2, 0.25, 0.2), (0.5, 0.75, 0.6)])
def test_smallest_ratio_reaches_the_goal_and_no_more(share: float, ratio: float, reduction: float) -> None:
    reached = smallest_ratio(Goal("flops", share), steps)
    assert reached.ratio == pytest.approx(ratio, abs=2**-10)
    assert reached.reduction == pytest.approx(reduction)


def test_smallest_ratio_says_what_can_be_reached_when_the_goal_is_out_of_reach() -> None:
    with pytest.raises(TechniqueError, match=r"parameters_reduction=0.9 is out of reach.*80.0% is gone.*min_channels"):
        smallest_ratio(Goal("parameters", 0.9), steps)


def test_smallest_ratio_probes_few_widths_when_it_has_to_time_them() -> None:
    probed: list[float] = []
    smallest_ratio(Goal("latency", 0.3), lambda ratio: probed.append(ratio) or ratio)  # type: ignore[func-returns-value]
    assert len(probed) <= 7
