import io
import json
import math

import numpy as np
import pytest

from tasks.contracts.errors import ArtifactMissingError, DataError
from tasks.contracts.evaluation import LatencyQuantiles, Measured, Quality, Robustness, Timing
from tasks.contracts.verdict import GateReport, Verdict
from tasks.decisions.gate_policy import Constraints, GatePolicy
from tasks.evaluation.predictions import pack_outputs
from tasks.stages.gating import judge_candidate

NAMES = ("ant", "bee", "cat")
LABELS = np.arange(1500) % 3


@pytest.fixture
def data(store_dataset):
    return store_dataset(np.zeros((1500, 2), dtype=np.float32), LABELS, "classification", NAMES)


@pytest.fixture
def quality_of(services):
    def make(model: str, num_wrong: int, size_bytes: int, split: str = "test") -> Quality:
        predicted = LABELS.copy()
        predicted[:num_wrong] = (predicted[:num_wrong] + 1) % 3
        return Quality(
            model=model * 64,
            split=split,
            num_rows=1500,
            metrics={},
            per_class={},
            num_parameters=1,
            flops=1,
            size_bytes=size_bytes,
            size_zip_bytes=1,
            int8_coverage=1.0,
            ece=None,
            flip_rate=None,
            predictions=services.artifacts.put(pack_outputs(5 * np.eye(3, dtype=np.float32)[predicted])),
        )

    return make


@pytest.fixture
def timing_of(services):
    def make(speed: float, name: str = "batch_1") -> Timing:
        buffer = io.BytesIO()
        np.savez(buffer, **{name: speed * np.random.default_rng(0).lognormal(0, 0.1, 300)})
        return Timing(
            latency_ms={"1": LatencyQuantiles(p50=1, p95=1, p99=1)},
            throughput_per_s=1,
            peak_memory_bytes=1000,
            cold_start_ms=1,
            samples=services.artifacts.put(buffer.getvalue()),
        )

    return make


@pytest.fixture
def arguments(data, quality_of, timing_of):
    return {
        "candidate_name": "small",
        "candidate": Measured(quality=quality_of("c", 16, 4_000), timing=timing_of(0.3)),
        "baseline": Measured(quality=quality_of("b", 15, 100_000), timing=timing_of(1.0)),
        "data": data,
        "constraints": Constraints(max_accuracy_drop=0.02, max_size_ratio=0.05, max_latency_ratio=0.5),
        "policy": GatePolicy(bootstrap_resamples=300, checks={"robustness": "skip", "servability": "skip"}),
        "num_candidates": 2,
        "look": 1,
        "model_name": "rows",
        "plan_digest": "d" * 64,
        "created_at": "2026-01-01T00:00:00Z",
    }


def with_candidate(arguments, **changes):
    return arguments | {"candidate": arguments["candidate"].model_copy(update=changes)}


def test_judge_candidate_stores_the_report_under_its_own_digest(services, arguments, data):
    stored = judge_candidate(**arguments)
    blob = services.artifacts.get(stored.artifact.digest)
    assert GateReport.model_validate(json.loads(blob)) == stored.report
    assert stored.artifact.digest == stored.report.value_digest()
    report = stored.report
    assert (report.verdict, report.alpha) == (Verdict.PASS, 0.025)
    assert (report.candidate, report.baseline, report.dataset) == ("c" * 64, "b" * 64, data.digest)
    assert report.checks[0].estimate == pytest.approx(-1 / 1500)


def test_judge_candidate_gives_equal_reports_for_equal_evidence(arguments):
    assert judge_candidate(**arguments).artifact == judge_candidate(**arguments).artifact


def test_judge_candidate_fails_a_candidate_that_lost_too_much(arguments, quality_of):
    report = judge_candidate(**with_candidate(arguments, quality=quality_of("c", 200, 4_000))).report
    assert report.verdict is Verdict.FAIL


def test_judge_candidate_is_inconclusive_when_latency_at_batch_1_was_not_measured(arguments, timing_of):
    report = judge_candidate(**with_candidate(arguments, timing=timing_of(0.3, "batch_8"))).report
    assert report.verdict is Verdict.INCONCLUSIVE


def test_judge_candidate_refuses_another_split(arguments, quality_of):
    with pytest.raises(DataError, match="the candidate's evaluation is of 'validation'"):
        judge_candidate(**with_candidate(arguments, quality=quality_of("c", 16, 4_000, "validation")))


def test_judge_candidate_raises_when_the_predictions_are_gone(arguments):
    quality = arguments["candidate"].quality
    lost = quality.predictions.model_copy(update={"digest": "0" * 64})
    with pytest.raises(ArtifactMissingError):
        judge_candidate(**with_candidate(arguments, quality=quality.model_copy(update={"predictions": lost})))


def test_judge_candidate_is_stricter_at_a_later_look_when_the_plan_shares_alpha(arguments):
    arguments["policy"] = arguments["policy"].model_copy(update={"test_reuse": "share"})
    first, tenth = (judge_candidate(**arguments | {"look": number}).report for number in (1, 10))
    assert first.alpha == pytest.approx(0.05 * 6 / math.pi**2 / 2)
    assert tenth.alpha == pytest.approx(first.alpha / 100)
    assert tenth.checks[0].bound < first.checks[0].bound


def test_judge_candidate_holds_corrupted_outputs_against_the_baselines(services, arguments):
    def robustness(num_wrong: int) -> Robustness:
        predicted = LABELS.copy()
        predicted[:num_wrong] = (predicted[:num_wrong] + 1) % 3
        buffer = io.BytesIO()
        np.savez(buffer, contrast=5 * np.eye(3, dtype=np.float32)[predicted])
        return Robustness(
            model="c" * 64, split="test", metrics={}, predictions=services.artifacts.put(buffer.getvalue())
        )

    arguments["policy"] = GatePolicy(bootstrap_resamples=300, checks={"robustness": "block", "servability": "skip"})
    arguments["baseline"] = arguments["baseline"].model_copy(update={"robustness": robustness(115)})
    weak = judge_candidate(**with_candidate(arguments, robustness=robustness(316))).report
    assert weak.verdict is Verdict.FAIL
    (check,) = [check for check in weak.checks if check.name == "robustness:contrast"]
    assert check.estimate == pytest.approx(((316 - 16) - (115 - 15)) / 1500)
    assert judge_candidate(**with_candidate(arguments, robustness=robustness(117))).report.verdict is Verdict.PASS


def test_judge_candidate_holds_a_retrained_candidate_against_the_champion_as_well(arguments, quality_of):
    report = judge_candidate(**arguments | {"champion": quality_of("d", 0, 4_000)}).report
    champion = next(check for check in report.checks if check.name == "champion")
    assert (champion.blocking, champion.estimate) == (True, pytest.approx(-16 / 1500))
    assert "champion" not in [check.name for check in judge_candidate(**arguments).report.checks]

    with pytest.raises(DataError, match="the champion's evaluation is of 'validation'"):
        judge_candidate(**arguments | {"champion": quality_of("d", 0, 4_000, "validation")})
