import pytest
from dossiers import make_dossier

from tasks.contracts.verdict import Check, Verdict
from tasks.reporting.model_limits import limits_of

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.fixture
def limits():
    dossier = make_dossier()

    def of(*checks, judged=True, **changes):
        evaluation = dossier.record.baseline.evaluation.model_copy(update=changes)
        return limits_of(checks, evaluation, dossier.machine, judged=judged)

    return of


def check(name, verdict=PASS, estimate=0.01, **fields):
    return Check(name=name, verdict=verdict, estimate=estimate, bound=0.02, margin=0.05, num_rows=100, **fields)


def test_limits_say_what_was_not_measured_when_nothing_was(limits):
    said = limits(ece=None)

    assert "Robustness under corrupted rows was not measured." in said
    assert "Calibration was not measured." in said
    assert any("one division of the data" in limit and "not measured" in limit for limit in said)
    assert any("AMD EPYC 7B13 (2 CPUs" in limit for limit in said)


def test_limits_are_silent_on_what_was_measured_and_passed(limits):
    said = limits(
        check("accuracy"), check("class:3"), check("robustness:noise"), check("calibration"), check("cross_validation"),
        check("test_reuse", estimate=1),
    )  # fmt: skip

    assert len(said) == 2  # the machine, and rows of another origin


def test_limits_name_inconclusive_and_failed_classes(limits):
    said = limits(check("class:cat", INCONCLUSIVE), check("class:dog", INCONCLUSIVE), check("class:owl", FAIL))

    assert "Classes that were seen too seldom to rule out a loss of recall beyond the margin (2): cat, dog." in said
    assert "Classes that lost more recall than the margin allows (1): owl." in said


def test_limits_name_ten_classes_and_count_the_others(limits):
    said = limits(*(check(f"class:{number}", INCONCLUSIVE) for number in range(14)))

    assert any("(14): 0, 1, 2" in limit and limit.endswith("8, 9 and 4 more.") for limit in said)


def test_limits_tell_which_corruption_costs_how_much(limits):
    said = limits(
        check("robustness:gaussian_noise", FAIL, estimate=0.123, detail="error rate 0.02 to 0.2"),
        check("robustness:blur"),
    )

    assert (
        "Under gaussian noise it loses +12.30\u00a0points more than the baseline does (FAIL): error rate 0.02 to 0.2."
        in said
    )
    assert not any("blur" in limit for limit in said)


def test_limits_count_robustness_as_not_measured_when_there_were_no_data(limits):
    assert "Robustness under corrupted rows was not measured." in limits(
        check("robustness", INCONCLUSIVE, estimate=None)
    )


def test_limits_tell_of_a_worn_test_split_and_of_unsettled_checks(limits):
    said = limits(
        check("test_reuse", FAIL, estimate=9, detail="look 9 at this test split"),
        check("latency_p95", INCONCLUSIVE, num_rows_needed=1237),
    )

    assert "The test split has judged models before: look 9 at this test split." in said
    assert "The check of latency p95 is INCONCLUSIVE (1,237 rows would settle it)." in said


def test_limits_give_the_calibration_error_where_no_check_held_it_against_the_baseline(limits):
    assert any(limit.startswith("Confidences are off by 1.2\u00a0%") for limit in limits())


def test_limits_leave_out_checks_that_ask_for_nothing(limits):
    mcnemar = check("mcnemar", INCONCLUSIVE).model_copy(update={"margin": None})

    assert not any("McNemar" in limit for limit in limits(mcnemar))
