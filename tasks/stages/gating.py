"""The work of judging one candidate: load the evidence by digest, hold it against the constraints, store the report."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import Measured, Quality
from tasks.contracts.value import Slug
from tasks.contracts.verdict import GateReport, StoredGateReport
from tasks.decisions.gate_policy import Constraints, GatePolicy
from tasks.decisions.gates import Evidence, Question, judge, verdict_of
from tasks.runtime.services import connect
from tasks.runtime.stores import ArtifactStore
from tasks.stages.splits import load_split

_BATCH = "batch_1"
"""The latency samples that constraints are about."""


def judge_candidate(
    candidate_name: str,
    candidate: Measured,
    baseline: Measured,
    data: DatasetRef,
    constraints: Constraints,
    policy: GatePolicy,
    num_candidates: int,
    look: int,
    model_name: Slug,
    plan_digest: str,
    created_at: str,
    champion: Quality | None = None,
) -> StoredGateReport:
    """Judge a candidate on the test split and store the report; equal evidence gives an equal report.

    Args:
        candidate_name: its name in the plan.
        candidate: what was measured of it.
        baseline: what was measured of the baseline, timed in one table with the candidate.
        data: the data set.
        constraints: what the plan asks.
        policy: how sure the plan wants to be.
        num_candidates: candidates of the run that are gated; they share the error rate.
        look: which look at the test split the run is, from 1.
        model_name: under which the model would be registered.
        plan_digest: of the plan.
        created_at: start of the run, UTC, ISO 8601.
        champion: of the model that serves, for a retraining, which has to do as well as it.

    Raises:
        DataError: a quality is not of the test split, or outputs and labels are not of the same rows.
    """
    qualities = {"candidate": candidate.quality, "baseline": baseline.quality}
    for name, quality in (qualities if champion is None else qualities | {"champion": champion}).items():
        if quality.split != "test":
            raise DataError(f"the gate judges on the test split; the {name}'s evaluation is of {quality.split!r}")
    artifacts = connect().artifacts
    question = Question(
        task=data.task,
        class_names=data.class_names,
        labels=load_split(artifacts, data, "test").y,
        constraints=constraints,
        policy=policy,
        num_candidates=num_candidates,
        look=look,
        champion=None if champion is None else _arrays(artifacts, champion.predictions.digest)["outputs"],
    )
    checks = judge(question, _evidence(artifacts, candidate), _evidence(artifacts, baseline))
    report = GateReport(
        model_name=model_name,
        candidate_name=candidate_name,
        candidate=candidate.quality.model,
        baseline=baseline.quality.model,
        dataset=data.digest,
        plan=plan_digest,
        verdict=verdict_of(checks),
        checks=checks,
        alpha=question.certainty.alpha,
        created_at=created_at,
    )
    return StoredGateReport(report=report, artifact=artifacts.put(report.canonical_json()))


def _evidence(artifacts: ArtifactStore, measured: Measured) -> Evidence:
    quality, timing, robustness = measured.quality, measured.timing, measured.robustness
    return Evidence(
        outputs=_arrays(artifacts, quality.predictions.digest)["outputs"],
        latency_ms=_arrays(artifacts, timing.samples.digest).get(_BATCH, np.empty(0)),
        size_bytes=quality.size_bytes,
        memory_bytes=timing.peak_memory_bytes,
        cold_start_ms=timing.cold_start_ms,
        int8_coverage=quality.int8_coverage,
        corrupted=_arrays(artifacts, robustness.predictions.digest) if robustness else {},
        serving=measured.serving,
        splits=measured.splits,
    )


def _arrays(artifacts: ArtifactStore, digest: str) -> dict[str, NDArray[Any]]:
    """Load the arrays of an npz artifact by their names."""
    with np.load(io.BytesIO(artifacts.get(digest)), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}
