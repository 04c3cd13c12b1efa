import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from promotion_world import NOW, World  # noqa: E402 - a module beside this one
from rollout_world import PLAIN, prepared, recorded, seen, tick  # noqa: E402

from tasks.contracts.errors import DocumentConflictError, GateError, InfrastructureError, UserError  # noqa: E402
from tasks.contracts.verdict import Verdict  # noqa: E402
from tasks.stages.rolling import advance, begin_rollout, follow_state, settle  # noqa: E402
from tasks.stages.rollout_commands import (  # noqa: E402
    abort_rollout,
    obstacles,
    promote_rollout,
    resume_rollout,
    unproven,
)
from tasks.stages.rollout_record import GATE_REPORT_TAG, latest_record  # noqa: E402

KEPT = {"ledger": [1], "aliases": {"champion": 1}, "route": (1, None)}
PROMOTED = {"ledger": [1, 2], "aliases": {"champion": 2, "previous": 1}, "route": (2, None)}


@pytest.fixture
def paused(tmp_path: Path) -> World:
    """A rollout that waits for a person at 5 %."""
    return prepared(tmp_path / "world", "resume")


def test_resume_rollout_records_who_and_why_and_the_rollout_goes_on(paused: World) -> None:
    record = resume_rollout(paused.services, "digits", "looked at it", NOW, "ann")

    assert latest_record(paused.services, "digits") == record
    assert (record.state.latest.actor, record.state.latest.verdict) == ("ann", "resume")
    assert "looked at it" in record.state.latest.reason
    assert tick(paused.services).state.weight == 50.0


def test_resume_rollout_twice_is_once(paused: World) -> None:
    once = resume_rollout(paused.services, "digits", "x", NOW, "ann")
    assert resume_rollout(paused.services, "digits", "y", NOW, "bob") == once
    assert len(recorded(paused)) == 3


def test_promote_rollout_acts_at_the_next_tick_and_the_ledger_says_who(paused: World) -> None:
    promote_rollout(paused.services, "digits", "rollout", "urgent", NOW, "ann")
    promote_rollout(paused.services, "digits", "rollout", "urgent", NOW, "ann")
    assert paused.state()["ledger"] == [1]

    settle(paused.services, tick(paused.services), "schedule", NOW)

    assert paused.state() == PROMOTED
    entry = paused.services.ledger.champion("digits")
    assert (entry.actor, "ann skips all that is left before promotion: urgent" in entry.reason) == ("ann", True)
    assert len(recorded(paused)) == 4  # begin, pause, order, promotion


def test_promote_rollout_of_a_step_moves_one_step(paused: World) -> None:
    promote_rollout(paused.services, "digits", "step", "urgent", NOW, "ann")
    state = tick(paused.services).state
    assert (state.status, state.weight, state.skip) == ("running", 50.0, None)


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE])
def test_promote_rollout_is_refused_when_the_gate_report_did_not_pass(tmp_path: Path, verdict: Verdict) -> None:
    world = prepared(tmp_path / "world", "begin")
    world.edit_tags(2, {GATE_REPORT_TAG: world.report(2, verdict=verdict)})
    begin_rollout(world.services, "digits", PLAIN, NOW)

    with pytest.raises(GateError, match="only PASS can be promoted"):
        promote_rollout(world.services, "digits", "rollout", "urgent", NOW, "ann")
    assert len(recorded(world)) == 1


def test_promote_rollout_does_not_go_past_harm(paused: World) -> None:
    promote_rollout(paused.services, "digits", "rollout", "urgent", NOW, "ann")

    record = tick(paused.services, share_of_errors=0.3)
    settle(paused.services, record, "schedule", NOW)

    assert record.state.status == "rolled_back"
    assert paused.state() == KEPT


def test_obstacles_and_unproven_say_what_an_order_does_and_does_not_go_past(tmp_path: Path) -> None:
    world = prepared(tmp_path / "world", "advance")
    record = follow_state(world.services, latest_record(world.services, "digits"))
    assert (obstacles(record), unproven(record)) == ((), ())
    wrong = seen(record)
    (step,) = wrong.steps
    wrong = replace(wrong, steps=(replace(step, challenger=replace(step.challenger, requests=100)),))
    advance(world.services, record, wrong, NOW)

    ordered = promote_rollout(world.services, "digits", "rollout", "urgent", NOW, "ann")

    assert [one.partition(":")[0] for one in obstacles(ordered)] == ["sample_ratio"]
    assert not any(one.startswith(("sample_ratio", "feedback")) for one in unproven(ordered))


def test_commands_say_so_when_no_rollout_is_running(paused: World) -> None:
    abort_rollout(paused.services, "digits", "x", NOW, "ann")
    with pytest.raises(UserError, match="no rollout of digits is running"):
        resume_rollout(paused.services, "digits", "x", NOW, "ann")
    with pytest.raises(UserError, match="no rollout of digits is running"):
        promote_rollout(paused.services, "digits", "step", "x", NOW, "ann")


def test_abort_rollout_wins_over_an_order_to_promote_whichever_is_first(paused: World) -> None:
    promote_rollout(paused.services, "digits", "rollout", "urgent", NOW, "bob")

    ended = abort_rollout(paused.services, "digits", "freeze", NOW, "ann")

    assert (ended.state.status, ended.state.latest.actor) == ("aborted", "ann")
    with pytest.raises(UserError, match="no rollout of digits is running"):
        promote_rollout(paused.services, "digits", "rollout", "urgent", NOW, "bob")
    assert paused.state() == KEPT


def test_abort_rollout_takes_back_a_decided_promotion_that_had_no_effect_yet(paused: World) -> None:
    promote_rollout(paused.services, "digits", "rollout", "urgent", NOW, "bob")
    decided = tick(paused.services)
    assert decided.state.status == "promoted"

    abort_rollout(paused.services, "digits", "freeze", NOW, "ann")
    settle(paused.services, decided, "a late schedule", NOW)

    assert paused.state() == KEPT


def test_abort_rollout_comes_too_late_when_the_promotion_is_in_the_ledger(paused: World) -> None:
    promote_rollout(paused.services, "digits", "rollout", "urgent", NOW, "bob")
    settle(paused.services, tick(paused.services), "schedule", NOW)

    with pytest.raises(UserError, match="no rollout of digits is running"):
        abort_rollout(paused.services, "digits", "freeze", NOW, "ann")
    assert paused.state() == PROMOTED


def test_order_of_a_step_does_not_reach_the_next_one_when_a_tick_came_between(tmp_path: Path) -> None:
    world = prepared(tmp_path / "world", "advance")
    real = world.services.ledger

    class Overtaken:
        def __getattr__(self, name):
            return getattr(real, name)

        def append_tick(self, *arguments):
            if latest_record(world.services, "digits").state.step == 0:
                tick(world.services)
            real.append_tick(*arguments)

    overtaken = Overtaken()
    services = replace(world.services, make_ledger=lambda: overtaken)

    record = promote_rollout(services, "digits", "step", "x", NOW, "ann")

    assert (record.state.step, record.state.skip) == (1, None)
    assert latest_record(world.services, "digits") == record


def test_order_is_given_up_when_others_are_always_faster(paused: World) -> None:
    real = paused.services.ledger

    class Overtaken:
        def __getattr__(self, name):
            return getattr(real, name)

        def append_tick(self, *arguments):
            raise DocumentConflictError("another tick was first")

    overtaken = Overtaken()
    with pytest.raises(InfrastructureError, match="other writers were faster at the rollout of digits"):
        resume_rollout(replace(paused.services, make_ledger=lambda: overtaken), "digits", "x", NOW, "ann")


def run(scenario: str, root: Path):
    command = [sys.executable, str(HERE / "rollout_world.py"), scenario, str(root)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


END = {
    "begin": ("promoted", []),
    "advance": ("promoted", []),
    "resume": ("promoted", ["resume"]),
    "promote": ("promoted", ["skip", "promote"]),
    "settle": ("promoted", ["skip", "promote"]),
    "give-back": ("rolled_back", []),
    "abort": ("aborted", ["roll_back"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("operation", END)
def test_rollout_ends_the_same_when_its_process_is_killed_at_any_durable_change(operation: str, tmp_path: Path) -> None:
    killed = run(f"kill-{operation}", tmp_path)

    status, orders = END[operation]
    expected = PROMOTED if status == "promoted" else KEPT
    print(f"\n{operation}: killed at {len(killed)} points")
    assert len(killed) >= 4
    for point, one in enumerate(killed, start=1):
        at = f"{operation} killed at point {point}: {one}"
        assert one["kept"], at
        assert one["ticks"] == list(range(len(one["ticks"]))), at
        assert (one["status"], one["orders"]) == (status, orders), at
        assert one["state"] == {**expected, "route": list(expected["route"])}, at
        assert one["repeated"] == [0, True], at


@pytest.mark.slow
def test_orders_and_ticks_of_several_processes_at_once_each_count_once(tmp_path: Path) -> None:
    for codes, ticks, orders, state in run("race-orders", tmp_path):
        assert codes == [0] * 6
        assert ticks == list(range(len(ticks)))
        assert orders in (["promote", "resume", "skip"], ["promote", "skip"])
        assert state == {**PROMOTED, "route": [2, None]}


@pytest.mark.slow
def test_abort_and_settlement_at_once_leave_one_of_the_two_whole(tmp_path: Path) -> None:
    for codes, status, state in run("race-abort", tmp_path):
        expected = PROMOTED if status == "promoted" else KEPT
        assert set(codes) <= {0, 1}
        assert (1 in codes) == (status == "promoted")
        assert state == {**expected, "route": list(expected["route"])}
