import pytest
from model_world import digest_of, gate_report, run_json

from tasks.contracts.errors import GateError, StaleChampionError, UserError
from tasks.contracts.verdict import Verdict


def test_promote_and_rollback_move_the_champion_when_the_gate_passed(run, services):
    report = gate_report(services, 2)
    promoted = run_json(run, "promote", "digits", "--version", 2, "--gate", report, "--expect", digest_of(1))
    again = run_json(run, "promote", "digits", "--version", 2, "--gate", report)

    assert promoted == again
    assert promoted["version"] == 2
    assert services.registry.version_of("digits", "champion").version == 2
    assert services.registry.version_of("digits", "previous").version == 1

    rolled_back = run_json(run, "model", "rollback", "digits", "--reason", "errors", "--expect", digest_of(2))
    assert (rolled_back["action"], rolled_back["version"]) == ("rollback", 1)
    assert services.registry.version_of("digits", "champion").version == 1
    assert run("model", "verify", "digits")[0] == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--gate", "not-a-digest"], UserError),
        (["--gate", "FAIL"], GateError),
        (["--gate", "PASS", "--expect", "f" * 64], StaleChampionError),
    ],
)
def test_promote_refuses_and_changes_nothing_when_the_evidence_does_not_hold(run, services, options, error):
    before = services.ledger.history("digits")
    replaced = [
        gate_report(services, 3, Verdict(option)) if option in Verdict.__members__ else option for option in options
    ]

    with pytest.raises(error):
        run("promote", "digits", "--version", 3, *replaced)
    assert services.ledger.history("digits") == before
