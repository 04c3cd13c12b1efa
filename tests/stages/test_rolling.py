import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from promotion_world import NOW, World

from tasks.adapters.route_store import RouteStore
from tasks.adapters.traffic import TrafficLog
from tasks.contracts.errors import DocumentConflictError, GateError, ModelError, UserError
from tasks.contracts.route import RouteAcknowledgement
from tasks.decisions.experiment import ArmStats, Observation, StepTraffic
from tasks.decisions.rollout import RolloutPolicy
from tasks.runtime.services import Services
from tasks.stages.promoting import bootstrap, rollback
from tasks.stages.rolling import advance, begin_rollout, follow_state, observe, settle
from tasks.stages.rollout_commands import abort_rollout
from tasks.stages.rollout_record import GATE_REPORT_TAG, RolloutRecord, latest_record, summarise

POLICY = RolloutPolicy(steps=(5.0, 50.0), min_rows_per_arm=100, accuracy_margin=0.05)
PROMOTED = {"ledger": [1, 2], "aliases": {"champion": 2, "previous": 1}, "route": (2, None)}
KEPT = {"ledger": [1], "aliases": {"champion": 1}, "route": (1, None)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Version 1 is champion; version 2 is the gated challenger; version 3 is gated too."""
    root = tmp_path / "world"
    root.mkdir()
    world = World.create(root)
    bootstrap(world.services, "digits", 1, "flow", "first", NOW)
    for version in (2, 3):
        world.edit_tags(version, {GATE_REPORT_TAG: world.report(version)})
    world.services.registry.set_alias("digits", "challenger", 2)
    return world


def arm(error_rate: float = 0.0, num: int = 4000) -> ArmStats:
    errors = round(error_rate * num)
    answered = num - errors
    latencies = np.full(answered, 1.0) + np.arange(answered) * 1e-6
    return ArmStats(
        requests=num, errors=errors, rows=num, labelled=num, correct=round(0.99 * answered), latencies_ms=latencies
    )


def seen(record: RolloutRecord, *, challenger_errors: float = 0.0) -> Observation:
    """Plenty of traffic at every step so far, divided as the weight says."""
    steps = []
    for weight in POLICY.weights[: record.state.step + 1]:
        num = round(8000 * weight / 100) * 10
        steps.append(StepTraffic(weight, arm(num=80_000 - num), arm(challenger_errors, num)))
    return Observation(tuple(steps))


def tick(services: Services, record: RolloutRecord, challenger_errors: float = 0.0) -> RolloutRecord:
    followed = follow_state(services, record)
    return advance(services, followed, seen(followed, challenger_errors=challenger_errors), NOW)


def drive(services: Services, challenger_errors: float = 0.0, *, again: bool = False) -> RolloutRecord:
    """What the flow `roll_out` does, without its pauses."""
    record = begin_rollout(services, "digits", POLICY, NOW, again=again)
    while not record.state.finished:
        record = tick(services, record, challenger_errors)
    settle(services, record, "roll-out", NOW)
    return record


def test_rollout_promotes_step_by_step_when_the_challenger_is_as_good(world: World) -> None:
    record = drive(world.services)

    summary, ticks = summarise(world.services, record)
    assert (summary.verdict, [(one.weight, one.verdict) for one in summary.steps]) == (
        "promote",
        [(5.0, "advance"), (50.0, "promote")],
    )
    assert [one.rows["challenger"] for one in ticks] == [4000, 44_000]
    assert [one.route_version for one in ticks] == [2, 3]
    assert world.state() == PROMOTED
    assert world.services.ledger.champion("digits").gate_report == world.report(2)


def test_rollout_gives_the_traffic_back_when_the_challenger_fails_requests(world: World) -> None:
    record = drive(world.services, challenger_errors=0.3)

    assert summarise(world.services, record)[0].verdict == "roll_back"
    assert world.state() == KEPT


def test_follow_state_publishes_once_and_settle_acts_once_when_repeated(world: World) -> None:
    record = begin_rollout(world.services, "digits", POLICY, NOW)
    first = follow_state(world.services, record)

    assert follow_state(world.services, record) == first
    assert first.weights == {"2": 5.0}
    assert world.state()["route"] == (1, 2)

    ended = drive(world.services)
    before = world.state()
    settle(world.services, ended, "again", NOW)
    assert world.state() == before


def test_begin_rollout_returns_the_running_one_when_it_was_begun_before(world: World) -> None:
    first = begin_rollout(world.services, "digits", POLICY, NOW)

    assert begin_rollout(world.services, "digits", RolloutPolicy(), NOW) == first
    assert follow_state(world.services, first).state.policy == POLICY


def test_begin_rollout_refuses_a_third_version_while_one_is_running(world: World) -> None:
    begin_rollout(world.services, "digits", POLICY, NOW)
    world.services.registry.set_alias("digits", "challenger", 3)

    with pytest.raises(UserError, match="rollout of version 2 of digits is running; version 3 has to wait"):
        begin_rollout(world.services, "digits", POLICY, NOW)
    assert world.state()["aliases"]["challenger"] == 3
    with pytest.raises(UserError, match="stillhouse rollout abort digits"):
        begin_rollout(world.services, "digits", POLICY, NOW, again=True)

    abort_rollout(world.services, "digits", "for version 3", NOW)
    assert world.state()["aliases"]["challenger"] == 3  # the waiting version's, not the aborted one's
    assert drive(world.services).state.challenger.version == 3


def test_begin_rollout_explains_when_there_is_no_challenger_no_champion_or_no_evidence(world: World) -> None:
    world.edit_tags(2, {GATE_REPORT_TAG: None})
    with pytest.raises(ModelError, match=f"version 2 of digits has no tag {GATE_REPORT_TAG}"):
        begin_rollout(world.services, "digits", POLICY, NOW)

    world.services.registry.delete_alias("digits", "challenger")
    with pytest.raises(ModelError, match="digits has no challenger"):
        begin_rollout(world.services, "digits", POLICY, NOW)
    with pytest.raises(ModelError, match="letters has no champion"):
        begin_rollout(world.services, "letters", POLICY, NOW)


def test_begin_rollout_does_not_retry_a_refused_challenger_without_again(world: World) -> None:
    refused = drive(world.services, challenger_errors=0.3)

    assert begin_rollout(world.services, "digits", POLICY, NOW) == refused  # the alias is gone
    world.services.registry.set_alias("digits", "challenger", 2)  # the same plan was run again
    assert begin_rollout(world.services, "digits", POLICY, NOW) == refused
    settle(world.services, refused, "roll-out", NOW)
    assert world.state()["ledger"] == [1]


@pytest.mark.parametrize("registered_again", [True, False])
def test_begin_rollout_tries_a_refused_challenger_when_asked_to(world: World, registered_again: bool) -> None:
    refused = drive(world.services, challenger_errors=0.3)
    if registered_again:
        world.services.registry.set_alias("digits", "challenger", 2)

    tried = drive(world.services, again=True)

    assert tried.state.rollout_id != refused.state.rollout_id
    assert world.state() == PROMOTED


def test_begin_rollout_begins_anew_when_another_version_follows_a_refused_one(world: World) -> None:
    drive(world.services, challenger_errors=0.3)
    world.services.registry.set_alias("digits", "challenger", 3)
    drive(world.services)

    assert world.state() == {"ledger": [1, 3], "aliases": {"champion": 3, "previous": 1}, "route": (3, None)}


def test_begin_rollout_settles_the_last_rollout_first_when_its_process_died_and_another_version_waits(
    world: World,
) -> None:
    record = begin_rollout(world.services, "digits", POLICY, NOW)
    while not record.state.finished:
        record = tick(world.services, record)
    world.services.registry.set_alias("digits", "challenger", 3)  # died here; a new run registered version 3

    drive(world.services)

    assert world.state() == {"ledger": [1, 2, 3], "aliases": {"champion": 3, "previous": 2}, "route": (3, None)}


def test_begin_rollout_refuses_evidence_that_was_used_when_its_champion_was_rolled_back(world: World) -> None:
    drive(world.services)
    rollback(world.services, "digits", "ann", "slow", NOW)
    world.services.registry.set_alias("digits", "challenger", 2)

    with pytest.raises(GateError, match="version 2 of digits was champion by gate report"):
        begin_rollout(world.services, "digits", POLICY, NOW)
    assert world.state()["route"] == (1, None)


def test_settle_leaves_a_later_champion_alone_when_it_is_repeated(world: World) -> None:
    refused = drive(world.services, challenger_errors=0.3)
    world.services.registry.set_alias("digits", "challenger", 3)
    promoted = drive(world.services)
    rollback(world.services, "digits", "ann", "x", NOW)
    before = world.state()

    for record in (refused, promoted):
        settle(world.services, record, "late", NOW)
    assert world.state() == before == {"ledger": [1, 3, 1], "aliases": {"champion": 1}, "route": (1, None)}


def test_rollout_ends_and_keeps_the_route_when_another_version_is_promoted_by_hand_meanwhile(world: World) -> None:
    record = tick(world.services, begin_rollout(world.services, "digits", POLICY, NOW))
    world.promote(3)
    after = {"ledger": [1, 3], "aliases": {"champion": 3, "previous": 1, "challenger": 2}, "route": (3, None)}
    assert world.state() == after

    record = follow_state(world.services, record)
    assert world.state() == after
    record = advance(world.services, record, seen(record), NOW)
    settle(world.services, record, "roll-out", NOW)

    assert record.state.status == "aborted"
    assert "another version became champion" in record.state.latest.reason
    assert world.state()["route"] == (3, None)
    drive(world.services, again=True)
    assert world.state()["ledger"] == [1, 3, 2]


def test_settle_lets_the_other_champion_be_when_it_came_between_decision_and_promotion(world: World) -> None:
    record = begin_rollout(world.services, "digits", POLICY, NOW)
    while not record.state.finished:
        record = tick(world.services, record)
    assert record.state.status == "promoted"
    world.promote(3)

    settle(world.services, record, "roll-out", NOW)

    assert world.state()["ledger"] == [1, 3]
    assert summarise(world.services, record)[0].verdict == "roll_back"


def test_abort_rollout_gives_everything_back_when_nothing_was_routed_yet(world: World) -> None:
    begin_rollout(world.services, "digits", POLICY, NOW)
    ended = abort_rollout(world.services, "digits", "no time [/today]", NOW)

    assert ended.state.status == "aborted"
    assert world.state() == KEPT
    assert abort_rollout(world.services, "digits", "again", NOW) == ended


def test_abort_rollout_counts_when_a_tick_was_under_way(world: World) -> None:
    record = follow_state(world.services, tick(world.services, begin_rollout(world.services, "digits", POLICY, NOW)))
    abort_rollout(world.services, "digits", "stop", NOW)

    late = advance(world.services, record, seen(record), NOW)

    assert late.state.status == "aborted"
    settle(world.services, late, "roll-out", NOW)
    assert world.state() == KEPT


def test_follow_state_does_not_bring_an_aborted_challenger_back_when_its_record_is_late(world: World) -> None:
    record = tick(world.services, begin_rollout(world.services, "digits", POLICY, NOW))
    abort_rollout(world.services, "digits", "stop", NOW)

    followed = follow_state(world.services, record)

    assert followed.state.finished
    assert world.state() == KEPT


def test_follow_state_does_not_step_back_when_another_ticker_is_ahead(world: World) -> None:
    first = begin_rollout(world.services, "digits", POLICY, NOW)
    second = tick(world.services, first)
    ahead = follow_state(world.services, second)

    behind = follow_state(world.services, first)

    assert behind.weights == ahead.weights == {"2": 5.0, "3": 50.0}


def test_abort_rollout_follows_the_tick_that_came_between(world: World) -> None:
    record = follow_state(world.services, begin_rollout(world.services, "digits", POLICY, NOW))
    real = world.services.ledger

    class Overtaken:
        def __getattr__(self, name):
            return getattr(real, name)

        def append_tick(self, *arguments):
            if latest_record(world.services, "digits").state.tick == 0:
                advance(world.services, record, seen(record), NOW)
            real.append_tick(*arguments)

    overtaken = Overtaken()
    ended = abort_rollout(replace(world.services, make_ledger=lambda: overtaken), "digits", "stop", NOW)

    assert ended.state.tick == 2
    assert world.state() == KEPT


def test_advance_takes_the_first_record_when_two_tick_at_once(world: World) -> None:
    record = follow_state(world.services, begin_rollout(world.services, "digits", POLICY, NOW))
    first = advance(world.services, record, seen(record), NOW)

    assert advance(world.services, record, seen(record, challenger_errors=0.3), NOW) == first


def test_observe_counts_nothing_when_no_traffic_came(world: World, tmp_path: Path) -> None:
    record = follow_state(world.services, begin_rollout(world.services, "digits", POLICY, NOW))

    seen = observe(world.services, TrafficLog(tmp_path / "traffic"), record)

    assert seen.steps == ()
    assert "no gateway serves route version 2 of digits" in seen.unserved


def test_rollout_holds_until_every_live_gateway_serves_the_route(world: World, tmp_path: Path) -> None:
    record = follow_state(world.services, begin_rollout(world.services, "digits", POLICY, NOW))

    def look_after(**versions: int) -> RolloutRecord:
        for replica, version in versions.items():
            acknowledge(world, replica, version)
        unserved = observe(world.services, TrafficLog(tmp_path / "traffic"), record).unserved
        newest = follow_state(world.services, latest_record(world.services, "digits"))
        return advance(world.services, newest, replace(seen(newest), unserved=unserved), NOW)

    assert "no gateway serves route version 2 of digits" in look_after().state.latest.reason
    held = look_after(one=2, two=1)
    assert (held.state.weight, held.state.latest.verdict) == (5.0, "hold")
    assert "not served by every gateway yet: two at version 1" in held.state.latest.reason
    assert look_after(one=2, two=2).state.weight == 50.0


def acknowledge(world: World, replica: str, version: int) -> None:
    at = datetime.now(UTC).isoformat()
    heard = RouteAcknowledgement(model_name="digits", replica=replica, route_version=version, ready=True, at=at)
    path = world.root / "acknowledgements" / "digits" / f"{replica}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(heard.canonical_json())


class Killed(BaseException):
    """Ends an operation as a kill would: no handler of the product catches it."""


class Mortal:
    """Passes calls on and ends the process's work right after the nth of all."""

    left = 0

    def __init__(self, real: object) -> None:
        self._real = real

    def __getattr__(self, name: str):
        attribute = getattr(self._real, name)
        if not callable(attribute):
            return attribute

        def call(*arguments, **named):
            result = attribute(*arguments, **named)
            Mortal.left -= 1
            if Mortal.left == 0:
                raise Killed
            return result

        return call


def mortal(services: Services, calls: int) -> Services:
    Mortal.left = calls
    ledger, registry = Mortal(services.ledger), Mortal(services.registry)
    return replace(
        services, documents=Mortal(services.documents), make_ledger=lambda: ledger, make_registry=lambda: registry
    )


@pytest.mark.parametrize(("errors", "expected"), [(0.0, PROMOTED), (0.3, KEPT)], ids=["promoted", "rolled back"])
def test_rollout_ends_the_same_when_killed_after_any_call_and_gone_on_with(
    world: World, errors: float, expected: dict
) -> None:
    for calls in range(1, 400):
        copy = World.open(Path(shutil.copytree(world.root, world.root.with_name(f"copy-{calls}"))))
        try:
            drive(mortal(copy.services, calls), errors)
        except Killed:
            drive(copy.services, errors)
        else:
            assert calls > 20
            return
        assert copy.state() == expected, f"killed after call {calls}"
        latest = latest_record(copy.services, "digits")
        assert [one.verdict for one in latest.state.history][-1] == ("promote" if errors == 0.0 else "roll_back")
        settle(copy.services, latest, "schedule", NOW)
        assert copy.state() == expected
    raise AssertionError("the rollout never ends")


def test_follow_state_adds_no_version_when_the_route_changes_hands_between(world: World) -> None:
    record = follow_state(world.services, begin_rollout(world.services, "digits", POLICY, NOW))
    routes = RouteStore(world.services.documents, world.services.acknowledgements)
    with pytest.raises(DocumentConflictError):
        routes.publish(routes.current("digits").route.model_copy(update={"weight": 7.0}), 1)

    assert follow_state(world.services, record) == record
