import pytest

from tasks.contracts.route import Arm
from tasks.decisions.experiment import ArmStats, Observation, PairedCounts, StepTraffic
from tasks.decisions.rollout import RolloutPolicy, abort, resume, skip, start, tick

ARMS = Arm(digest="a" * 64, version=1), Arm(digest="b" * 64, version=2)


def begin(*steps, **limits):
    values = {"min_rows_per_arm": 100, "accuracy_margin": 0.05} | limits
    return start("r1", "digits", *ARMS, RolloutPolicy(steps=steps, **values), at(0))


def at(minute):
    return f"2026-01-01T00:{minute:02d}:00+00:00"


def seen(state, num=2000, *, errors=0, challenger_share=1.0, unserved=""):
    """Healthy traffic at every weight so far, unless told otherwise."""
    steps = []
    for weight in state.policy.weights[: state.step + 1]:
        new = num if weight == 0.0 else round(num * weight / 100)
        old = num if weight == 0.0 else num - new
        new = round(new * challenger_share)
        paired = PairedCounts(both_right=num) if weight == 0.0 else PairedCounts()
        arms = ArmStats(old, 0, old, old, old), ArmStats(new, errors, new, new, new - errors)
        steps.append(StepTraffic(weight, *arms, paired))
    return Observation(tuple(steps), unserved)


def look(state, minute=0, **traffic):
    return tick(state, seen(state, **traffic), state.policy, at(minute))[0]


def test_resume_leaves_the_pause_and_the_next_tick_goes_on():
    paused = look(begin(5, {"pause": {}}, 50))
    assert (paused.status, paused.latest.verdict, paused.pausing_since) == ("paused", "hold", at(0))

    resumed = resume(paused, "checked", at(9), "ann")

    assert (resumed.status, resumed.tick, resumed.pausing_since) == ("running", paused.tick + 1, None)
    assert (resumed.latest.verdict, resumed.latest.actor) == ("resume", "ann")
    assert "checked" in resumed.history[-1].reason
    assert look(resumed).weight == 50.0


def test_resume_leaves_a_timed_pause_early():
    state = look(begin(5, {"pause": {"duration": "1h"}}, 50))
    assert look(resume(state, "enough", at(1), "ann"), 1).weight == 50.0


def test_resume_gives_an_unsettled_step_its_ticks_anew():
    state = begin(5, 50, max_ticks_per_step=2, max_paused_ticks=1)
    state = look(look(state, num=10), num=10)
    assert state.status == "paused"

    state = resume(state, "the clients were away", at(5), "ann")

    assert (state.status, state.ticks_in_step) == ("running", 0)
    assert look(state, num=10).status == "running"


def test_resume_twice_is_once_and_changes_nothing_where_nothing_is_paused():
    running = begin(5, 50)
    assert resume(running, "x", at(1), "ann") == running
    once = resume(look(begin(5, {"pause": {}}, 50)), "x", at(1), "ann")
    assert resume(once, "y", at(2), "bob") == once


def test_pause_for_a_person_has_no_end_of_its_own():
    state = begin(5, {"pause": {}}, 50, max_ticks_per_step=1, max_paused_ticks=0)
    for minute in range(50):
        state = look(state, minute)
    assert (state.status, state.ticks_in_step, len(state.history)) == ("paused", 0, 1)


def test_pause_with_a_duration_ends_when_it_is_over():
    state = begin(5, {"pause": {"duration": "10m"}}, 50)
    statuses = []
    for minute in (1, 5, 10, 11):
        state = look(state, minute)
        statuses.append((state.status, state.weight))
    assert statuses == [("running", 5.0)] * 3 + [("running", 50.0)]
    assert "until 2026-01-01T00:11:00+00:00" in look(begin(5, {"pause": {"duration": "10m"}}, 50), 1).latest.reason


@pytest.mark.parametrize("trouble", [{"unserved": "gw-2 is restarting"}, {"challenger_share": 0.1}])
@pytest.mark.parametrize(("pause", "status"), [({}, "paused"), ({"duration": "10m"}, "running")])
def test_pause_is_not_begun_anew_by_a_passing_trouble(pause, status, trouble):
    state = look(begin(5, {"pause": pause}, 50), 1)
    state = look(state, 2, **trouble)
    assert (state.status, state.pausing_since, state.ticks_in_step, state.latest.verdict) == (status, at(1), 0, "hold")
    assert look(state, 3).pausing_since == at(1)
    assert len(state.history) == (status == "paused")


def test_pause_hides_no_harm():
    state = look(begin(5, {"pause": {}}, 50))
    assert look(state, errors=60).status == "rolled_back"


def test_analysis_holds_until_its_checks_are_proven_and_its_rows_are_there():
    state = begin(5, {"analysis": {"proven": ["errors"], "min_rows_per_arm": 200}}, 50)
    state = look(state, num=2000)
    assert (state.weight, state.latest.verdict) == (5.0, "hold")
    assert "analysis: too few rows at 5 %: 100 of the challenger; wanted 200 of each" in state.latest.reason
    state = look(state, num=4000)
    assert "analysis at 5 % wants proof that there is no harm by errors (" in state.latest.reason
    assert state.ticks_in_step == 2
    assert look(state, num=40_000).weight == 50.0


def test_waits_are_gone_through_in_order():
    state = begin(5, {"analysis": {"min_rows_per_arm": 200}}, {"pause": {}}, 50)
    state = look(state, num=2000)
    assert (state.status, state.waits_passed) == ("running", 0)
    state = look(state, num=4000)
    assert (state.status, state.waits_passed) == ("paused", 1)
    assert resume(state, "x", at(2), "ann").waits_passed == 2


def test_skip_goes_past_the_waits_of_one_step_at_the_next_tick():
    state = skip(look(begin(5, {"pause": {}}, 25, {"pause": {}}, 50)), "step", "urgent", at(1), "ann")
    assert (state.weight, state.skip, state.latest.verdict) == (5.0, "step", "skip")

    state = look(state, num=10)

    assert (state.weight, state.skip, state.latest.actor) == (25.0, None, "ann")
    assert "ann skips what 5 % waits for: urgent" in state.latest.reason
    assert look(state, num=400).status == "paused"


def test_skip_of_the_rollout_promotes_at_the_next_tick():
    state = look(skip(begin(0, 5, {"pause": {}}, 50), "rollout", "urgent", at(1), "ann"), num=10)
    assert (state.status, state.latest.verdict, state.latest.actor) == ("promoted", "promote", "ann")


@pytest.mark.parametrize("scope", ["step", "rollout"])
@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        ({"errors": 60}, "rolled_back"),
        ({"challenger_share": 0.1}, "running"),
        ({"unserved": "gw-2 is behind"}, "running"),
    ],
)
def test_skip_goes_past_no_harm_no_wrong_division_and_no_gateway_that_is_behind(scope, trouble, status):
    state = look(skip(begin(5, 50), scope, "urgent", at(1), "ann"), **trouble)
    assert (state.status, state.step) == (status, 0)


def test_skip_waits_until_the_division_is_right_again():
    state = look(skip(begin(5, 50), "rollout", "urgent", at(1), "ann"), challenger_share=0.1)
    assert look(state).status == "promoted"


def test_skip_twice_is_once_and_the_larger_order_counts():
    state = skip(begin(5, 50), "step", "x", at(1), "ann")
    assert skip(state, "step", "y", at(2), "bob") == state
    wider = skip(state, "rollout", "y", at(2), "bob")
    assert (wider.skip, skip(wider, "step", "z", at(3), "ann")) == ("rollout", wider)


def test_abort_takes_back_an_order_and_a_decision_to_promote():
    ordered = skip(begin(5, 50), "rollout", "x", at(1), "ann")
    promoted = look(ordered)
    for state in (ordered, promoted):
        ended = abort(state, "no", at(2), "bob")
        assert (ended.status, ended.weight, ended.latest.actor, ended.tick) == ("aborted", 0.0, "bob", state.tick + 1)
        assert skip(ended, "rollout", "x", at(3), "ann") == ended
        assert abort(ended, "again", at(3), "bob") == ended


def test_abort_leaves_a_rollout_alone_that_was_rolled_back():
    state = look(begin(5, 50), errors=60)
    assert abort(state, "no", at(1), "ann") == state
    assert resume(state, "no", at(1), "ann") == state


def test_tick_holds_and_names_the_gateways_that_are_behind():
    state = look(begin(5, 50), unserved="route version 2 is not served by gw-2")
    assert (state.weight, state.latest.verdict) == (5.0, "hold")
    assert "gw-2" in state.latest.reason
    assert look(state).weight == 50.0
