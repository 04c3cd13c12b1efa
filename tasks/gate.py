"""Judge one candidate on the test split."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import Measured, Quality
from tasks.contracts.verdict import StoredGateReport
from tasks.decisions.gate_policy import Constraints, GatePolicy
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.gating import judge_candidate


@stage_task(sources=lambda inputs: ["tasks.stages.gating"], ignore=("created_at",))
def gate(
    candidate_name: str,
    candidate: Measured,
    baseline: Measured,
    data: DatasetRef,
    constraints: Constraints,
    policy: GatePolicy,
    num_candidates: int,
    look: int,
    model_name: str,
    plan_digest: str,
    created_at: str,
    champion: Quality | None = None,
) -> StoredGateReport:
    """Hold the candidate's evidence against the plan's constraints and store the report."""
    return run_stage(
        judge_candidate,
        candidate_name=candidate_name,
        candidate=candidate,
        baseline=baseline,
        data=data,
        constraints=constraints,
        policy=policy,
        num_candidates=num_candidates,
        look=look,
        model_name=model_name,
        plan_digest=plan_digest,
        created_at=created_at,
        champion=champion,
    )
