"""The record of a run is a promise to its readers: exactly these keys, at every level."""

import json
from typing import Any

import pytest

from flows.candidates import Baseline, Candidate, Stage
from flows.judging import choose_candidate
from flows.outcome import Judged, Outcome, make_dossier, models_to_time, primary_metric
from flows.plan import parse_plan
from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.data import LABELLED_SPLIT_NAMES, DatasetRef, SplitRef
from tasks.contracts.evaluation import LatencyQuantiles, Machine, Quality, Timing, TimingTable
from tasks.contracts.model import ModelRef, StageResult
from tasks.contracts.run import RegisteredSummary, RolloutStep, RolloutSummary, RunDossier, RunRecord
from tasks.contracts.value import sha256_hex
from tasks.contracts.verdict import Check, GateReport, StoredGateReport, Verdict

MODEL = {"digest", "format", "size_bytes"}
EVALUATION = {
    "split", "num_rows", "metrics", "per_class", "num_parameters", "flops", "size_bytes", "size_zip_bytes",
    "latency_ms", "throughput_per_s", "peak_memory_bytes", "cold_start_ms", "int8_coverage", "zero_share", "ece",
    "flip_rate",
}  # fmt: skip
RECORD = {
    "schema", "run_id", "plan", "dataset", "baseline", "candidates", "chosen", "registered", "rollout", "report",
}  # fmt: skip
SPLITS = dict(zip(LABELLED_SPLIT_NAMES, (40, 10, 20, 30), strict=True))


def digest(text: str) -> str:
    return sha256_hex(text.encode())


def made(name: str, kind: str, *, onnx: bool = False) -> StageResult:
    model = ModelRef(digest=digest(name), format="onnx" if onnx else "torch", size_bytes=len(name))
    return StageResult(stage_key=digest(f"key {name}"), kind=kind, model=model, seconds=1.5)


def quality(stage: StageResult, accuracy: float, split: Any = "validation") -> Quality:
    return Quality(
        model=stage.model.digest, split=split, num_rows=SPLITS[split], metrics={"accuracy": accuracy, "log_loss": 0.1},
        per_class={"a": accuracy, "b": accuracy}, num_parameters=10, flops=20, size_bytes=stage.model.size_bytes,
        size_zip_bytes=5, int8_coverage=0.5, ece=0.01, flip_rate=0.02,
        predictions=ArtifactRef(digest=digest("predictions"), size_bytes=3),
    )  # fmt: skip


def stage(name: str, kind: str, accuracy: float, *, onnx: bool = False, cached: bool = False) -> Stage:
    result = made(name, kind, onnx=onnx)
    deployed = result if onnx else made(f"{name} exported", "export", onnx=True)
    return Stage(result, deployed, quality(deployed, accuracy), cached)


def gate(candidate: str, verdict: Verdict) -> StoredGateReport:
    check = Check(
        name="accuracy", verdict=verdict, estimate=-0.01, bound=-0.02, margin=0.03, num_rows=30, num_rows_needed=99
    )
    report = GateReport(
        model_name="toy", candidate_name=candidate, candidate=digest("c"), baseline=digest("b"), dataset=digest("d"),
        plan=digest("p"), verdict=verdict, checks=(check,), alpha=0.05, created_at="now",
    )  # fmt: skip
    return StoredGateReport(report=report, artifact=ArtifactRef(digest=digest(candidate), size_bytes=1))


DATA = DatasetRef(
    name="toys", task="classification", revision="r1", input_shape=(4,), class_names=("a", "b"),
    splits={
        name: SplitRef(digest=digest(name), size_bytes=9, num_rows=num, composition={}) for name, num in SPLITS.items()
    },
)  # fmt: skip
PLAN = parse_plan(
    {
        "name": "toy",
        "dataset": {"source": "digits"},
        "baseline": {"train": {"model": {"factory": "tasks.models.mlp:mlp"}}},
        "candidates": {"good": [{"kind": "distill_response"}, {"kind": "quantize_static"}],
                       "broken": [{"kind": "distill_response"}, {"kind": "quantize_static"}]},
    },
    "test",
)  # fmt: skip

STUDENT = stage("student", "distill_response", 0.95, cached=True)
GOOD = Candidate("good", (STUDENT, stage("int8", "quantize_static", 0.94, onnx=True)), None)
BROKEN = Candidate("broken", (stage("other student", "distill_response", 0.9),), "TechniqueError: it diverged")


def timing(p50: float) -> Timing:
    quantiles = LatencyQuantiles(p50=p50, p95=2 * p50, p99=3 * p50)
    return Timing(
        latency_ms={"1": quantiles, "8": quantiles, "32": quantiles}, throughput_per_s=100.0, peak_memory_bytes=1000,
        cold_start_ms=5.0, samples=ArtifactRef(digest=digest("samples"), size_bytes=1),
    )  # fmt: skip


@pytest.fixture
def baseline() -> Baseline:
    torch, deployed = made("teacher", "train"), made("teacher exported", "export", onnx=True)
    return Baseline(torch, deployed, quality(deployed, 0.97), cached=False)


@pytest.fixture
def timings(baseline: Baseline) -> TimingTable:
    machine = Machine(processor="p", num_cpus=2, memory_bytes=1, system="s", provider="CPU", versions={})
    models = models_to_time(baseline, [GOOD, BROKEN])
    return TimingTable(machine=machine, models={model.digest: timing(1.0 + n) for n, model in enumerate(models)})


@pytest.fixture
def judged() -> tuple[Judged, ...]:
    tested = quality(GOOD.deployed, 0.93, "test")
    return Judged(GOOD, gate("good", Verdict.PASS), tested, pareto=True), Judged(BROKEN, None, None, pareto=False)


@pytest.fixture
def dossier(baseline: Baseline, timings: TimingTable, judged: tuple[Judged, ...]) -> RunDossier:
    return make_dossier(
        Outcome(
            run_id="run-1", started_at="2026-01-01T00:00:00+00:00", finished_at="2026-01-01T00:01:00+00:00",
            plan=PLAN, data=DATA, baseline=baseline, baseline_moved=None,
            baseline_tested=quality(baseline.deployed, 0.96, "test"), judged=judged, chosen="good", timings=timings,
            lineage={"stillhouse.plan": PLAN.value_digest()}, report="/reports/run-1.html",
        )
    )  # fmt: skip


@pytest.fixture
def document(dossier: RunDossier) -> dict[str, Any]:
    """The record as `stillhouse run --json` writes it at the end of a delivery."""
    delivered = dossier.with_record(
        registered=RegisteredSummary(name="toy", version=2, aliases=("champion",)),
        rollout=RolloutSummary(verdict="promote", steps=(RolloutStep(weight=5.0, verdict="advance"),)),
    )
    return json.loads(delivered.record.model_dump_json())


def assert_evaluation(evaluation: dict[str, Any]) -> None:
    assert set(evaluation) == EVALUATION
    assert set(evaluation["latency_ms"]) == {"1", "8", "32"}
    assert all(set(quantiles) == {"p50", "p95", "p99"} for quantiles in evaluation["latency_ms"].values())


def test_record_has_exactly_the_promised_keys_at_every_level(document: dict[str, Any]) -> None:
    assert set(document) == RECORD
    assert document["schema"] == "stillhouse.run/1"
    assert set(document["plan"]) == {"name", "digest"}
    assert set(document["dataset"]) == {"name", "digest", "revision", "splits"}
    assert document["dataset"]["splits"] == SPLITS
    assert set(document["baseline"]) == {"model", "evaluation"}
    assert set(document["baseline"]["model"]) == MODEL
    assert_evaluation(document["baseline"]["evaluation"])
    for candidate in document["candidates"]:
        assert set(candidate) == {"name", "stages", "gate", "pareto"}
        assert set(candidate["gate"]) == {"verdict", "checks"}
        for check in candidate["gate"]["checks"]:
            assert set(check) == {"name", "verdict", "estimate", "bound", "margin", "num_rows"}
        for one in candidate["stages"]:
            assert set(one) == {"kind", "cached", "seconds", "model", "evaluation", "host"}
            assert set(one["model"]) == MODEL
            assert_evaluation(one["evaluation"])
    assert set(document["registered"]) == {"name", "version", "aliases"}
    assert set(document["rollout"]) == {"verdict", "steps"}
    assert [set(step) for step in document["rollout"]["steps"]] == [{"weight", "verdict"}]


def test_record_shows_what_was_judged_on_test_and_the_way_there_on_validation(document: dict[str, Any]) -> None:
    base, good = document["baseline"]["evaluation"], document["candidates"][0]

    assert (base["split"], base["num_rows"], base["metrics"]["accuracy"]) == ("test", 30, 0.96)
    shown = [(one["evaluation"]["split"], one["evaluation"]["metrics"]["accuracy"]) for one in good["stages"]]
    assert shown == [("validation", 0.95), ("test", 0.93)]
    assert [one["cached"] for one in good["stages"]] == [True, False]
    assert good["stages"][-1]["model"] == {"digest": digest("int8"), "format": "onnx", "size_bytes": 4}
    assert good["pareto"] is True


def test_record_represents_a_chain_that_failed_by_the_stages_it_made_and_a_failed_gate(
    dossier: RunDossier, document: dict[str, Any]
) -> None:
    broken = document["candidates"][1]

    assert [(one["kind"], one["evaluation"]["split"]) for one in broken["stages"]] == [
        ("distill_response", "validation")
    ]
    assert broken["gate"] == {
        "verdict": "FAIL",
        "checks": [
            {"name": "completed", "verdict": "FAIL", "estimate": None, "bound": None, "margin": None, "num_rows": 0}
        ],
    }
    assert dossier.candidates["broken"].failure == "TechniqueError: it diverged"
    assert dossier.candidates["broken"].gate is None


def test_record_and_dossier_are_read_back_as_they_were_written(dossier: RunDossier) -> None:
    assert RunDossier.model_validate_json(dossier.canonical_json()) == dossier
    assert RunRecord.model_validate_json(dossier.record.model_dump_json()) == dossier.record


def test_record_says_nothing_of_registry_and_rollout_before_they_were_reached(dossier: RunDossier) -> None:
    assert (dossier.record.registered, dossier.record.rollout) == (None, None)


def test_models_to_time_has_every_deployable_model_once_and_the_eager_baseline(baseline: Baseline) -> None:
    digests = [model.digest for model in models_to_time(baseline, [GOOD, GOOD, BROKEN])]

    names = ("teacher", "teacher exported", "student exported", "int8", "other student exported")
    assert digests == [digest(name) for name in names]


def test_choose_candidate_takes_only_what_passed_the_gate(timings: TimingTable, judged: tuple[Judged, ...]) -> None:
    assert choose_candidate(judged, DATA, timings, "smallest") == "good"
    failed = [Judged(GOOD, gate("good", verdict), judged[0].tested, True) for verdict in ("FAIL", "INCONCLUSIVE")]
    assert choose_candidate(failed, DATA, timings, "smallest") is None


def test_choose_candidate_follows_the_preference_when_several_passed(baseline: Baseline) -> None:
    stages = {
        "small": stage("s", "quantize_static", 0.90, onnx=True),
        "fast": stage("fast", "quantize_static", 0.91, onnx=True),
        "exact": stage("exactest", "quantize_static", 0.99, onnx=True),
    }
    candidates = [Candidate(name, (one,), None) for name, one in stages.items()]
    p50 = {"small": 3.0, "fast": 1.0, "exact": 2.0}
    machine = Machine(processor="p", num_cpus=2, memory_bytes=1, system="s", provider="CPU", versions={})
    table = TimingTable(
        machine=machine, models={one.deployed.model.digest: timing(p50[name]) for name, one in stages.items()}
    )
    judged = [Judged(one, gate(one.name, Verdict.PASS), one.quality, True) for one in candidates]

    chosen = {wish: choose_candidate(judged, DATA, table, wish) for wish in ("smallest", "fastest", "most_accurate")}
    assert chosen == {"smallest": "small", "fastest": "fast", "most_accurate": "exact"}


def test_primary_metric_is_the_tasks() -> None:
    assert primary_metric(DATA) == "accuracy"
    assert primary_metric(DATA.model_copy(update={"task": "regression"})) == "rmse"
