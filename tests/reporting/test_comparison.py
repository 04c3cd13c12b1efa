"""Which figures stand beside each other, and on which split."""

from dossiers import CHAINS, FAIL, Chain, Made, make_dossier

from tasks.reporting.comparison import compare
from tasks.reporting.pareto_points import pareto_points
from tasks.reporting.waterfall import make_waterfalls


def rows(comparison):
    return {
        (group.title, row.label): [cell.text for cell in row.cells] for group in comparison.groups for row in group.rows
    }


def test_compare_puts_the_chosen_one_beside_the_baseline_and_eager_torch_last():
    names = [column.name for column in compare(make_dossier()).columns]
    assert names == ["baseline", "student-pruned-int8", "student-int8", "eager torch"]


def test_compare_shows_quality_on_test_and_on_validation():
    table = {
        key: [text.replace("\u00a0", " ") for text in cells] for key, cells in rows(compare(make_dossier())).items()
    }
    assert table["Quality on 540 test rows", "accuracy"] == ["98.46 %", "97.82 %", "97.19 %", "\u2014"]
    assert table["Quality on 251 validation rows", "accuracy"] == ["98.95 %", "98.31 %", "97.68 %", "\u2014"]


def test_compare_marks_the_best_candidate_by_the_direction_of_the_figure():
    groups = {group.title: {row.label: row.cells for row in group.rows} for group in compare(make_dossier()).groups}
    best = {
        label: [cell.best for cell in groups[title][label]]
        for title, label in (("Size", "at rest"), ("Running", "throughput"), ("Running", "nodes in int8"))
    }
    assert best["at rest"] == best["throughput"] == [False, False, True, False]
    assert best["nodes in int8"] == [False, True, False, False]


def test_compare_leaves_out_chains_that_did_not_finish():
    halfway = Chain("half", CHAINS[1].stages[:2], verdict=FAIL, failure="no")
    assert "half" not in [column.name for column in compare(make_dossier(chains=(CHAINS[1], halfway))).columns]


def test_pareto_points_are_on_validation_as_the_front_is():
    points = {point.name: point.quality for point in pareto_points(make_dossier())}
    assert points == {"baseline": 0.9895, "student-int8": 0.9768, "student-pruned-int8": 0.9831}


def test_make_waterfalls_is_on_validation_at_every_stage():
    texts = [
        [step.quality.text.replace("\u00a0", " ") for step in one.steps] for one in make_waterfalls(make_dossier())
    ]
    assert texts[1] == ["98.95 %", "98.73 %", "98.52 %", "98.31 %"]


def test_make_waterfalls_fills_the_bars_by_the_largest_of_all_candidates():
    large = Chain("large", (Made("distill_response", 0.99, 5_569_626, 0.2),))
    first, _ = make_waterfalls(make_dossier(chains=(CHAINS[1], large), chosen=None))
    assert 'width="50" height="6" class="bar-fill"' in first.steps[0].size.bar
