"""A whole plan as a benchmark: run for several seeds of its candidates, judged on test, figures for each candidate.

The baseline and the split of the data stay those of the plan's own seed, so that all seeds of a candidate are held
against one baseline, whose stage is computed once. Every model of a run is timed interleaved with all others.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.result import RATIO, Figure, Findings, figure
from flows.plan import CompressionPlan, load_plan
from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import Evaluation, Timing
from tasks.contracts.run import CandidateSummary, RunDossier

DATA_VARIABLE = "BENCHMARK_DATA"
"""Folder of the data sets, as `python -m benchmarks --data` hands it on."""

_ROOT = Path(__file__).parents[1]


def measure_plan(plan: str, data_file: str, question: str, seeds: Sequence[int]) -> Findings:
    """Run a plan once for each seed of the candidates.

    Args:
        plan: path of the plan, from the root of the checkout.
        data_file: where the plan's data lie below the folder of the data sets.
        question: what the benchmark answers.
        seeds: of the candidates' stages.

    Raises:
        DataError: the folder is not named, or the file is not there.
    """
    dossiers = run_plan(plan, data_file, seeds)
    loaded = load_plan(_ROOT / plan)
    rows = dossiers[0].record.dataset.splits["test"]
    return Findings(
        question=question,
        setup=(
            f"`{plan}`, cold; every figure is of the test split ({rows:,} rows), which the gate reads once a "
            "run; candidates were designed on the validation split. One repeat for each seed of the candidates, all "
            "against one baseline. `baseline / it` compares the ONNX files and their p50 at batch 1, one thread."
        ),
        seeds={"data and baseline": loaded.seed}
        | {f"candidates, run {run + 1}": seed for run, seed in enumerate(seeds)},
        figures=(*_baseline_figures(dossiers), *_candidate_figures(loaded, dossiers)),
    )


def run_plan(plan: str, data_file: str, seeds: Sequence[int]) -> list[RunDossier]:
    """Compress by a plan without a rollout, once for each seed of the candidates."""
    from tasks.runtime.prefect_server import start_prefect_server
    from tasks.runtime.settings import current_settings

    path = data_path(data_file)
    start_prefect_server(current_settings())
    from flows.compression import compress_model  # prefect reads its settings when it is imported

    return [
        compress_model(load_plan(_ROOT / plan, (f"dataset.path={path}", f"candidate_seed={seed}"))) for seed in seeds
    ]


def data_path(data_file: str) -> Path:
    """Return the file below the folder of the data sets.

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


def _baseline_figures(dossiers: Sequence[RunDossier]) -> list[Figure]:
    record, stage = dossiers[0].record, dossiers[0].baseline_stage
    evaluation = record.baseline.evaluation
    return [
        *_quality("baseline", [evaluation], [evaluation]),
        figure("baseline: size", "bytes", [evaluation.size_bytes]),
        figure("baseline: parameters", "", [evaluation.num_parameters]),
        figure("baseline: training", "min", [stage.seconds / 60]),
    ]


def _candidate_figures(plan: CompressionPlan, dossiers: Sequence[RunDossier]) -> list[Figure]:
    figures: list[Figure] = []
    for name in plan.candidates:
        runs = [(dossier, _candidate(dossier, name)) for dossier in dossiers]
        judged = [(dossier, one) for dossier, one in runs if dossier.candidates[name].failure is None]
        if len(judged) < len(runs):
            figures.append(figure(f"{name}: runs that ended before the gate", "", [len(runs) - len(judged)]))
        if judged:
            figures += _of_candidate(name, judged)
    return figures


def _of_candidate(name: str, judged: Sequence[tuple[RunDossier, CandidateSummary]]) -> list[Figure]:
    ends = [candidate.stages[-1].evaluation for _, candidate in judged]
    baselines = [dossier.record.baseline.evaluation for dossier, _ in judged]
    eager = [dossier.eager_timing for dossier, _ in judged]
    pairs = list(zip(baselines, ends, strict=True))
    minutes = [sum(stage.seconds for stage in dossier.candidates[name].stages) / 60 for dossier, _ in judged]
    return [
        *_quality(name, ends, baselines),
        figure(f"{name}: size, baseline / it", RATIO, [big.size_bytes / small.size_bytes for big, small in pairs]),
        figure(f"{name}: zipped size, baseline / it", RATIO, [a.size_zip_bytes / b.size_zip_bytes for a, b in pairs]),
        figure(f"{name}: latency, baseline / it", RATIO, [_p50(slow) / _p50(fast) for slow, fast in pairs]),
        figure(
            f"{name}: latency, eager torch baseline / it",
            RATIO,
            [_p50(slow) / _p50(fast) for slow, fast in zip(eager, ends, strict=True)],
        ),
        figure(f"{name}: FLOPs, it / baseline", RATIO, [after.flops / before.flops for before, after in pairs]),
        figure(f"{name}: size", "bytes", [end.size_bytes for end in ends]),
        figure(f"{name}: int8 coverage", "%", [100 * end.int8_coverage for end in ends], supporting=True),
        figure(f"{name}: time of its stages", "min", minutes),
    ]


def _quality(name: str, ends: Sequence[Evaluation], baselines: Sequence[Evaluation]) -> list[Figure]:
    """Return the metric on test, and what was lost against the baseline."""
    if "accuracy" in baselines[0].metrics:
        shares = [100 * end.metrics["accuracy"] for end in ends]
        lost = [100 * baseline.metrics["accuracy"] - own for baseline, own in zip(baselines, shares, strict=True)]
        found = [figure(f"{name}: accuracy", "%", shares), figure(f"{name}: drop of accuracy", "points", lost)]
    else:
        errors = [end.metrics["rmse"] for end in ends]
        rises = [100 * (own / base.metrics["rmse"] - 1) for own, base in zip(errors, baselines, strict=True)]
        found = [figure(f"{name}: RMSE", "", errors), figure(f"{name}: rise of RMSE", "%", rises)]
    return found[:1] if name == "baseline" else found


def _p50(measured: Evaluation | Timing) -> float:
    return measured.latency_ms["1"].p50


def _candidate(dossier: RunDossier, name: str) -> CandidateSummary:
    return next(candidate for candidate in dossier.record.candidates if candidate.name == name)
