import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "promotion_kills.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ENDS = {
    "bootstrap": {"ledger": [[1, "bootstrap", 1]], "aliases": {"champion": 1}, "route": 1, "routed": True},
    "promote": {
        "ledger": [[1, "bootstrap", 1], [2, "promote", 2]],
        "aliases": {"champion": 2, "previous": 1},
        "route": 2,
        "routed": True,
    },
    "rollback": {
        "ledger": [[1, "bootstrap", 1], [2, "promote", 2], [3, "rollback", 1]],
        "aliases": {"champion": 1},
        "route": 1,
        "routed": True,
    },
    "reconcile": {
        "ledger": [[1, "bootstrap", 1], [2, "promote", 2]],
        "aliases": {"champion": 2, "previous": 1},
        "route": 2,
        "routed": True,
    },
}
ANNOUNCED = "documents.append"
CALLS = {
    "bootstrap": ["ledger.append", "registry.set_alias", "documents.append", ANNOUNCED],
    "promote": [
        "artifacts.put", "ledger.append", "registry.set_alias", "registry.set_alias", "registry.delete_alias",
        "documents.append", ANNOUNCED,
    ],
    "rollback": ["ledger.append", "registry.set_alias", "registry.delete_alias", "documents.append", ANNOUNCED],
    "reconcile": ["registry.set_alias", "registry.set_alias", "registry.delete_alias", "documents.append"],
}  # fmt: skip
"""Everything durable that an operation changes, in order; each is a point before which and after which it is killed."""


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request):
    """Where ledger and locks lie: nothing for files, or the folder of a PostgreSQL server."""
    return () if request.param == "sqlite" else (request.getfixturevalue("postgres_server").folder,)


def run(scenario, folder, *server):
    command = [sys.executable, str(PROGRAM), scenario, str(folder), *map(str, server)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("operation", list(ENDS))
def test_operation_ends_the_same_when_killed_around_any_durable_call_and_repeated_or_reconciled(
    tmp_path, server, operation
):
    table = run(operation, tmp_path, *server)

    assert table["calls"] == CALLS[operation]
    assert table["expected"] == ENDS[operation]
    assert len(table["points"]) == 2 * len(CALLS[operation])
    for point in table["points"]:
        assert point["repeated"] == ENDS[operation], point["call"]
        assert point["again"] == ENDS[operation], f"a third time after {point['call']}"
        decided = point["left"]["ledger"] == ENDS[operation]["ledger"]
        assert point["reconciled"] == (ENDS[operation] if decided else table["before"]), point["call"]


@pytest.mark.parametrize("scenario", ["race-locked", "race-unlocked"])
def test_one_of_two_promoters_wins_and_the_other_is_told_that_its_champion_is_stale(tmp_path, server, scenario):
    outcome = run(scenario, tmp_path, *server)

    winner = outcome["state"]["ledger"][1][2]
    assert sorted(outcome["codes"]) == [0, 1]
    assert outcome["codes"][winner - 2] == 0
    assert outcome["state"]["ledger"] == [[1, "bootstrap", 1], [2, "promote", winner]]
    assert (outcome["state"]["route"], outcome["state"]["routed"]) == (winner, True)
    challenger = {} if winner == 2 else {"challenger": 2}
    assert outcome["state"]["aliases"] == {"champion": winner, "previous": 1} | challenger
