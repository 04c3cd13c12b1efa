import numpy as np
import pytest

from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import ServingTrial
from tasks.contracts.verdict import Verdict
from tasks.decisions.gate_policy import Constraints, GatePolicy
from tasks.decisions.gates import Evidence, Question, judge, verdict_of
from tasks.decisions.noninferiority import right_rows

NUM_ROWS = 3000
LABELS = np.arange(NUM_ROWS) % 3
NAMES = ("cat", "dog", "owl")


def answers(wrong: int, *, first: int = 0) -> np.ndarray:
    """Logits [N, 3] that are right but for `wrong` rows from `first` on."""
    predicted = LABELS.copy()
    predicted[first : first + wrong] = (predicted[first : first + wrong] + 1) % 3
    return 5.0 * np.eye(3, dtype=np.float32)[predicted]


def evidence(**changes):
    """The arguments of `judge`; a change names a field of the question, or one of the evidence by whose it is."""
    base = np.random.default_rng(0).lognormal(0.0, 0.1, 300)
    question = {
        "task": "classification",
        "class_names": NAMES,
        "labels": LABELS,
        "constraints": Constraints(max_size_ratio=0.05, max_latency_ratio=0.5, max_memory_bytes=6_000_000),
        "policy": GatePolicy(
            bootstrap_resamples=400, checks={"robustness": "skip", "servability": "skip", "test_reuse": "skip"}
        ),
        "num_candidates": 1,
    }
    ours = {"outputs": answers(31), "latency_ms": 0.4 * base, "size_bytes": 40_000, "memory_bytes": 5_000_000}
    theirs = {"outputs": answers(30), "latency_ms": base, "size_bytes": 1_000_000}
    for name, value in changes.items():
        whose, _, rest = name.partition("_")
        {"candidate": ours, "baseline": theirs}.get(whose, question)[
            rest if whose in ("candidate", "baseline") else name
        ] = value
    return Question(**question), Evidence(**ours), Evidence(**theirs)


def checks_of(**changes):
    return {check.name: check for check in judge(*evidence(**changes))}


def test_judge_passes_a_good_candidate_and_names_every_check():
    checks = judge(*evidence())
    assert verdict_of(checks) is Verdict.PASS
    assert [check.name for check in checks if check.blocking] == ["accuracy", "size", "memory", "latency_p50"]
    reported = [check.name for check in checks if not check.blocking]
    assert reported == [
        "mcnemar",
        "flips",
        "calibration",
        "brier",
        "class:cat",
        "class:dog",
        "class:owl",
        "latency_p95",
    ]


def test_judge_blocks_a_candidate_that_is_worse_than_the_champion_though_it_is_as_good_as_the_baseline():
    assert checks_of(champion=answers(30))["champion"].verdict is Verdict.PASS

    checks = judge(*evidence(champion=answers(0), candidate_outputs=answers(130), baseline_outputs=answers(130)))

    champion = next(check for check in checks if check.name == "champion")
    assert (champion.verdict, champion.blocking) == (Verdict.FAIL, True)
    assert champion.estimate == pytest.approx(-130 / NUM_ROWS)
    assert champion.detail.startswith("accuracy against the champion's; 130 rows lost, 0 won")
    assert next(check for check in checks if check.name == "accuracy").verdict is Verdict.PASS
    assert verdict_of(checks) is Verdict.FAIL


def test_judge_holds_a_regression_against_the_champions_rmse():
    targets = np.random.default_rng(0).normal(size=NUM_ROWS)
    noise = np.random.default_rng(1).normal(size=NUM_ROWS)
    outputs = {scale: (targets + scale * noise).astype(np.float32)[:, None] for scale in (0.5, 1.0)}
    known = {
        "task": "regression",
        "labels": targets,
        "baseline_outputs": outputs[1.0],
        "candidate_outputs": outputs[1.0],
    }

    champion = checks_of(champion=outputs[0.5], **known)["champion"]

    assert champion.verdict is Verdict.FAIL
    assert champion.estimate == pytest.approx(1.0, abs=0.01), "twice the champion's error"
    assert checks_of(champion=outputs[1.0], **known)["champion"].verdict is Verdict.PASS


def test_judge_refuses_a_champion_that_was_evaluated_on_other_rows():
    with pytest.raises(DataError, match="the champion has 2999 outputs for 3000 test rows"):
        checks_of(champion=answers(0)[1:])


def test_judge_reports_the_paired_difference_and_the_bound_that_decided():
    accuracy = checks_of()["accuracy"]
    assert accuracy.estimate == pytest.approx(-1 / NUM_ROWS)
    assert -0.01 < accuracy.bound < accuracy.estimate
    assert (accuracy.margin, accuracy.num_rows) == (0.01, NUM_ROWS)
    failing = checks_of(candidate_outputs=answers(200))["accuracy"]
    assert failing.verdict is Verdict.FAIL
    assert failing.estimate < failing.bound < -0.01


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"candidate_outputs": answers(200)}, "accuracy"),
        ({"candidate_size_bytes": 50_001}, "size"),
        ({"candidate_memory_bytes": 6_000_001}, "memory"),
        ({"candidate_latency_ms": np.ones(300), "baseline_latency_ms": np.ones(300)}, "latency_p50"),
    ],
)
def test_judge_fails_a_candidate_when_one_blocking_check_does(changes, name):
    checks = judge(*evidence(**changes))
    assert {check.name for check in checks if check.blocking and check.verdict is Verdict.FAIL} == {name}
    assert verdict_of(checks) is Verdict.FAIL


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"candidate_latency_ms": np.empty(0)}, "latency_p50"),
        ({"candidate_memory_bytes": None}, "memory"),
        (
            {"labels": LABELS[:0], "candidate_outputs": answers(0)[:0], "baseline_outputs": answers(0)[:0]},
            "accuracy",
        ),
        (
            {"labels": LABELS[:60], "candidate_outputs": answers(0)[:60], "baseline_outputs": answers(0)[:60]},
            "accuracy",
        ),
    ],
)
def test_judge_is_inconclusive_when_evidence_is_missing(changes, name):
    checks = judge(*evidence(**changes))
    assert {check.name: check.verdict for check in checks}[name] is Verdict.INCONCLUSIVE
    assert verdict_of(checks) is Verdict.INCONCLUSIVE


def test_judge_says_how_many_rows_would_settle_it():
    few = {"labels": LABELS[:300], "candidate_outputs": answers(3)[:300], "baseline_outputs": answers(3, first=3)[:300]}
    accuracy = checks_of(**few)["accuracy"]
    assert accuracy.verdict is Verdict.INCONCLUSIVE
    assert 300 < accuracy.num_rows_needed < 3000


def test_judge_takes_the_stricter_of_two_size_limits():
    limits = Constraints(max_size_ratio=0.05, max_size_bytes=39_999)
    size = checks_of(constraints=limits)["size"]
    assert (size.verdict, size.margin, size.estimate) == (Verdict.FAIL, 39_999, 40_000)


def test_judge_checks_only_what_is_constrained():
    names = {check.name for check in judge(*evidence(constraints=Constraints())) if check.blocking}
    assert names == {"accuracy"}


def test_judge_holds_more_candidates_to_a_smaller_alpha():
    alone, among_ten = (checks_of(num_candidates=num)["accuracy"] for num in (1, 10))
    assert among_ten.bound < alone.bound
    assert among_ten.estimate == alone.estimate


def test_judge_counts_rows_with_outputs_that_are_not_finite_as_wrong():
    outputs = answers(0)
    outputs[:300, 0] = np.nan
    checks = checks_of(candidate_outputs=outputs)
    assert checks["accuracy"].estimate == pytest.approx((30 - 300) / NUM_ROWS)
    assert checks["accuracy"].verdict is Verdict.FAIL
    assert right_rows(outputs, LABELS).sum() == NUM_ROWS - 300


def test_judge_reports_flips_and_the_class_that_was_given_up_without_blocking():
    outputs = answers(0)
    owls = np.flatnonzero(LABELS == 2)[:200]
    outputs[owls] = 5.0 * np.eye(3, dtype=np.float32)[0]
    checks = checks_of(candidate_outputs=outputs, constraints=Constraints(max_accuracy_drop=0.2))
    assert checks["class:owl"].verdict is Verdict.FAIL
    assert checks["class:cat"].verdict is Verdict.PASS
    assert checks["flips"].estimate == pytest.approx((200 - 10 + 20) / NUM_ROWS)  # 10 flipped in the baseline already
    assert checks["flips"].verdict is Verdict.FAIL
    assert checks["mcnemar"].verdict is Verdict.FAIL
    assert verdict_of(tuple(checks.values())) is Verdict.PASS


def test_judge_reports_overconfidence():
    checks = checks_of(baseline_outputs=answers(200) / 2, candidate_outputs=10 * answers(200))
    assert checks["calibration"].estimate > 0.02
    assert checks["calibration"].verdict is Verdict.FAIL


def test_judge_refuses_outputs_of_other_rows():
    with pytest.raises(DataError, match="the baseline has 2999 outputs for 3000 test rows"):
        judge(*evidence(baseline_outputs=answers(30)[1:]))


def regression(candidate_noise: float, **changes):
    generator = np.random.default_rng(1)
    targets = generator.standard_normal(2000)
    noise = generator.standard_normal((2000, 1))
    outputs = {
        "candidate_outputs": (targets[:, None] + candidate_noise * noise).astype(np.float32),
        "baseline_outputs": (targets[:, None] + noise).astype(np.float32),
    }
    shared = {"task": "regression", "class_names": (), "labels": targets.astype(np.float32)}
    return evidence(**(shared | outputs | {"constraints": Constraints()} | changes))


def test_judge_tests_the_mae_where_it_is_limited():
    checks = {check.name: check for check in judge(*regression(1.2, constraints=Constraints(max_mae_increase=0.1)))}
    assert checks["mae"].estimate == pytest.approx(0.2, abs=1e-3)
    assert checks["mae"].verdict is Verdict.FAIL


@pytest.mark.parametrize(("noise", "verdict"), [(1.01, Verdict.PASS), (1.2, Verdict.FAIL)])
def test_judge_tests_the_rmse_for_regression(noise, verdict):
    (check,) = judge(*regression(noise))
    assert (check.name, check.verdict) == ("rmse", verdict)
    assert check.estimate == pytest.approx(noise - 1, abs=1e-3)


def test_judge_fails_a_regression_candidate_when_an_output_is_not_finite():
    broken = np.full((2000, 1), np.inf, dtype=np.float32)
    (check,) = judge(*regression(1.0, candidate_outputs=broken))
    assert check.verdict is Verdict.FAIL
    assert "2000 of the candidate's outputs are not finite" in check.detail


def test_judge_is_inconclusive_for_regression_when_the_baseline_is_not_finite():
    broken = np.full((2000, 1), np.nan, dtype=np.float32)
    (check,) = judge(*regression(1.0, baseline_outputs=broken))
    assert check.verdict is Verdict.INCONCLUSIVE


def test_judge_says_how_often_the_test_split_was_used_and_blocks_when_the_plan_wants_it():
    policy = GatePolicy(bootstrap_resamples=400, checks={"robustness": "skip", "servability": "skip"}, max_test_uses=3)
    worn = {check.name: check for check in judge(*evidence(policy=policy, look=4))}["test_reuse"]
    assert (worn.verdict, worn.estimate, worn.margin, worn.blocking) == (Verdict.FAIL, 4, 3, False)
    assert "at most 20.0%" in worn.detail
    blocking = policy.model_copy(
        update={"checks": {"robustness": "skip", "servability": "skip", "test_reuse": "block"}}
    )
    assert verdict_of(judge(*evidence(policy=blocking, look=4))) is Verdict.FAIL
    assert verdict_of(judge(*evidence(policy=blocking, look=3))) is Verdict.PASS


def trial(**changes) -> ServingTrial:
    return ServingTrial(model="c" * 64, **({"num_requests": 65, "max_relative_difference": 1e-6} | changes))


@pytest.mark.parametrize(
    ("serving", "verdict", "told"),
    [
        (trial(), Verdict.PASS, "65 requests answered"),
        (trial(max_relative_difference=0.01), Verdict.FAIL, "1.000% of the outputs' range off"),
        (trial(failures={"HTTP 500": 2, "timeout": 1}), Verdict.FAIL, "3 of 65 requests were not answered: HTTP 500"),
        (trial(num_requests=0, refusal="no such operator"), Verdict.FAIL, "does not serve it: no such operator"),
        (None, Verdict.INCONCLUSIVE, "not tried"),
    ],
)
def test_judge_asks_whether_production_can_serve_the_file(serving, verdict, told):
    policy = GatePolicy(bootstrap_resamples=400, checks={"robustness": "skip"})
    checks = judge(*evidence(policy=policy, candidate_serving=serving))
    (check,) = [check for check in checks if check.name == "servability"]
    assert (check.verdict, check.blocking) == (verdict, True)
    assert told in check.detail
    assert verdict_of(checks) is verdict


def test_judge_lets_the_plan_say_what_blocks_and_what_is_not_asked():
    policy = GatePolicy(
        bootstrap_resamples=400,
        checks={
            "robustness": "skip",
            "servability": "skip",
            "flips": "block",
            "size": "warn",
            "classes": "skip",
            "latency": "skip",
        },
    )
    checks = judge(*evidence(policy=policy))
    assert [check.name for check in checks if check.blocking] == ["accuracy", "flips", "memory"]
    assert [check.name for check in checks if not check.blocking] == [
        "mcnemar", "calibration", "brier", "size", "test_reuse",
    ]  # fmt: skip


def test_judge_holds_macro_f1_cold_start_and_int8_coverage_against_their_limits():
    limits = Constraints(max_macro_f1_drop=0.02, max_cold_start_ms=5.0, min_int8_coverage=0.9)
    known = {"candidate_cold_start_ms": 4.0, "candidate_int8_coverage": 0.95}
    good = checks_of(constraints=limits, **known)
    names = ("macro_f1", "cold_start", "int8_coverage")
    assert [good[name].verdict for name in names] == [Verdict.PASS] * 3
    assert good["macro_f1"].estimate == pytest.approx(-1 / NUM_ROWS, rel=0.1)
    assert -0.02 < good["macro_f1"].bound < good["macro_f1"].estimate
    bad = checks_of(
        constraints=limits,
        candidate_outputs=answers(200),
        candidate_cold_start_ms=5.1,
        candidate_int8_coverage=0.89,
    )
    assert [bad[name].verdict for name in names] == [Verdict.FAIL] * 3
    assert [checks_of(constraints=limits)[name].verdict for name in names[1:]] == [Verdict.INCONCLUSIVE] * 2


def test_verdict_of_is_inconclusive_when_nothing_blocks():
    assert verdict_of(()) is Verdict.INCONCLUSIVE
