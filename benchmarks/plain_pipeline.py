"""The work of a plan without an orchestrator: `python -m benchmarks.plain_pipeline PLAN PROCESSES OUT.json`.

What a good engineer writes who has the functions of the stages, and one afternoon: the same calls in the same order,
candidates side by side in a pool of processes that live as long as the script, no cache, no retries, no records, no
report, nothing that could be killed apart. It prints nothing; `OUT.json` names the digests of what it made.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from flows.plan import CompressionPlan, load_plan
from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import Measured, Quality, Robustness, TimingTable
from tasks.contracts.model import ModelRef
from tasks.evaluation.machine import current_machine
from tasks.runtime.services import connect
from tasks.stages.applying import apply_technique
from tasks.stages.baselines import train_baseline
from tasks.stages.evaluating import evaluate_model
from tasks.stages.exporting import export_model
from tasks.stages.fetching import prepare_dataset, source_revision
from tasks.stages.gating import judge_candidate
from tasks.stages.serving import try_serving
from tasks.stages.stressing import evaluate_corrupted
from tasks.stages.timing import time_models
from tasks.techniques.baseline import TrainBaseline

Map = Callable[..., Iterable[Any]]
"""As the built-in `map`."""
_NOW = "2026-01-01T00:00:00+00:00"


def main(path: Path, num_processes: int) -> dict[str, Any]:
    """Run the plan; return the digests of the deployable models, and the gate's verdicts."""
    plan = load_plan(path)
    if num_processes == 1:
        return _run(plan, map)
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        return _run(plan, pool.map)


def _run(plan: CompressionPlan, run_all: Map) -> dict[str, Any]:
    data = prepare_dataset(plan.dataset, source_revision(plan.dataset, connect().settings), plan.seed)
    assert isinstance(plan.baseline, TrainBaseline), "the script trains its baseline"
    baseline = train_baseline(plan.baseline.train, data, plan.seed, "plain/train").model
    deployed = export_model(baseline, data, "plain/export").model
    evaluate_model(deployed, deployed, data, "validation")
    chain = partial(_run_chain, plan=plan, baseline=baseline, deployed=deployed, data=data)
    chains = dict(zip(plan.candidates, run_all(chain, plan.candidates), strict=True))
    models = {model.digest: model for model in (baseline, deployed, *(one for made in chains.values() for one in made))}
    timings = time_models(tuple(models.values()), data, current_machine(), plan.seed)
    ends = {name: made[-1] for name, made in chains.items()}
    tested = list(run_all(partial(_test, baseline=deployed, data=data), [deployed, *ends.values()]))
    trials = list(run_all(partial(_serve, data=data), ends.values()))
    reference = _measured(tested[0], timings)
    evidence = {
        name: _measured(test, timings).model_copy(update={"serving": trial})
        for name, test, trial in zip(ends, tested[1:], trials, strict=True)
    }
    judge = partial(_judge, plan=plan, evidence=evidence, baseline=reference, data=data)
    return {"models": {name: end.digest for name, end in ends.items()}, "verdicts": list(run_all(judge, evidence))}


def _run_chain(
    name: str, *, plan: CompressionPlan, baseline: ModelRef, deployed: ModelRef, data: DatasetRef
) -> list[ModelRef]:
    """Run one candidate; return what of it can be deployed, stage by stage."""
    made: list[ModelRef] = []
    current = baseline
    for position, technique in enumerate(plan.candidates[name]):
        if technique.takes == "onnx" and current.format == "torch":
            current = made[-1] if made else deployed
        key = f"plain/{name}/{position}"
        current = apply_technique(technique, current, baseline, data, plan.seed_of_candidates, key).model
        made.append(current if current.format == "onnx" else export_model(current, data, f"{key}/export").model)
        evaluate_model(made[-1], deployed, data, "validation")
    return made


def _test(model: ModelRef, *, baseline: ModelRef, data: DatasetRef) -> tuple[Quality, Robustness]:
    return evaluate_model(model, baseline, data, "test"), evaluate_corrupted(model, data, "test")


def _serve(model: ModelRef, *, data: DatasetRef) -> Any:
    return try_serving(model, data, connect().settings.gateway_command)


def _measured(tested: tuple[Quality, Robustness], timings: TimingTable) -> Measured:
    quality, robustness = tested
    return Measured(quality=quality, timing=timings.models[quality.model], robustness=robustness)


def _judge(
    name: str, *, plan: CompressionPlan, evidence: dict[str, Measured], baseline: Measured, data: DatasetRef
) -> str:
    stored = judge_candidate(
        candidate_name=name,
        candidate=evidence[name],
        baseline=baseline,
        data=data,
        constraints=plan.constraints,
        policy=plan.gate,
        num_candidates=len(evidence),
        look=1,
        model_name=plan.registered_name,
        plan_digest=plan.value_digest(),
        created_at=_NOW,
    )
    return stored.report.verdict.value


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))), encoding="utf-8")
