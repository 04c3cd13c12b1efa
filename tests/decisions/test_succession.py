import pytest

from tasks.contracts.verdict import LedgerEntry
from tasks.decisions.succession import champions_in_effect


def history(*steps):
    """`b:A` bootstraps A, `p:B` promotes B, `r:A` rolls back to A."""
    actions = {"b": "bootstrap", "p": "promote", "r": "rollback"}
    shared = {"model_name": "digits", "gate_report": None, "expected_champion": None}
    return [
        LedgerEntry(
            sequence=number,
            action=actions[step[0]],
            candidate=step[2].lower() * 64,
            version=number,
            actor="x",
            reason="",
            created_at="",
            **shared,
        )
        for number, step in enumerate(steps, 1)
    ]


@pytest.mark.parametrize(
    ("steps", "standing"),
    [
        ([], ""),
        (["b:A"], "a"),
        (["b:A", "p:B", "p:C"], "abc"),
        (["b:A", "p:B", "r:A"], "a"),
        (["b:A", "p:B", "r:A", "p:C"], "ac"),
        (["b:A", "p:B", "p:C", "r:B", "r:A"], "a"),
        (["b:A", "p:B", "p:A", "r:B"], "ab"),
        (["b:A", "p:B", "p:B"], "ab"),
        (["r:A"], "a"),
    ],
)
def test_champions_in_effect_are_those_not_rolled_back_when_history_is(steps, standing):
    assert "".join(entry.candidate[0] for entry in champions_in_effect(history(*steps))) == standing


def test_champions_in_effect_shows_the_newest_evidence_when_a_champion_is_promoted_again():
    assert [entry.sequence for entry in champions_in_effect(history("b:A", "p:B", "p:B"))] == [1, 3]
