import numpy as np
import pytest

from benchmarks.rollout_runs import LOOKS, Behaviour, Traffic, at_every_limit, ever_mismatched, half, ramp, roll_out
from tasks.decisions import experiment


def seen(challenger: Behaviour, weight: float, num: int = 200_000):
    traffic = Traffic(challenger, np.random.default_rng(0))
    traffic.send(weight, num)
    return traffic.observe().at(weight)


@pytest.mark.parametrize("weight", [0.0, 25.0])
def test_traffic_is_answered_as_is_stated(weight):
    limits = at_every_limit(half())
    step = seen(limits, weight)
    for arm, stated in ((step.champion, Behaviour()), (step.challenger, limits)):
        assert arm.correct / arm.labelled == pytest.approx(stated.accuracy, abs=5e-3)
        assert arm.errors / arm.requests == pytest.approx(stated.error_rate, abs=2e-3)
        assert np.median(arm.latencies_ms) == pytest.approx(stated.slower, rel=0.02)
    share = step.challenger.requests / 200_000
    assert share == pytest.approx(1.0 if weight == 0.0 else 0.25, abs=5e-3)
    lost = step.paired.only_champion - step.paired.only_challenger
    assert lost == step.champion.correct - step.challenger.correct or weight > 0.0


def test_an_equal_challenger_is_promoted_at_the_last_look_of_a_ramp():
    ended = roll_out(ramp(), Behaviour(), np.random.default_rng(1))
    assert (ended.promoted, ended.harm, ended.alarmed) == (True, "", False)
    assert ended.state.tick == LOOKS
    assert [decision.judged_weight for decision in ended.state.history] == [0.0, 5.0, 25.0, 50.0]


@pytest.mark.parametrize(
    ("challenger", "harm"),
    [
        (Behaviour(accuracy=0.8), "accuracy"),
        (Behaviour(error_rate=0.05), "errors"),
        (Behaviour(slower=3.0), "latency"),
    ],
)
def test_a_harmful_challenger_is_rolled_back_by_the_check_that_it_fails(challenger, harm):
    ended = roll_out(half(), challenger, np.random.default_rng(2))
    assert (ended.state.status, ended.harm, ended.promoted) == ("rolled_back", harm, False)


def test_ever_mismatched_finds_what_is_divided_wrongly(monkeypatch):
    healthy = ever_mismatched(np.random.default_rng(3), 200, 50, 1e-4)
    assert healthy.shape == (200,)
    assert healthy.sum() <= 1
    alarming = ever_mismatched(np.random.default_rng(3), 200, 50, 0.5)
    assert 0 < alarming.sum() <= 100 + 3 * 50**0.5
    asked = experiment.division_log_e
    monkeypatch.setattr("benchmarks.rollout_runs.division_log_e", lambda got, of, weight: asked(got, of, 1.3 * weight))
    assert ever_mismatched(np.random.default_rng(3), 200, 50, 1e-4).all()
