"""Judge one candidate on the test split."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import Quality, Timing
from tasks.contracts.verdict import StoredGateReport
from tasks.decisions.gates import Constraints, GatePolicy
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.gating import judge_candidate


@stage_task(sources=lambda inputs: ["tasks.stages.gating"], ignore=("created_at",))
def gate(
    candidate_name: str,
    quality: Quality,
    baseline_quality: Quality,
    timing: Timing,
    baseline_timing: Timing,
    data: DatasetRef,
    constraints: Constraints,
    policy: GatePolicy,
    num_candidates: int,
    model_name: str,
    plan_digest: str,
    created_at: str,
) -> StoredGateReport:
    """Hold the candidate's evidence against the plan's constraints and store the report."""
    return run_stage(
        judge_candidate,
        candidate_name=candidate_name,
        quality=quality,
        baseline_quality=baseline_quality,
        timing=timing,
        baseline_timing=baseline_timing,
        data=data,
        constraints=constraints,
        policy=policy,
        num_candidates=num_candidates,
        model_name=model_name,
        plan_digest=plan_digest,
        created_at=created_at,
    )
