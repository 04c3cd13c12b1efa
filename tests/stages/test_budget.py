from datetime import UTC, datetime, timedelta

import pytest

from tasks.adapters.local_store import LocalDocuments
from tasks.contracts.errors import UserError
from tasks.stages.budget import spend

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture
def documents(tmp_path):
    return LocalDocuments(tmp_path)


def test_spend_refuses_what_is_over_the_budget_until_a_week_has_passed(documents):
    assert spend(documents, "recompress/digits", "a", 2, NOON) == 1
    assert spend(documents, "recompress/digits", "b", 2, NOON + timedelta(days=3)) == 2
    with pytest.raises(UserError, match=r"2 runs in the last seven days.*may start at 2026-05-11T12"):
        spend(documents, "recompress/digits", "c", 2, NOON + timedelta(days=6))
    assert spend(documents, "recompress/digits", "c", 2, NOON + timedelta(days=7)) == 2


def test_spend_counts_a_run_once_however_often_it_starts(documents):
    for _ in range(3):
        assert spend(documents, "recompress/digits", "a", 1, NOON) == 1


def test_spend_counts_names_apart_and_allows_none_when_the_budget_is_zero(documents):
    spend(documents, "recompress/digits", "a", 1, NOON)
    assert spend(documents, "recompress/other", "a", 1, NOON) == 1
    with pytest.raises(UserError, match="max_per_week is 0"):
        spend(documents, "recompress/none", "a", 0, NOON)
