import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from promotion_world import SIGNATURE, FileRegistry, World  # noqa: E402 - a module beside this one

from tasks.adapters.route_store import RouteStore  # noqa: E402
from tasks.contracts.errors import (  # noqa: E402
    ArtifactMissingError,
    GateError,
    InfrastructureError,
    ModelError,
    StaleChampionError,
)
from tasks.contracts.registration import SIGNATURE_TAG  # noqa: E402
from tasks.contracts.route import Arm  # noqa: E402
from tasks.contracts.verdict import Verdict  # noqa: E402
from tasks.stages.promoting import bootstrap, promote, rollback  # noqa: E402
from tasks.stages.reconciling import reconcile, reconcile_known  # noqa: E402

NOW = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def world(tmp_path):
    """Versions 1 (baseline), 2 and 3 (candidates) are registered; nobody is champion."""
    return World.create(tmp_path)


@pytest.fixture
def started(world):
    bootstrap(world.services, "digits", 1, "flow", "first", NOW)
    return world


def test_bootstrap_makes_the_baseline_champion_when_there_is_none(world):
    entry = bootstrap(world.services, "digits", 1, "flow", "first", NOW)

    assert (entry.action, entry.sequence, entry.gate_report) == ("bootstrap", 1, None)
    assert world.state() == {"ledger": [1], "aliases": {"champion": 1}, "route": (1, None)}
    assert (
        RouteStore(world.services.documents, world.services.acknowledgements).current("digits").route.signature
        == SIGNATURE
    )


def test_bootstrap_keeps_the_champion_when_there_is_one(started):
    entry = bootstrap(started.services, "digits", 2, "flow", "again", NOW)

    assert entry.version == 1
    assert started.state() == {"ledger": [1], "aliases": {"champion": 1}, "route": (1, None)}


def test_promote_moves_ledger_aliases_and_route_when_the_gate_passed(started):
    entry = started.promote(2)

    assert (entry.sequence, entry.action, entry.version, entry.actor) == (2, "promote", 2, "ann")
    assert entry.gate_report == started.report(2)
    assert started.state() == {"ledger": [1, 2], "aliases": {"champion": 2, "previous": 1}, "route": (2, None)}


def test_promote_takes_the_challenger_alias_away_when_the_challenger_becomes_champion(started):
    started.services.registry.set_alias("digits", "challenger", 2)
    started.promote(2)

    assert started.state()["aliases"] == {"champion": 2, "previous": 1}


def test_promote_leaves_the_challenger_alias_when_it_is_another_version(started):
    started.services.registry.set_alias("digits", "challenger", 3)
    started.promote(2)

    assert started.state()["aliases"] == {"champion": 2, "previous": 1, "challenger": 3}


def test_promote_returns_the_same_entry_and_changes_nothing_when_repeated(started):
    first = started.promote(2)
    route = RouteStore(started.services.documents, started.services.acknowledgements).current("digits")

    again = started.promote(2)

    assert again == first
    assert RouteStore(started.services.documents, started.services.acknowledgements).current("digits") == route


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE])
def test_promote_refuses_when_the_gate_did_not_pass(started, verdict):
    before = started.state()

    with pytest.raises(GateError, match=f"says {verdict} \\(accuracy\\); only PASS"):
        started.promote(2, gate_report_digest=started.report(2, verdict=verdict))
    assert started.state() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_name": "letters"}, "about model letters"),
        ({"candidate": "f" * 64}, "about ffffffffffff, but version 2"),
    ],
)
def test_promote_refuses_when_the_report_is_about_something_else(started, change, message):
    before = started.state()

    with pytest.raises(GateError, match=message):
        started.promote(2, gate_report_digest=started.report(2, **change))
    assert started.state() == before


def test_promote_refuses_when_the_artifact_is_not_a_gate_report(started):
    artifact = started.services.artifacts.put(b'{"verdict": "PASS"}')

    with pytest.raises(GateError, match="is not a gate report"):
        started.promote(2, gate_report_digest=artifact.digest)


def test_promote_refuses_when_the_report_is_not_in_the_store(started):
    with pytest.raises(ArtifactMissingError):
        started.promote(2, gate_report_digest="0" * 64)


@pytest.mark.parametrize("expected", [None, "e" * 64])
def test_promote_refuses_and_changes_nothing_when_the_expected_champion_is_stale(started, expected):
    before = started.state()

    with pytest.raises(StaleChampionError):
        started.promote(2, expected_champion=expected)
    assert started.state() == before


def test_promote_refuses_when_its_evidence_was_used_and_rolled_back(started):
    started.promote(2)
    rollback(started.services, "digits", "ann", "slow", NOW)

    with pytest.raises(StaleChampionError, match="Gate it again"):
        started.promote(2)
    assert started.state() == {"ledger": [1, 2, 1], "aliases": {"champion": 1}, "route": (1, None)}


def test_promote_refuses_when_the_version_is_unknown(started):
    with pytest.raises(ModelError, match="no version 9"):
        started.promote(9, gate_report_digest=started.report(2))


def test_rollback_returns_to_the_champion_before_when_there_was_one(started):
    started.promote(2)
    started.promote(3)

    entry = rollback(started.services, "digits", "ann", "errors", NOW)

    assert (entry.action, entry.version, entry.reason) == ("rollback", 2, "errors")
    assert started.state() == {"ledger": [1, 2, 3, 2], "aliases": {"champion": 2, "previous": 1}, "route": (2, None)}


def test_rollback_steps_back_once_when_repeated_with_the_champion_to_leave(started):
    started.promote(2)
    started.promote(3)
    leave = started.digest(3)

    first = rollback(started.services, "digits", "ann", "errors", NOW, expected_champion=leave)
    again = rollback(started.services, "digits", "ann", "errors", NOW, expected_champion=leave)

    assert again == first
    assert started.state()["ledger"] == [1, 2, 3, 2]


def test_rollback_refuses_when_another_is_champion(started):
    started.promote(2)

    with pytest.raises(StaleChampionError):
        rollback(started.services, "digits", "ann", "x", NOW, expected_champion=started.digest(3))


def test_rollback_refuses_when_there_is_nowhere_to_go(started):
    with pytest.raises(ModelError, match="only the present one"):
        rollback(started.services, "digits", "ann", "x", NOW)
    with pytest.raises(ModelError, match="none"):
        rollback(started.services, "letters", "ann", "x", NOW)


def test_reconcile_mends_and_reports_when_aliases_and_route_were_changed_by_hand(started):
    started.promote(2)
    started.services.registry.set_alias("digits", "champion", 3)
    started.services.registry.delete_alias("digits", "previous")
    routes = RouteStore(started.services.documents, started.services.acknowledgements)
    current = routes.current("digits")
    routes.publish(
        current.route.model_copy(update={"champion": Arm(digest=started.digest(3), version=3)}), current.version
    )

    outcome = reconcile(started.services, "digits")

    assert outcome.changes == (
        "alias champion: version 3 -> version 2",
        "alias previous: none -> version 1",
        "route champion: version 3 -> version 2 (route version 4)",
    )
    assert reconcile(started.services, "digits").changes == ()
    assert started.state()["aliases"] == {"champion": 2, "previous": 1}


def test_reconcile_leaves_a_running_rollout_alone_when_its_champion_is_the_ledgers(started):
    routes = RouteStore(started.services.documents, started.services.acknowledgements)
    current = routes.current("digits")
    running = current.route.model_copy(
        update={"challenger": Arm(digest=started.digest(2), version=2), "weight": 25.0, "rollout_id": "r1"}
    )
    routes.publish(running, current.version)

    assert reconcile(started.services, "digits").changes == ()
    assert routes.current("digits").route == running


def test_promote_ends_the_rollout_in_the_route_when_its_challenger_wins(started):
    routes = RouteStore(started.services.documents, started.services.acknowledgements)
    current = routes.current("digits")
    challenger = Arm(digest=started.digest(2), version=2)
    routes.publish(current.route.model_copy(update={"challenger": challenger, "weight": 100.0}), current.version)

    started.promote(2)

    assert started.state()["route"] == (2, None)


def test_reconcile_refuses_when_the_ledger_knows_no_champion(world):
    world.services.registry.set_alias("digits", "champion", 3)

    with pytest.raises(ModelError, match="STILLHOUSE_LEDGER_URL"):
        reconcile(world.services, "digits")
    assert world.state()["aliases"] == {"champion": 3}


def test_reconcile_known_leaves_a_model_alone_of_which_the_ledger_knows_nothing(world, started):
    world.services.registry.set_alias("digits", "champion", 3)

    assert reconcile_known(world.services, "letters") is None
    assert reconcile_known(started.services, "digits").changes == ("alias champion: version 3 -> version 1",)


def test_bootstrap_refuses_to_route_when_the_version_does_not_say_what_it_takes(world):
    world.edit_tags(1, {SIGNATURE_TAG: None})

    with pytest.raises(ModelError, match=SIGNATURE_TAG):
        bootstrap(world.services, "digits", 1, "flow", "first", NOW)


def test_reconcile_gives_up_loudly_when_another_program_keeps_changing_the_alias(started):
    class Stubborn(FileRegistry):
        def set_alias(self, name, alias, version):
            super().set_alias(name, alias, 3)

    stubborn = Stubborn(started.services.registry.path)
    services = replace(started.services, make_registry=lambda: stubborn)

    with pytest.raises(InfrastructureError, match="another program"):
        promote(services, started.report(2), "digits", 2, "ann", "x", started.digest(1), NOW)


def _run(scenario, root):
    command = [sys.executable, str(HERE / "promotion_world.py"), scenario, str(root)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    "operation",
    ["promote", pytest.param("bootstrap", marks=pytest.mark.slow), pytest.param("rollback", marks=pytest.mark.slow)],
)
def test_operation_ends_the_same_when_killed_after_any_call_and_repeated(tmp_path, operation):
    outcome, errors = _run(f"kill-{operation}", tmp_path)

    expected = {
        "bootstrap": {"ledger": [1], "aliases": {"champion": 1}, "route": [1, None]},
        "promote": {"ledger": [1, 2], "aliases": {"champion": 2, "previous": 1}, "route": [2, None]},
        "rollback": {"ledger": [1, 2, 1], "aliases": {"champion": 1}, "route": [1, None]},
    }[operation]
    assert len(outcome["killed"]) >= 8, errors
    for call, states in outcome["killed"].items():
        assert states["repeated"] == expected, f"repeated after a kill at call {call}"
        if states["ledger_had_it"]:
            assert states["reconciled"] == expected, f"reconciled after a kill at call {call}"


def test_promote_has_one_winner_when_eight_processes_promote_two_candidates_at_once(tmp_path):
    outcome, errors = _run("race", tmp_path)

    winner = outcome["state"]["ledger"][1]
    assert outcome["state"]["ledger"] == [1, winner], errors
    assert outcome["state"]["aliases"] == {"champion": winner, "previous": 1}
    assert outcome["state"]["route"] == [winner, None]
    # four processes promote each candidate: those of the winner all succeed, as repetitions; the others are told
    assert sorted(outcome["codes"]) == [0, 0, 0, 0, 1, 1, 1, 1]
