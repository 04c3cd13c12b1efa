import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT))  # benchmarks are run from the checkout and not installed


def result(name="gateway", *figures):
    from benchmarks.result import Findings, described

    findings = Findings(question="How fast?", setup="One against another.", seeds={"rows": 3}, figures=figures)
    return described(name, findings, 12.34)


def test_ratio_is_the_ratio_of_block_medians_when_single_samples_are_wild() -> None:
    from benchmarks.result import ratio

    slow, fast = [2.0, 2.0, 50.0] * 10, [1.0, 40.0, 1.0] * 10
    made = ratio("slow / fast", slow, fast)
    assert (made.min, made.median, made.max, made.num_repeats, made.unit) == (2.0, 2.0, 2.0, 10, "x")


@pytest.mark.parametrize(("above", "below"), [([1.0] * 10, [1.0] * 11), ([1.0] * 9, [1.0] * 9)])
def test_ratio_refuses_samples_when_they_cannot_be_joined_in_blocks(above: list[float], below: list[float]) -> None:
    from benchmarks.result import ratio

    with pytest.raises(ValueError, match=f"got {len(above)} and {len(below)}"):
        ratio("a / b", above, below)


def test_figure_refuses_an_empty_measurement() -> None:
    from benchmarks.result import figure

    with pytest.raises(ValueError, match="no samples"):
        figure("time", "ms", [])


def test_table_rows_show_spread_only_when_repeated_and_leave_supporting_figures_out() -> None:
    from benchmarks.result import figure
    from benchmarks.table import table_rows

    shown = result(
        "gateway",
        figure("rate: a / b", "x", [0.7512, 0.8, 0.9]),
        figure("sent | all", "requests", [14580]),
        figure("a", "ms", [0.3], supporting=True),
    )
    assert table_rows(shown) == [
        "| gateway | rate: a / b | 0.8x | 0.751 to 0.9, mean 0.817 | 3 |",
        "| gateway | sent \\| all | 14,580 requests |  | 1 |",
    ]


def test_table_rows_name_the_subject_and_leave_out_a_spread_of_none() -> None:
    from benchmarks.result import figure
    from benchmarks.table import table_rows

    shown = result("techniques", figure("size", "bytes", [43600, 43600], subject="int8"))
    assert table_rows(shown) == ["| techniques | int8: size | 43,600 bytes |  | 2 |"]


def test_matrix_has_a_row_for_each_subject_and_leaves_open_what_was_not_measured() -> None:
    from benchmarks.result import figure
    from benchmarks.table import matrix

    assert matrix(
        [
            figure("accuracy", "%", [93.5], subject="baseline"),
            figure("minutes", "", [2], subject="baseline"),
            figure("accuracy", "%", [93.0, 93.1, 93.3], subject="int8"),
            figure("latency, baseline / it", "x", [2.5], subject="int8"),
            figure("minutes", "", [1], subject="int8"),
        ]
    ) == [
        "|  | accuracy | latency, baseline / it | minutes |",
        "| --- | --- | --- | --- |",
        "| baseline | 93.5 % |  | 2 |",
        "| int8 | 93.1 % (93 to 93.3, mean 93.1) | 2.5x | 1 |",
    ]


def test_write_page_has_a_section_for_each_result_of_the_folder(tmp_path: Path) -> None:
    from benchmarks.result import figure
    from benchmarks.table import write_page

    for name in ("stage-cache", "gateway"):
        made = result(name, figure("f", "x", [2.0]))
        (tmp_path / f"{name}.json").write_text(made.model_dump_json())
    write_page(tmp_path)
    lines = (tmp_path / "README.md").read_text().splitlines()
    header = lines.index("| figure | median | min to max | repeats |")
    assert [line for line in lines if line.startswith("## ")] == ["## gateway", "## stage-cache"]
    assert lines[header + 2] == "| f | 2x |  | 1 |"
    described = next(line for line in lines if line.startswith("Measured on"))
    assert "in 12 s. Seeds: rows 3." in described
    assert str(tmp_path) not in "".join(lines)


def test_read_results_names_the_file_when_it_is_not_a_result(tmp_path: Path) -> None:
    from benchmarks.table import read_results
    from tasks.contracts.errors import DataError

    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"other\.json"):
        read_results(tmp_path)


def test_main_refuses_an_unknown_benchmark_and_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit, match="2"):
        main(["gatway"])
    assert "gateway" in capsys.readouterr().err
    assert "benchmarks.gateway" not in sys.modules


def test_readme_shows_the_recorded_results() -> None:
    from benchmarks.table import headline, read_results

    shown = headline(read_results(CHECKOUT / "benchmarks" / "results"))
    assert len(shown) > 2
    assert "\n".join(shown) in (CHECKOUT / "README.md").read_text(), "put these lines there:\n" + "\n".join(shown)


def test_page_shows_the_remark_of_a_run_behind_its_setup() -> None:
    from benchmarks.table import page

    plain = result("gateway")
    remarked = plain.model_copy(update={"remark": "Beside a build."})
    assert "How fast? One against another. Beside a build." in page([remarked])
