"""What people are told of a search."""

import json

import pytest

from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.search import Excess
from tasks.reporting.search_artifacts import beyond, headline, publish_search, trial_table
from tests.searched import FAILED, WITHIN, searched, tried


def test_headline_names_the_finalists() -> None:
    assert headline(searched(tried(0), tried(1), FAILED, finalists=(1, 0))) == (
        "3 chains tried, 2 within the plan's limits on both halves of validation, 1 did not get to their end. "
        "For the gate: student-1, student-0."
    )


def test_headline_tells_the_nearest_miss_where_nothing_was_found() -> None:
    far, near = Excess(tuned=0.2, held=0.1, size=0.0), Excess(tuned=-0.01, held=0.015, size=0.0)
    assert headline(searched(tried(0, far), tried(1, near))).endswith(
        "Nearest: student-1, 1.5 points of accuracy beyond the tolerated loss on the held-out half. "
        "Widen the space, or raise the limit."
    )


def test_headline_tells_why_where_no_chain_got_to_its_end() -> None:
    assert headline(searched(FAILED)).endswith(
        "No chain got to its end; the first says: TechniqueError: nothing was left"
    )


def test_beyond_names_every_limit_that_is_missed() -> None:
    missed = tried(0, Excess(tuned=0.02, held=0.03, size=0.25))
    assert beyond(searched(missed), missed) == (
        "2 points of accuracy beyond the tolerated loss on the tuned half and 3 points of accuracy beyond the "
        "tolerated loss on the held-out half and 25% over the allowed size"
    )
    assert beyond(searched(missed), tried(0, WITHIN)) == "within every limit"


def test_trial_table_has_a_row_for_the_baseline_and_every_trial() -> None:
    rows = trial_table(searched(tried(0), FAILED, finalists=(0,)))
    assert [row["chain"] for row in rows] == ["baseline", "student-0", "pruned-2"]
    assert (rows[1]["accuracy held out"], rows[1]["bytes"], rows[1]["state"]) == (0.972, 5_000, "finalist")
    assert rows[1]["values"] == "0.temperature=6.5"
    assert (rows[2]["bytes"], rows[2]["state"]) == ("", FAILED.failure)
    json.dumps(rows)


def test_publish_search_says_that_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: object, **named: object) -> None:
        raise RuntimeError("no connection")

    monkeypatch.setattr("prefect.artifacts.create_table_artifact", away)
    with pytest.raises(ServiceUnavailableError, match=r"took no artifacts of search run-1: no connection"):
        publish_search(searched(tried(0)), None)
