"""A whole plan as a benchmark: run for several seeds of its candidates, judged on test, figures for each candidate.

The baseline and the split of the data stay those of the plan's own seed, so that all seeds of a candidate are held
against one baseline, whose stage is computed once. Every model of a run is timed interleaved with all others.
"""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.result import RATIO, Figure, Findings, figure
from flows.plan import CompressionPlan, load_plan
from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import Evaluation, Timing
from tasks.contracts.run import CandidateSummary, RunDossier

DATA_VARIABLE = "BENCHMARK_DATA"
"""Folder of the data sets, as `python -m benchmarks --data` hands it on."""

ROOT = Path(__file__).parents[1]
"""The checkout."""
_BASELINE = "baseline"
_MINUTES = "time of its stages"


def measure_plan(
    plan: str,
    data: Path,
    question: str,
    seeds: Sequence[int],
    *,
    gain: tuple[str, str] | None = None,
    test_rows: str = "",
) -> Findings:
    """Run a plan once for each seed of the candidates.

    Args:
        plan: path of the plan, from the root of the checkout.
        data: the file with the plan's data.
        question: what the benchmark answers.
        seeds: of the candidates' stages.
        gain: two candidates; how much more accurate the first is than the second, seed by seed, is a figure too.
        test_rows: a sentence on where the test rows are from, if they are not those that the plan names.
    """
    runs = run_plan(plan, data, seeds)
    dossiers = [dossier for dossier, _ in runs]
    loaded = load_plan(ROOT / plan)
    rows = dossiers[0].record.dataset.splits["test"]
    return Findings(
        question=question,
        setup=(
            f"`{plan}`, cold unless `--home` kept stages of an earlier call; every figure is of the test split "
            f"({rows:,} rows), which the gate reads once a run; candidates were designed on the validation split. One "
            "repeat for each seed of the candidates, all against one baseline. `baseline / it` compares the ONNX files "
            f"and their p50 at batch 1, one thread. {test_rows}"
        ).rstrip(),
        seeds={"data and baseline": loaded.seed}
        | {f"candidates, run {run + 1}": seed for run, seed in enumerate(seeds)},
        figures=(
            figure("the first run, from its start to its verdict", "min", [runs[0][1] / 60]),
            *([_gain(dossiers, *gain)] if gain else []),
            *_baseline_figures(dossiers),
            *_candidate_figures(loaded, dossiers),
        ),
    )


def run_plan(plan: str, data: Path, seeds: Sequence[int]) -> list[tuple[RunDossier, float]]:
    """Compress by a plan without a rollout, once for each seed of the candidates; with the seconds of each run."""
    from tasks.runtime.prefect_server import start_prefect_server
    from tasks.runtime.settings import current_settings

    start_prefect_server(current_settings())
    from flows.compression import compress_model  # prefect reads its settings when it is imported

    runs = []
    for seed in seeds:
        started = time.monotonic()
        dossier = compress_model(load_plan(ROOT / plan, (f"dataset.path={data}", f"candidate_seed={seed}")))
        runs.append((dossier, time.monotonic() - started))
    return runs


def data_path(data_file: str) -> Path:
    """Return a file below the folder of the data sets.

    Raises:
        DataError: the folder is not named, or the file is not there.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise DataError(f"this benchmark reads {data_file}; name the folder that holds it with --data FOLDER")
    path = Path(folder) / data_file
    if not path.is_file():
        raise DataError(f"there is no {path}; its plan says where to get it")
    return path


def _gain(dossiers: Sequence[RunDossier], name: str, other: str) -> Figure:
    pairs = [[_candidate(dossier, one).stages[-1].evaluation for one in (name, other)] for dossier in dossiers]
    gains = [100 * (own.metrics["accuracy"] - others.metrics["accuracy"]) for own, others in pairs]
    return figure(f"accuracy: {name} - {other}, seed by seed", "points", gains)


def _baseline_figures(dossiers: Sequence[RunDossier]) -> list[Figure]:
    record, stage = dossiers[0].record, dossiers[0].baseline_stage
    evaluation = record.baseline.evaluation
    return [
        _quality(_BASELINE, [evaluation]),
        figure("size", "bytes", [evaluation.size_bytes], subject=_BASELINE),
        figure(_MINUTES, "min", [stage.seconds / 60], subject=_BASELINE),
        figure("parameters", "", [evaluation.num_parameters], subject=_BASELINE, supporting=True),
    ]


def _candidate_figures(plan: CompressionPlan, dossiers: Sequence[RunDossier]) -> list[Figure]:
    figures: list[Figure] = []
    for name in plan.candidates:
        runs = [(dossier, _candidate(dossier, name)) for dossier in dossiers]
        judged = [(dossier, one) for dossier, one in runs if dossier.candidates[name].failure is None]
        if len(judged) < len(runs):
            figures.append(figure("runs ended before the gate", "", [len(runs) - len(judged)], subject=name))
        if judged:
            figures += _of_candidate(name, judged)
    return figures


def _of_candidate(name: str, judged: Sequence[tuple[RunDossier, CandidateSummary]]) -> list[Figure]:
    ends = [candidate.stages[-1].evaluation for _, candidate in judged]
    baselines = [dossier.record.baseline.evaluation for dossier, _ in judged]
    eager = [dossier.eager_timing for dossier, _ in judged]
    pairs = list(zip(baselines, ends, strict=True))
    minutes = [sum(stage.seconds for stage in dossier.candidates[name].stages) / 60 for dossier, _ in judged]
    of_it = partial(figure, subject=name)
    return [
        _quality(name, ends),
        _loss(name, baselines, ends),
        of_it("size", "bytes", [end.size_bytes for end in ends]),
        of_it("size, baseline / it", RATIO, [big.size_bytes / small.size_bytes for big, small in pairs]),
        of_it("zipped size, baseline / it", RATIO, [a.size_zip_bytes / b.size_zip_bytes for a, b in pairs]),
        of_it("latency, baseline / it", RATIO, [_p50(slow) / _p50(fast) for slow, fast in pairs]),
        of_it(
            "latency, eager torch baseline / it",
            RATIO,
            [_p50(slow) / _p50(fast) for slow, fast in zip(eager, ends, strict=True)],
        ),
        of_it("FLOPs, it / baseline", RATIO, [after.flops / before.flops for before, after in pairs]),
        of_it("int8 coverage", "%", [100 * end.int8_coverage for end in ends]),
        of_it(_MINUTES, "min", minutes),
    ]


def _quality(name: str, ends: Sequence[Evaluation]) -> Figure:
    """Return the metric on test."""
    if "accuracy" in ends[0].metrics:
        return figure("accuracy", "%", [100 * end.metrics["accuracy"] for end in ends], subject=name)
    return figure("RMSE", "", [end.metrics["rmse"] for end in ends], subject=name)


def _loss(name: str, baselines: Sequence[Evaluation], ends: Sequence[Evaluation]) -> Figure:
    """Return what was lost against the baseline on test."""
    pairs = [(before.metrics, after.metrics) for before, after in zip(baselines, ends, strict=True)]
    if "accuracy" in pairs[0][0]:
        drops = [100 * (before["accuracy"] - after["accuracy"]) for before, after in pairs]
        return figure("drop of accuracy", "points", drops, subject=name)
    rises = [100 * (after["rmse"] / before["rmse"] - 1) for before, after in pairs]
    return figure("rise of RMSE", "%", rises, subject=name)


def _p50(measured: Evaluation | Timing) -> float:
    return measured.latency_ms["1"].p50


def _candidate(dossier: RunDossier, name: str) -> CandidateSummary:
    return next(candidate for candidate in dossier.record.candidates if candidate.name == name)
