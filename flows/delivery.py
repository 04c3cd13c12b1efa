"""Delivery: compression and rollout as one, with a gateway and traffic where the plan brings its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import flow

from flows.compression import compress_model
from flows.dossiers import save_dossier
from flows.plan import CompressionPlan, Replay
from flows.rollout import roll_out
from tasks.adapters.embedded_gateway import gateway
from tasks.adapters.replay import ReplayResult, replay
from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.retraining import Retraining
from tasks.contracts.run import RolloutSummary, RolloutTick, RunDossier
from tasks.report import report
from tasks.runtime.progress import announce
from tasks.runtime.services import connect
from tasks.stages.splits import load_split

_UNCHANGED: tuple[RolloutSummary, tuple[RolloutTick, ...]] = (RolloutSummary(verdict="unchanged", steps=()), ())


@flow(name="deliver-model", flow_run_name="{plan.name} delivery", persist_result=False)
def deliver_model(
    plan: CompressionPlan, pin_baseline: bool = False, retraining: Retraining | None = None
) -> RunDossier:
    """Compress by the plan and, if a candidate passed, roll it out until it is promoted or rolled back.

    The arguments are those of `compress_model`.

    Raises:
        UserError: data, baseline or plan are wrong.
        InfrastructureError: something outside failed for longer than retries last; a later run goes on from here.
    """
    announce("compressing")
    dossier = compress_model(plan, pin_baseline=pin_baseline, retraining=retraining)
    if dossier.record.registered is None:
        return dossier
    name = plan.registered_name
    champion = connect().ledger.champion(name)
    if champion is not None and champion.version == dossier.record.registered.version:
        rolled, ticks = _UNCHANGED
    else:
        announce("rolling out")
        with gateway(connect().settings, name) as url, _traffic(plan.rollout.replay, name, dossier.dataset, url):
            rolled, ticks = roll_out(name, plan.rollout.policy, plan.rollout.tick_seconds)
    version = connect().registry.version(name, dossier.record.registered.version)
    registered = dossier.record.registered.model_copy(update={"aliases": tuple(sorted(version.aliases))})
    dossier = dossier.with_record(rollout=rolled, registered=registered).model_copy(update={"rollout_ticks": ticks})
    save_dossier(dossier)
    report(dossier)
    return dossier


@contextmanager
def _traffic(spec: Replay | None, model_name: str, data: DatasetRef, url: str) -> Iterator[None]:
    """Send the plan's replay traffic while the block runs.

    Raises:
        InfrastructureError: requests failed.
    """
    if spec is None:
        yield
        return
    rows = load_split(connect().artifacts, data, spec.split)
    done = threading.Event()
    results: list[ReplayResult] = []
    errors: list[Exception] = []

    def send() -> None:
        try:
            results.append(
                replay(
                    rows.x,
                    rows.y,
                    url,
                    model_name,
                    requests=None,
                    concurrency=spec.concurrency,
                    rate=spec.requests_per_second,
                    token=connect().settings.gateway_token,
                    stop=done.is_set,
                )
            )
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits
            errors.append(error)

    sender = threading.Thread(target=send, name="replay")
    sender.start()
    try:
        yield
    finally:
        done.set()
        sender.join()
    if errors:
        raise errors[0]
    if results[0].failed:
        raise InfrastructureError(f"{results[0].failed} requests failed during the rollout: {results[0].failures}")
