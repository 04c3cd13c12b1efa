"""Great Expectations: a suite per data set from its `expect` spec, Data Docs, and errors that name what broke."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts.errors import DataError, InfrastructureError
from tasks.datasets import view
from tasks.datasets.source import Expectations, RawTable
from tasks.datasets.text import TextExpectations

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationSuite, ExpectationValidationResult
    from great_expectations.data_context.data_context.abstract_data_context import AbstractDataContext
    from great_expectations.expectations.expectation import Expectation

    from tasks.runtime.locking import Locks
    from tasks.runtime.settings import Settings

_DATASOURCE = "stillhouse"
_SITE = "data-docs"
_MAX_OBSERVED_CHARS = 200


def data_docs(settings: Settings) -> Path:
    """Return the page that Data Docs start from."""
    return settings.reports_root / _SITE / "index.html"


def validate(table: RawTable, name: str, expect: Expectations, settings: Settings, locks: Locks) -> Path:
    """Hold all rows of the data set `name` against `expect`, write Data Docs, and return their first page.

    Raises:
        DataError: expectations are broken; the message names each, with what was expected and observed.
        InfrastructureError: the context or the Data Docs cannot be written.
    """
    rows = view.validation_view(table)
    with locks.hold("expectations"), _writing(settings):
        context = _context(settings)
        results = _run(context, name, build_suite(name, rows, table, expect), rows)
    broken = [result for result in results if not result.success]
    if broken:
        lines = "\n".join(f"  - {_described(result)}" for result in broken)
        raise DataError(
            f"data set {name} breaks {len(broken)} of {len(results)} expectations:\n{lines}\n"
            f"Mend the data, or change dataset.expect if the data are right. Data Docs: {data_docs(settings)}"
        )
    return data_docs(settings)


def build_suite(name: str, rows: pd.DataFrame, table: RawTable, expect: Expectations) -> ExpectationSuite:
    """Build the suite of one data set: schema, row count, ranges, nulls, classes or targets, duplicates."""
    gx = _great_expectations()
    expectations = [*_of_the_table(rows, expect), *_of_the_inputs(table, expect), *_of_the_columns(table, expect)]
    expectations += _of_the_classes(table, expect) if table.task == "classification" else _of_the_targets(expect)
    suite: ExpectationSuite = gx.ExpectationSuite(name=name, expectations=expectations)
    return suite


def _of_the_table(rows: pd.DataFrame, expect: Expectations) -> list[Expectation]:
    gxe = _great_expectations().expectations
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=list(rows.columns), exact_match=True),
        gxe.ExpectTableRowCountToBeBetween(min_value=expect.min_rows),
        gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(
            column=view.ROW_HASH, min_value=1 - expect.max_duplicate_share
        ),
    ]


def _of_the_inputs(table: RawTable, expect: Expectations) -> list[Expectation]:
    gxe = _great_expectations().expectations
    if table.is_text:
        most = expect.max_chars if isinstance(expect, TextExpectations) else None
        return [gxe.ExpectColumnValuesToBeBetween(column=view.ROW_CHARS, min_value=1, max_value=most)]
    found = [gxe.ExpectColumnMaxToBeBetween(column=view.ROW_NON_FINITE, max_value=0)]
    if expect.value_min is not None:
        found.append(gxe.ExpectColumnMinToBeBetween(column=view.ROW_MIN, min_value=expect.value_min))
    if expect.value_max is not None:
        found.append(gxe.ExpectColumnMaxToBeBetween(column=view.ROW_MAX, max_value=expect.value_max))
    return found


def _of_the_columns(table: RawTable, expect: Expectations) -> list[Expectation]:
    """Expect few nulls in every column of a tabular source."""
    gxe = _great_expectations().expectations
    columns = [] if table.frame is None else list(table.frame.columns)
    return [gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=1 - expect.max_null_share) for column in columns]


def _of_the_classes(table: RawTable, expect: Expectations) -> list[Expectation]:
    gxe = _great_expectations().expectations
    return [
        gxe.ExpectColumnDistinctValuesToEqualSet(column=view.ROW_LABEL, value_set=list(table.class_names)),
        gxe.ExpectColumnMinToBeBetween(column=view.ROW_CLASS_SHARE, min_value=expect.min_class_share),
    ]


def _of_the_targets(expect: Expectations) -> list[Expectation]:
    gxe = _great_expectations().expectations
    found = [gxe.ExpectColumnValuesToBeInTypeList(column=view.ROW_TARGET, type_list=["float32", "float64"])]
    if expect.target_min is not None:
        found.append(gxe.ExpectColumnMinToBeBetween(column=view.ROW_TARGET, min_value=expect.target_min))
    if expect.target_max is not None:
        found.append(gxe.ExpectColumnMaxToBeBetween(column=view.ROW_TARGET, max_value=expect.target_max))
    return found


def _run(
    context: AbstractDataContext, name: str, suite: ExpectationSuite, rows: pd.DataFrame
) -> list[ExpectationValidationResult]:
    """Validate `rows` and render the outcome into Data Docs."""
    gx = _great_expectations()
    asset = context.data_sources.add_or_update_pandas(_DATASOURCE).add_dataframe_asset(name)
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(
            name=name,
            data=asset.add_batch_definition_whole_dataframe("all-rows"),
            suite=context.suites.add_or_update(suite),
        )
    )
    checkpoint = context.checkpoints.add_or_update(
        gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name=_SITE, site_names=[_SITE])],
            result_format="SUMMARY",
        )
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": rows})
    (result,) = outcome.run_results.values()
    return list(result.results)


def _context(settings: Settings) -> AbstractDataContext:
    """Open the file context below HOME, with one Data Docs site among the reports."""
    gx = _great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context: AbstractDataContext = gx.get_context(mode="file", project_root_dir=settings.home / "expectations")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.variables.save()
    for other in [site for site in context.list_data_docs_sites() if site != _SITE]:
        context.delete_data_docs_site(other)
    site: Any = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(settings.reports_root / _SITE),
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    if _SITE in context.list_data_docs_sites():
        context.update_data_docs_site(_SITE, site)
    else:
        context.add_data_docs_site(_SITE, site)
    return context


def _described(result: ExpectationValidationResult) -> str:
    """Say in one line what was expected and what was observed."""
    config = result.expectation_config
    assert config is not None
    expected = {key: value for key, value in config.kwargs.items() if key != "batch_id"}
    return f"{config.type}: expected {_listed(expected)}; observed {_observed(result)}"


def _observed(result: ExpectationValidationResult) -> str:
    found: dict[str, Any] = result.result or {}
    shown = {
        key: found[key]
        for key in (
            "observed_value",
            "unexpected_percent",
            "partial_missing_list",
            "partial_unexpected_list",
            "details",
        )
        if found.get(key) is not None and not (isinstance(found[key], list) and not found[key])
    }
    if not shown:
        failures = [str(info["exception_message"]) for info in _exceptions(result) if info.get("exception_message")]
        return "; ".join(failures) or "nothing"
    return _listed(shown)[:_MAX_OBSERVED_CHARS]


def _exceptions(result: ExpectationValidationResult) -> list[dict[str, Any]]:
    """Return what was raised: Great Expectations nests it by metric where several failed."""
    info: dict[str, Any] = result.exception_info or {}
    return [info] if "exception_message" in info else [entry for entry in info.values() if isinstance(entry, dict)]


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {getattr(value, 'item', lambda value=value: value)()}" for key, value in values.items())


@contextmanager
def _writing(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfrastructureError(
            f"cannot write the expectations below {settings.home} or the Data Docs below {settings.reports_root}: "
            f"{error.strerror or error}; free space there, or set STILLHOUSE_HOME and STILLHOUSE_REPORTS"
        ) from error


def _great_expectations() -> Any:
    """Import Great Expectations, which takes seconds, without its telemetry."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations
    import great_expectations.expectations

    return great_expectations
