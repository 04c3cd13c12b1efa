import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.adapters.expectations import build_suite, data_docs, validate
from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import DataError, InfrastructureError
from tasks.datasets.source import Expectations, RawTable
from tasks.datasets.view import validation_view
from tasks.runtime.settings import Settings

pytestmark = [
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def locks(settings):
    return FileLocks(settings.home / "locks")


def images(num_rows=300, num_classes=3):
    x = np.random.default_rng(0).random((num_rows, 1, 4, 4), dtype=np.float32)
    names = tuple("abc"[:num_classes])
    return RawTable(x, np.arange(num_rows) % num_classes, "classification", names, (Path("rows.npz"),))


def houses(num_rows=300, num_nulls=0):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"rooms": rng.integers(1, 9, num_rows) * 1.0, "area": rng.random(num_rows), "price": 1.0})
    frame.loc[: num_nulls - 1, "rooms"] = np.nan
    kept = frame.dropna()
    x, y = kept[["rooms", "area"]].to_numpy(np.float32), kept["price"].to_numpy(np.float32)
    return RawTable(x, y, "regression", (), (Path("h.csv"),), frame=frame, target="price")


EXPECT = Expectations(min_rows=200, value_min=0, value_max=1, min_class_share=0.3, max_duplicate_share=0)


def changed(table, **arrays):
    return RawTable(**(table.__dict__ | arrays))


def broken_by(table, expect, settings, locks):
    with pytest.raises(DataError) as raised:
        validate(table, "rows", expect, settings, locks)
    return str(raised.value)


def test_validate_writes_data_docs_when_all_expectations_hold(settings, locks):
    docs = validate(images(), "fine-rows", EXPECT, settings, locks)

    assert docs == data_docs(settings) == settings.reports_root / "data-docs" / "index.html"
    assert "fine-rows" in docs.read_text()
    assert list(docs.parent.glob("validations/fine-rows/**/*.html"))
    assert json.loads((settings.home / "expectations/gx/expectations/fine-rows.json").read_text())["expectations"]


def test_validate_can_be_repeated(settings, locks):
    for _ in range(2):
        validate(images(), "again", EXPECT, settings, locks)


def test_validate_names_every_broken_expectation_with_expected_and_observed(settings, locks):
    table = images()
    x = table.x.copy()
    x[0, 0, 0, 0] = 7.5
    x[1] = x[2]

    message = broken_by(changed(table, x=x), EXPECT.model_copy(update={"min_rows": 1000}), settings, locks)

    assert "data set rows breaks 3 of" in message
    assert (
        "expect_column_max_to_be_between: expected column row_max, max_value 1.0; observed observed_value 7.5"
        in message
    )
    assert "expect_table_row_count_to_be_between: expected min_value 1000; observed observed_value 300" in message
    assert "expect_column_proportion_of_unique_values_to_be_between: expected column row_hash" in message
    assert str(data_docs(settings)) in message


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("row_non_finite", {"x": np.where(np.arange(16).reshape(1, 1, 4, 4) == 3, np.nan, images().x)}),
        ("row_class_share", {"y": np.array([0] * 298 + [1, 2])}),
        ("row_label", {"y": np.arange(300) % 2}),
        ("row_min", {"x": images().x - np.float32(0.5)}),
    ],
)
def test_validate_names_the_column_when_rows_are_bad(settings, locks, name, change):
    assert f"expected column {name}" in broken_by(changed(images(), **change), EXPECT, settings, locks)


def test_validate_judges_nulls_as_they_were_read_when_the_source_is_tabular(settings, locks):
    expect = Expectations(max_null_share=0.05)
    validate(houses(num_nulls=14), "houses", expect, settings, locks)

    message = broken_by(houses(num_nulls=16), expect, settings, locks)

    assert (
        "expect_column_values_to_not_be_null: expected column rooms, mostly 0.95; observed unexpected_percent 5.3"
        in message
    )
    assert "breaks 1 of" in message


def test_validate_holds_targets_against_their_range(settings, locks):
    message = broken_by(houses(), Expectations(target_max=0.5), settings, locks)

    assert "expected column row_target, max_value 0.5; observed observed_value 1.0" in message


def test_validate_is_an_infrastructure_error_when_nothing_can_be_written(tmp_path, locks):
    (tmp_path / "home").write_text("a file where a folder should be")

    with pytest.raises(InfrastructureError, match="STILLHOUSE_HOME"):
        validate(images(), "rows", EXPECT, Settings(home=tmp_path / "home"), locks)


def test_build_suite_covers_schema_ranges_classes_and_duplicates():
    table = images()

    suite = build_suite("rows", validation_view(table), table, EXPECT)

    assert {expectation.expectation_type for expectation in suite.expectations} >= {
        "expect_table_columns_to_match_set",
        "expect_table_row_count_to_be_between",
        "expect_column_min_to_be_between",
        "expect_column_max_to_be_between",
        "expect_column_distinct_values_to_equal_set",
        "expect_column_proportion_of_unique_values_to_be_between",
    }
