from dataclasses import dataclass, field

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.contracts.route import Arm
from tasks.contracts.verdict import Verdict
from tasks.decisions.experiment import ArmStats, Observation, PairedCounts, StepTraffic
from tasks.decisions.rollout import RolloutPolicy, RolloutState, abort, start, tick

CHAMPION = Arm(digest="a" * 64, version=1)
CHALLENGER = Arm(digest="b" * 64, version=2)
POLICY = RolloutPolicy(steps=(0, 5, 25, 50, 100), min_rows_per_arm=100, accuracy_margin=0.03)


@dataclass
class Model:
    """How an arm behaves in the simulated traffic."""

    accuracy: float = 0.98
    error_rate: float = 0.0
    latency_ms: float = 1.0


@dataclass
class Traffic:
    """A stream of labelled requests of one row, counted as the log's reader counts them."""

    challenger: Model
    champion: Model = field(default_factory=Model)
    labelled_share: float = 1.0
    challenger_share_factor: float = 1.0
    seed: int = 0
    steps: dict[float, list[tuple]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def send(self, weight: float, num: int) -> None:
        rows = self.steps.setdefault(weight, [])
        for _ in range(num):
            labelled = self.generator.random() < self.labelled_share
            if weight == 0.0:
                rows.append((labelled, self.answer(self.champion), self.answer(self.challenger)))
            elif self.generator.random() < self.challenger_share_factor * weight / 100:
                rows.append((labelled, None, self.answer(self.challenger)))
            else:
                rows.append((labelled, self.answer(self.champion), None))

    def answer(self, model: Model) -> tuple[bool, bool, float]:
        failed = self.generator.random() < model.error_rate
        right = not failed and self.generator.random() < model.accuracy
        return failed, right, model.latency_ms * self.generator.lognormal(0.0, 0.2)

    def observe(self) -> Observation:
        return Observation(tuple(self.step(weight, rows) for weight, rows in self.steps.items()))

    def step(self, weight: float, rows: list[tuple]) -> StepTraffic:
        old = self.arm([(labelled, old) for labelled, old, _ in rows if old])
        new = self.arm([(labelled, new) for labelled, _, new in rows if new])
        pairs = [(old[1], new[1]) for labelled, old, new in rows if labelled and old and new]
        cells = [sum(pair == cell for pair in pairs) for cell in ((1, 1), (1, 0), (0, 1), (0, 0))]
        return StepTraffic(weight, old, new, PairedCounts(*cells))

    @staticmethod
    def arm(rows: list[tuple]) -> ArmStats:
        return ArmStats(
            requests=len(rows),
            errors=sum(failed for _, (failed, _, _) in rows),
            rows=len(rows),
            labelled=sum(labelled for labelled, _ in rows),
            correct=sum(labelled and right for labelled, (_, right, _) in rows),
            latencies_ms=np.array([ms for _, (failed, _, ms) in rows if not failed]),
        )


def begin(policy: RolloutPolicy = POLICY) -> RolloutState:
    return start("r1", "digits", CHAMPION, CHALLENGER, policy, "2026-01-01T00:00:00Z")


def run(traffic: Traffic, rows_per_tick: int, policy: RolloutPolicy = POLICY, max_ticks: int = 300):
    """Send and tick until the rollout is over; return its state and the requests that it took."""
    state, sent = begin(policy), 0
    while not state.finished and state.tick < max_ticks:
        traffic.send(state.weight, rows_per_tick)
        sent += rows_per_tick
        state, _ = tick(state, traffic.observe(), policy, f"t{state.tick}")
    return state, sent


def challenger_rows(state: RolloutState) -> int:
    return state.latest.rows["challenger"]


def test_tick_promotes_an_equal_challenger_through_every_step():
    state, _ = run(Traffic(Model(latency_ms=0.4)), rows_per_tick=400)
    assert state.status == "promoted"
    assert [(one.judged_weight, one.verdict) for one in state.history] == [
        (0.0, "advance"),
        (5.0, "advance"),
        (25.0, "advance"),
        (50.0, "advance"),
        (100.0, "promote"),
    ]
    assert [one.weight for one in state.history] == [5.0, 25.0, 50.0, 100.0, 100.0]


@pytest.mark.parametrize(
    ("challenger", "reason"),
    [
        (Model(accuracy=0.1), "accuracy"),
        (Model(error_rate=1.0), "errors"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_tick_rolls_back_a_broken_challenger_from_shadow_within_a_few_dozen_rows(challenger, reason, seed):
    state, sent = run(Traffic(challenger, seed=seed), rows_per_tick=4)
    assert (state.status, state.weight, state.shadow) == ("rolled_back", 0.0, False)
    assert f"harm proven by {reason}" in state.latest.reason
    assert sent <= 40


@pytest.mark.parametrize("seed", range(3))
def test_tick_rolls_back_a_slow_challenger_at_its_first_callers_and_not_for_its_times_in_shadow(seed):
    state, _ = run(Traffic(Model(latency_ms=5.0), seed=seed), rows_per_tick=4)
    assert state.status == "rolled_back"
    assert "harm proven by latency" in state.latest.reason
    assert [decision.judged_weight for decision in state.history] == [0.0, state.policy.weights[1]]


@pytest.mark.parametrize("seed", range(3))
def test_tick_rolls_back_a_broken_challenger_without_a_shadow_step(seed):
    policy = RolloutPolicy(steps=(5, 50), min_rows_per_arm=100, accuracy_margin=0.03)
    state, _ = run(Traffic(Model(accuracy=0.1), seed=seed), rows_per_tick=40, policy=policy)
    assert state.status == "rolled_back"
    assert challenger_rows(state) <= 20


def test_tick_rolls_back_a_challenger_that_fails_late():
    traffic = Traffic(Model())
    state = begin()
    while state.weight < 50.0:
        traffic.send(state.weight, 600)
        state, _ = tick(state, traffic.observe(), POLICY, "t")
    traffic.challenger.error_rate = 0.3
    traffic.send(50.0, 100)
    state, decision = tick(state, traffic.observe(), POLICY, "t")
    assert decision.verdict == "roll_back"
    assert "errors" in decision.reason


def test_tick_does_not_promote_a_challenger_that_is_worse_by_the_margin():
    policy = RolloutPolicy(steps=(0, 50), min_rows_per_arm=100, accuracy_margin=0.05, max_ticks_per_step=12)
    policy = policy.model_copy(update={"max_paused_ticks": 0})
    ended = [run(Traffic(Model(accuracy=0.93), seed=seed), 100, policy)[0].status for seed in range(30)]
    assert ended.count("promoted") <= 4
    assert set(ended) <= {"rolled_back", "promoted"}


def test_tick_holds_when_there_is_no_traffic():
    state, decision = tick(begin(), Observation(), POLICY, "t")
    assert decision.verdict == "hold"
    assert "too few rows at shadow: 0 of the champion and 0 of the challenger" in decision.reason
    assert (decision.weight, decision.shadow, state.status, state.history) == (0.0, True, "running", ())


def test_tick_holds_when_feedback_is_missing_and_still_rolls_back_on_errors():
    silent = Traffic(Model(), labelled_share=0.0)
    silent.send(0.0, 300)
    state, decision = tick(begin(), silent.observe(), POLICY, "t")
    assert decision.verdict == "hold"
    assert "accuracy cannot be judged: 0% of the challenger's rows" in decision.reason
    silent.challenger.error_rate = 1.0
    silent.send(0.0, 100)
    assert tick(state, silent.observe(), POLICY, "t")[1].verdict == "roll_back"


def test_tick_holds_when_feedback_reaches_the_arms_differently():
    old = ArmStats(requests=500, rows=500, labelled=500, correct=490)
    new = ArmStats(requests=500, rows=500, labelled=200, correct=196)
    policy = RolloutPolicy(steps=(50.0, 75.0), min_rows_per_arm=10)
    _, decision = tick(begin(policy), Observation((StepTraffic(50.0, old, new),)), policy, "t")
    assert decision.verdict == "hold"
    assert "apart" in decision.reason


def test_tick_holds_on_wrong_division_and_rolls_back_when_it_stays():
    policy = RolloutPolicy(steps=(50.0, 75.0), sample_ratio_patience=2)
    traffic = Traffic(Model(), challenger_share_factor=0.5)
    traffic.send(50.0, 400)
    state, first = tick(begin(policy), traffic.observe(), policy, "t")
    assert (first.verdict, state.mismatched_ticks) == ("hold", 1)
    assert "traffic is divided wrongly" in first.reason
    assert tick(state, traffic.observe(), policy, "t")[1].verdict == "roll_back"


def test_tick_forgets_wrong_division_when_a_late_segment_heals_it():
    policy = RolloutPolicy(steps=(50.0, 75.0), sample_ratio_patience=2)
    late, healed = (
        Observation((StepTraffic(50.0, ArmStats(requests=200, rows=200), ArmStats(requests=num, rows=num)),))
        for num in (20, 200)
    )
    state, _ = tick(begin(policy), late, policy, "t")
    state, decision = tick(state, healed, policy, "t")
    assert (decision.verdict, state.mismatched_ticks) == ("hold", 0)
    assert "divided" not in decision.reason


def test_tick_waits_below_100_percent_until_accuracy_is_proven():
    policy = RolloutPolicy(steps=(50.0, 100.0), min_rows_per_arm=20, accuracy_margin=0.01)
    traffic = Traffic(Model())
    traffic.send(50.0, 200)
    state, decision = tick(begin(policy), traffic.observe(), policy, "t")
    assert (decision.verdict, state.weight) == ("hold", 50.0)
    assert "not proven yet" in decision.reason


def test_tick_pauses_and_then_rolls_back_when_a_step_is_not_settled():
    policy = RolloutPolicy(steps=(0.0, 50.0), max_ticks_per_step=3, max_paused_ticks=2)
    state, statuses = begin(policy), []
    for _ in range(5):
        state, decision = tick(state, Observation(), policy, "t")
        statuses.append((decision.verdict, state.status))
    assert statuses == [("hold", "running")] * 2 + [("hold", "paused")] * 2 + [("roll_back", "rolled_back")]
    assert [one.verdict for one in state.history] == ["hold", "roll_back"]
    assert "a person should look" in state.history[0].reason


def test_tick_goes_on_from_a_pause_when_the_evidence_arrives():
    policy = RolloutPolicy(steps=(0.0, 50.0), max_ticks_per_step=1, min_rows_per_arm=50)
    state, _ = tick(begin(policy), Observation(), policy, "t")
    assert state.status == "paused"
    traffic = Traffic(Model())
    traffic.send(0.0, 100)
    state, decision = tick(state, traffic.observe(), policy, "t")
    assert (decision.verdict, state.status, state.ticks_in_step) == ("advance", "running", 0)


def test_tick_repeats_the_last_decision_when_the_rollout_is_over():
    state, _ = run(Traffic(Model(accuracy=0.1)), rows_per_tick=50)
    again, decision = tick(state, Observation(), POLICY, "later")
    assert again == state
    assert decision == state.latest


def test_abort_ends_the_rollout_and_nothing_changes_it_after():
    state, _ = tick(begin(), Observation(), POLICY, "t")
    ended = abort(state, "release freeze", "later")
    assert (ended.status, ended.weight, ended.tick) == ("aborted", 0.0, state.tick + 1)
    assert ended.latest.reason == "aborted: release freeze"
    assert abort(ended, "again", "later still") == ended
    assert tick(ended, Observation(), POLICY, "t") == (ended, ended.latest)


def test_abort_works_before_the_first_tick():
    assert abort(begin(), "mistake", "t").history[-1].rows == {"champion": 0, "challenger": 0}


def test_state_survives_json_exactly_at_every_tick():
    traffic, state = Traffic(Model()), begin()
    while not state.finished:
        assert RolloutState.model_validate_json(state.canonical_json()) == state
        traffic.send(state.weight, 700)
        state, _ = tick(state, traffic.observe(), state.policy, f"t{state.tick}")
    assert RolloutState.model_validate_json(state.canonical_json()) == state


def test_tick_gives_equal_results_for_equal_arguments():
    traffic = Traffic(Model())
    traffic.send(0.0, 150)
    assert tick(begin(), traffic.observe(), POLICY, "t") == tick(begin(), traffic.observe(), POLICY, "t")


def test_tick_reports_every_check_with_its_numbers():
    traffic = Traffic(Model())
    traffic.send(0.0, 200)
    _, decision = tick(begin(), traffic.observe(), POLICY, "t")
    names = [check.name for check in decision.checks]
    assert names == ["sample_ratio", "errors", "latency_p50", "latency_p95", "accuracy", "feedback"]
    assert {check.verdict for check in decision.checks} <= set(Verdict)


def test_start_refuses_a_challenger_that_is_the_champion():
    with pytest.raises(ValueError, match="already is the champion"):
        start("r1", "digits", CHAMPION, CHAMPION, POLICY, "t")


def test_start_keeps_the_policy_and_drops_what_a_plan_adds_to_it():
    class PlanPolicy(RolloutPolicy):
        tick_seconds: float = 1.0

    state = begin(PlanPolicy(min_rows_per_arm=7))
    assert type(state.policy) is RolloutPolicy
    assert state.policy.min_rows_per_arm == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (5, 5)}, "must rise"),
        ({"steps": (5, 101)}, "between 0 and 100"),
        ({"steps": (100,)}, "compare nothing"),
        ({"steps": ()}, "at least 1 item"),
        ({"latency_quantiles": (95,)}, "between 0 and 1"),
    ],
)
def test_policy_refuses_steps_that_cannot_work(changes, message):
    with pytest.raises(ValidationError, match=message):
        RolloutPolicy(**changes)
