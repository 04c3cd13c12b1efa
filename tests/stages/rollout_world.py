"""Run as a program: the rollout's scenarios that need processes that die or race. Version 2 challenges version 1."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from promotion_world import NOW, World, copied

from tasks.contracts.errors import UserError
from tasks.decisions.experiment import ArmStats, Observation, StepTraffic
from tasks.decisions.rollout import RolloutPolicy
from tasks.stages.promoting import bootstrap
from tasks.stages.rolling import advance, begin_rollout, follow_state, settle
from tasks.stages.rollout_commands import abort_rollout, promote_rollout, resume_rollout
from tasks.stages.rollout_record import GATE_REPORT_TAG, RolloutRecord, latest_record
from tests.kill_points import Mortal, Points, in_child

PLAIN = RolloutPolicy(steps=(5.0, 50.0), min_rows_per_arm=100, accuracy_margin=0.05)
PAUSING = RolloutPolicy(steps=(5.0, {"pause": {}}, 50.0), min_rows_per_arm=100, accuracy_margin=0.05)
DURABLE = {"append", "append_tick", "set_alias", "delete_alias"}
"""Methods of ledger, documents and registry that change something which outlives the process."""


def mortal(services, points):
    ledger, registry = Mortal(services.ledger, DURABLE, points), Mortal(services.registry, DURABLE, points)
    documents = Mortal(services.documents, DURABLE, points)
    return replace(services, documents=documents, make_ledger=lambda: ledger, make_registry=lambda: registry)


def arm(num, errors=0):
    answered = num - errors
    latencies = np.full(answered, 1.0) + np.arange(answered) * 1e-6
    return ArmStats(num, errors, num, num, round(0.99 * answered), latencies)


def seen(record, share_of_errors=0.0):
    """Plenty of traffic at every step so far, divided as the weight says."""
    steps = []
    for weight in record.state.policy.weights[: record.state.step + 1]:
        num = round(80_000 * weight / 100)
        steps.append(StepTraffic(weight, arm(80_000 - num), arm(num, round(share_of_errors * num))))
    return Observation(tuple(steps))


def prepared(root, operation):
    """Bring a world to where the operation begins."""
    root.mkdir(parents=True)
    world = World.create(root)
    bootstrap(world.services, "digits", 1, "flow", "first", NOW)
    world.edit_tags(2, {GATE_REPORT_TAG: world.report(2)})
    world.services.registry.set_alias("digits", "challenger", 2)
    if operation == "begin":
        return world
    services = world.services
    record = begin_rollout(services, "digits", PLAIN if operation == "advance" else PAUSING, NOW)
    if operation in ("advance", "abort", "promote"):
        follow_state(services, record)
    elif operation == "resume":
        tick(services)
    elif operation == "settle":
        promote_rollout(services, "digits", "rollout", "x", NOW, "ann")
        tick(services)
    elif operation == "give-back":
        tick(services, 0.3)
    return world


def tick(services, share_of_errors=0.0):
    record = follow_state(services, latest_record(services, "digits"))
    return advance(services, record, seen(record, share_of_errors), NOW)


def operate(services, operation):
    """What the process does that is killed; a person repeats the same after it."""
    if operation == "begin":
        follow_state(services, begin_rollout(services, "digits", PLAIN, NOW))
    elif operation == "abort":
        abort_rollout(services, "digits", "freeze", NOW, "ann")
    elif operation == "promote":
        promote_rollout(services, "digits", "rollout", "urgent", NOW, "ann")
    elif operation == "resume":
        resume_rollout(services, "digits", "checked", NOW, "ann")
    if operation != "abort":
        go_on(services, until_finished=True)


def go_on(services, *, until_finished):
    """What the schedule does: a look, until the rollout waits for a person or is settled."""
    for _ in range(10):
        record = latest_record(services, "digits")
        if record.state.finished:
            settle(services, record, "schedule", NOW)
            return
        record = tick(services)
        if record.state.status == "paused" and not until_finished:
            return
    assert not until_finished, "the rollout never ends"


def kill_everywhere(root, operation):
    """Kill the operation at point 1, 2, 3 … until it survives; each time let fresh processes go on, and report."""
    prepared(root / "start", operation)
    killed = []
    for point in range(1, 200):
        world = copied(root / "start", root / f"at-{point}")
        services = mortal(world.services, Points(die_at=point))
        code = in_child(lambda services=services: operate(services, operation))
        if code == 0:
            return killed
        assert code == -signal.SIGKILL, code
        before = recorded(world)
        assert in_child(lambda world=world: repeat(World.open(world.root).services, operation)) == 0
        after = recorded(world)
        again = in_child(lambda world=world: repeat(World.open(world.root).services, operation))
        killed.append(
            {
                "kept": after[: len(before)] == before,
                "ticks": [record.state.tick for record in after],
                "orders": [one.verdict for one in after[-1].state.history if one.actor == "ann"],
                "status": after[-1].state.status,
                "state": world.state(),
                "repeated": (again, recorded(world) == after),
            }
        )
    raise AssertionError("the operation never ends")


def repeat(services, operation):
    """The schedule looks first, then the person who got no answer gives the order again, then the schedule goes on."""
    record = latest_record(services, "digits")
    if record is not None:
        go_on(services, until_finished=False)
    record = latest_record(services, "digits")
    over = record is not None and record.state.status in ("promoted", "rolled_back")
    operate(services, "settle" if over else operation)


def recorded(world):
    latest = latest_record(world.services, "digits")
    if latest is None:
        return []
    return [RolloutRecord.model_validate_json(one) for one in world.services.ledger.ticks(latest.state.rollout_id)]


def at_once(root, works):
    """Run each of `works` in a process of its own, all from the same moment, and return their exit codes."""
    gate_read, gate_write = os.pipe()
    children = []
    for work in works:
        child = os.fork()
        if child == 0:
            code = 3
            try:
                os.close(gate_write)
                os.read(gate_read, 1)  # end-of-file for all at once, when the parent closes its end
                work(World.open(root).services)
                code = 0
            except UserError:
                code = 1
            finally:
                os._exit(code)
        children.append(child)
    os.close(gate_read)
    os.close(gate_write)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def race_orders(root):
    """Two persons and two schedules at once at a pause; then the schedule goes on."""
    outcomes = []
    for number in range(8):
        world = prepared(root / f"orders-{number}", "resume")
        orders = [lambda services: resume_rollout(services, "digits", "x", NOW, "ann")] * 2
        orders += [lambda services: promote_rollout(services, "digits", "rollout", "x", NOW, "ann")] * 2
        codes = at_once(world.root, [*orders, tick, tick])
        go_on(world.services, until_finished=True)
        after = recorded(world)
        verdicts = [one.verdict for one in after[-1].state.history if one.actor == "ann"]
        outcomes.append([codes, [one.state.tick for one in after], sorted(verdicts), world.state()])
    return outcomes


def race_abort(root):
    """Aborts against settlements of a decided promotion that has not had its effect."""
    outcomes = []
    for number in range(10):
        world = prepared(root / f"abort-{number}", "settle")
        decided = latest_record(world.services, "digits")
        works = [
            lambda services: abort_rollout(services, "digits", "x", NOW, "ann"),
            lambda services, decided=decided: settle(services, decided, "schedule", NOW),
        ] * 2
        codes = at_once(world.root, works if number % 2 else works[::-1])
        go_on(world.services, until_finished=True)
        outcomes.append([codes, latest_record(world.services, "digits").state.status, world.state()])
    return outcomes


if __name__ == "__main__":
    scenario, where = sys.argv[1], Path(sys.argv[2])
    races = {"race-orders": race_orders, "race-abort": race_abort}
    found = races[scenario](where) if scenario in races else kill_everywhere(where, scenario.removeprefix("kill-"))
    sys.stdout.write(json.dumps(found))
