from datetime import datetime, timedelta

import pytest

from tasks.contracts.monitoring import Outbox
from tasks.contracts.route import Arm
from tasks.decisions import rollout
from tasks.decisions.experiment import Observation
from tasks.decisions.rollout import RolloutPolicy
from tasks.stages.announcing import announce_data, announce_ledger
from tasks.stages.promoting import bootstrap, rollback
from tasks.stages.rollout_record import RolloutRecord, append_record
from tests.stages.monitored_world import Server
from tests.stages.promotion_world import NOW, World


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def world(tmp_path, server):
    world = World.create(tmp_path)
    object.__setattr__(world.services, "make_events", lambda: server)
    bootstrap(world.services, "digits", 1, "ann", "first", NOW)
    return world


def outbox(world, name="announcements/models/digits"):
    return Outbox.model_validate_json(world.services.documents.latest(name).data)


def test_a_promotion_is_announced_once(world, server):
    world.promote(2)
    for _ in range(3):
        announce_ledger(world.services, "digits", NOW)
    rollback(world.services, "digits", "ann", "worse", NOW)
    promoted = "stillhouse.model.promoted"
    assert server.seen() == [(promoted, 1, "bootstrap"), (promoted, 2, "promote"), (promoted, 1, "rollback")]
    assert server.calls == 3
    assert outbox(world).unsent == ()


def test_a_promotion_succeeds_when_the_event_server_is_away_and_is_announced_later(world, server):
    server.away = True
    world.promote(2)
    assert world.state()["route"] == (2, None)
    assert [one.payload["version"] for one in outbox(world).unsent] == [2]
    server.away = False
    announce_ledger(world.services, "digits", NOW)
    assert server.seen()[-1][1] == 2
    assert outbox(world).unsent == ()


def test_a_promotion_is_announced_by_the_next_look_when_its_process_died_after_the_ledger(world, server):
    world.promote(2)
    sent = dict(server.events)
    server.events.clear()
    # what a crash before the outbox was written leaves behind: a ledger that is ahead of the outbox
    name = "announcements/models/digits"
    latest = world.services.documents.latest(name)
    world.services.documents.append(name, Outbox(ledger_sequence=1).canonical_json(), latest.version)
    announce_ledger(world.services, "digits", NOW)
    assert list(server.events) == list(sent)[1:]  # under the same id


def test_events_wait_where_no_server_is_addressed_and_are_given_up_after_a_day(world, server):
    server.addressed = False
    world.promote(2)
    assert len(outbox(world).unsent) == 1
    server.addressed = True
    late = (datetime.fromisoformat(NOW) + timedelta(days=1, seconds=1)).isoformat()
    announce_ledger(world.services, "digits", late)
    assert [version for _, version, _ in server.seen()] == [1]
    assert outbox(world).unsent == ()


@pytest.mark.parametrize("ended", ["abort", "again"])
def test_a_rollout_that_ends_without_a_promotion_is_announced_once(world, server, ended):
    arms = Arm(digest=world.digest(1), version=1), Arm(digest=world.digest(2), version=2)
    state = rollout.start("r1", "digits", *arms, RolloutPolicy(), NOW)
    append_record(world.services, RolloutRecord(state=state, gate_report="c" * 64, weights={}))
    announce_ledger(world.services, "digits", NOW)
    aborted = rollout.abort(state, "too slow", NOW)
    append_record(world.services, RolloutRecord(state=aborted, gate_report="c" * 64, weights={}))
    for _ in range(2):
        announce_ledger(world.services, "digits", NOW)
    if ended == "again":
        second = rollout.abort(rollout.start("r2", "digits", *arms, RolloutPolicy(), NOW), "again", NOW)
        append_record(world.services, RolloutRecord(state=second, gate_report="c" * 64, weights={}))
        announce_ledger(world.services, "digits", NOW)
    found = [one for one in server.events.values() if one.event == "stillhouse.rollout.aborted"]
    assert [one.payload["reason"] for one in found] == ["aborted: too slow", "aborted: again"][: 1 + (ended == "again")]
    assert found[0].payload["version"] == 2


def test_each_pause_of_a_rollout_for_a_person_is_announced_once(world, server):
    def look(state, at):
        moved, _ = rollout.tick(state, Observation(), state.policy, at)
        append_record(world.services, RolloutRecord(state=moved, gate_report="c" * 64, weights={}))
        announce_ledger(world.services, "digits", at)
        return moved

    arms = Arm(digest=world.digest(1), version=1), Arm(digest=world.digest(2), version=2)
    policy = RolloutPolicy(steps=(5, 50), max_ticks_per_step=2)
    state = rollout.start("r1", "digits", *arms, policy, NOW)
    append_record(world.services, RolloutRecord(state=state, gate_report="c" * 64, weights={}))
    statuses = []
    for _ in range(4):
        state = look(state, NOW)
        statuses.append(state.status)
    assert statuses == ["running", "paused", "paused", "paused"]
    (found,) = (one for one in server.events.values() if one.event == "stillhouse.rollout.paused")
    assert (found.subject, found.payload["version"], found.payload["weight"]) == ("model.digits", 2, 5.0)
    assert "a person should look" in found.payload["reason"]
    resumed = rollout.resume(state, "checked", NOW, "ann")
    append_record(world.services, RolloutRecord(state=resumed, gate_report="c" * 64, weights={}))
    for _ in range(2):
        resumed = look(resumed, NOW)
    assert resumed.status == "paused"
    assert sum(one.event == "stillhouse.rollout.paused" for one in server.events.values()) == 2


def test_data_are_announced_once_a_version(world, server):
    announce_data(world.services, "abc.dir", "s3://bucket", NOW)
    announce_data(world.services, "abc.dir", "s3://bucket", NOW)
    announce_data(world.services, "def.dir", "s3://bucket", NOW)
    data = [one for one in server.events.values() if one.subject == "data"]
    assert [one.payload["revision"] for one in data] == ["abc.dir", "def.dir"]
    assert {one.event for one in data} == {"stillhouse.data.published"}
