"""Compression: from a plan to a registered challenger, or to the reasons why there is none."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.baselines import describe_move, keep_baseline, make_baseline
from flows.candidates import served_model, start_candidate
from flows.crossvalidation import cross_validate, draw_splits
from flows.dossiers import save_dossier
from flows.forms import settle_chain
from flows.judging import choose_candidate, judge
from flows.lineage import lineage_of
from flows.outcome import Outcome, make_dossier, models_to_time
from flows.plan import CompressionPlan
from flows.plan_warnings import plan_warnings
from tasks.contracts.registration import TRACKING_TAG
from tasks.contracts.retraining import Retraining
from tasks.contracts.run import RunDossier
from tasks.evaluation.machine import current_machine
from tasks.fetch import fetch
from tasks.identify import identify
from tasks.measure import measure
from tasks.register import register
from tasks.report import report, report_path
from tasks.runtime.isolation import stopping_with_run
from tasks.runtime.services import connect
from tasks.stages.fetching import record_dataset, source_revision
from tasks.track import track


@flow(name="compress-model", flow_run_name="{plan.name} compression", persist_result=False)
def compress_model(
    plan: CompressionPlan, pin_baseline: bool = False, retraining: Retraining | None = None
) -> RunDossier:
    """Compress a model by every candidate chain of `plan`, judge the outcomes, and register the best that passes.

    Args:
        plan: What to do; validated as a whole before this starts.
        pin_baseline: Write the baseline's record to `baselines/<plan>.json`.
        retraining: Why the model is trained anew, and the champion that a candidate must be as good as.

    Raises:
        UserError: data, baseline or plan are wrong.
        InfrastructureError: something outside failed for longer than retries last; a later run goes on from here.
            So it does after SIGTERM or Ctrl-C, which end the running stages at once.
    """
    with stopping_with_run():
        return _compress(plan, pin_baseline, retraining)


def _compress(plan: CompressionPlan, pin_baseline: bool, retraining: Retraining | None) -> RunDossier:
    run_id, started_at = str(flow_run.id), datetime.now(UTC).isoformat(timespec="seconds")
    revision = source_revision(plan.dataset, connect().settings)
    data = fetch(plan.dataset, revision, plan.seed)
    splits = draw_splits(plan, revision, data)
    record_dataset(data, connect().documents)
    for warning in plan_warnings(plan, current_machine(), data.splits["test"].num_rows):
        get_run_logger().warning(warning)
    baseline = make_baseline(plan, data)
    seed = plan.seed_of_candidates
    chains = {name: settle_chain(chain, baseline.made.model, data, seed) for name, chain in plan.candidates.items()}
    pending = [start_candidate(name, chain, baseline, data, seed, plan.early_stop) for name, chain in chains.items()]
    candidates = [candidate.finish() for candidate in pending]
    finished = [candidate for candidate in candidates if candidate.failure is None]
    outcomes = cross_validate(plan, splits, finished)
    timings = measure(models_to_time(baseline, candidates), data, identify(plan.target), plan.seed, plan.target)
    champion = served_model(retraining.champion) if retraining else None
    judged, baseline_tested = judge(plan, data, baseline, candidates, timings, outcomes, started_at, champion)
    dossier = make_dossier(
        Outcome(
            run_id=run_id,
            started_at=started_at,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            plan=plan,
            data=data,
            baseline=baseline,
            baseline_moved=describe_move(plan.name, baseline.made.model.digest, data.digest),
            baseline_tested=baseline_tested,
            judged=judged,
            chosen=choose_candidate(judged, data, timings, plan.choose),
            timings=timings,
            lineage=lineage_of(plan, data, judged, retraining),
            report=report_path(run_id),
        )
    )
    keep_baseline(dossier, pin=pin_baseline)
    tracking_run = track(dossier)
    dossier = dossier.with_lineage({TRACKING_TAG: tracking_run})
    if dossier.record.chosen is not None:
        registered = register(dossier, tracking_run)
        dossier = dossier.with_record(registered=registered)
    save_dossier(dossier)
    report(dossier)
    return dossier
