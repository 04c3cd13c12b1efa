"""The work of judging one candidate: load the evidence by digest, hold it against the constraints, store the report."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import Quality, Timing
from tasks.contracts.value import Slug
from tasks.contracts.verdict import GateReport, StoredGateReport
from tasks.decisions.gates import Constraints, GatePolicy, judge, verdict_of
from tasks.runtime.services import ArtifactStore, connect
from tasks.stages.splits import load_split

_BATCH = "batch_1"
"""The latency samples that constraints are about."""


def judge_candidate(
    candidate_name: str,
    quality: Quality,
    baseline_quality: Quality,
    timing: Timing,
    baseline_timing: Timing,
    data: DatasetRef,
    constraints: Constraints,
    policy: GatePolicy,
    num_candidates: int,
    model_name: Slug,
    plan_digest: str,
    created_at: str,
) -> StoredGateReport:
    """Judge a candidate on the test split and store the report; equal evidence gives an equal report.

    Args:
        candidate_name: its name in the plan.
        quality: the candidate's, on the test split.
        baseline_quality: the baseline's, on the test split.
        timing: the candidate's, of one table with the baseline's.
        baseline_timing: the baseline's.
        data: the data set.
        constraints: what the plan asks.
        policy: how sure the plan wants to be.
        num_candidates: candidates of the run that are gated; they share the error rate.
        model_name: under which the model would be registered.
        plan_digest: of the plan.
        created_at: start of the run, UTC, ISO 8601.

    Raises:
        DataError: a quality is not of the test split, or outputs and labels are not of the same rows.
    """
    for name, one in (("candidate", quality), ("baseline", baseline_quality)):
        if one.split != "test":
            raise DataError(f"the gate judges on the test split; the {name}'s evaluation is of {one.split!r}")
    artifacts = connect().artifacts
    checks = judge(
        task=data.task,
        class_names=data.class_names,
        labels=load_split(artifacts, data, "test").y,
        candidate_outputs=_array(artifacts, quality.predictions.digest, "outputs"),
        baseline_outputs=_array(artifacts, baseline_quality.predictions.digest, "outputs"),
        candidate_latency_ms=_array(artifacts, timing.samples.digest, _BATCH),
        baseline_latency_ms=_array(artifacts, baseline_timing.samples.digest, _BATCH),
        candidate_size_bytes=quality.size_bytes,
        baseline_size_bytes=baseline_quality.size_bytes,
        candidate_memory_bytes=timing.peak_memory_bytes,
        constraints=constraints,
        policy=policy,
        num_candidates=num_candidates,
    )
    report = GateReport(
        model_name=model_name,
        candidate_name=candidate_name,
        candidate=quality.model,
        baseline=baseline_quality.model,
        dataset=data.digest,
        plan=plan_digest,
        verdict=verdict_of(checks),
        checks=checks,
        alpha=policy.candidate_alpha(num_candidates),
        created_at=created_at,
    )
    return StoredGateReport(report=report, artifact=artifacts.put(report.canonical_json()))


def _array(artifacts: ArtifactStore, digest: str, name: str) -> NDArray[Any]:
    """Load one array of an npz artifact; an absent one is empty, which no check passes."""
    with np.load(io.BytesIO(artifacts.get(digest)), allow_pickle=False) as arrays:
        return arrays[name] if name in arrays else np.empty(0)
