"""The whole loop on real drift: champion serves, traffic drifts, an alarm, retraining, a new champion by rollout."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml

from benchmarks.drift_cases import DriftCase, digits_case
from benchmarks.result import Figure, Findings, figure
from flows.plan import load_plan
from tasks.adapters.embedded_gateway import gateway
from tasks.adapters.replay import replay
from tasks.adapters.traffic import TrafficLog
from tasks.contracts.run import RunDossier
from tasks.evaluation.predictions import predict
from tasks.runtime.prefect_server import start_prefect_server
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings
from tasks.techniques.technique import Arrays

_SEED = 0
_ALARM_Z = 3.0
_WINDOW = 150
"""Labelled rows at the end of the traffic that the accuracy check looks at."""


def measure() -> Findings:
    """Go once round the loop with each case."""
    project = _project()
    start_prefect_server(current_settings())  # before prefect is imported, which reads its settings then
    cases = [digits_case(_SEED)]
    figures = [found for case in cases for found in _loop(case, project)]
    return Findings(
        question="How long does it take from drift to a promoted model, and what does that model know?",
        setup=(
            f"{' '.join(case.told for case in cases)} Each row of the traffic is sent once, its label comes as "
            f"feedback, and every input is sampled. A z-test of the last {_WINDOW} labelled answers against those "
            "before them raises the alarm, and one call retrains: a data version, a warm-started teacher, a student in "
            "int8, the gate against teacher and champion, a rollout. One run; engines embedded, on one machine."
        ),
        seeds={"rows, training and traffic": _SEED},
        figures=tuple(figures),
    )


def _loop(case: DriftCase, project: Path) -> list[Figure]:
    """Go once round, and hold the first and the last champion against rows that neither has met."""
    from flows.delivery import deliver_model
    from flows.retraining import retrain_model

    case.write_base(project)
    plan = project / f"{case.name}.yaml"
    plan.write_text(yaml.safe_dump(case.plan), encoding="utf-8")
    figures: list[Figure] = []
    with _leg(case, "first champion: train, compress, gate, roll out", figures):
        _require_promoted(deliver_model(load_plan(plan)))
    first = _champion(case)
    with _leg(case, "drifted traffic with labels, until the alarm", figures):
        during, reason = _drift(case)
    began = time.time()
    dossier = retrain_model(case.name, str(plan), reason)
    _require_promoted(dossier)
    figures += _retraining_legs(case, dossier, began, time.time())
    last = _champion(case)
    for rows, arrays in (("drifted", case.held_out), ("original", case.held_out_original)):
        for who, model in (("first champion", first), ("retrained champion", last)):
            figures.append(_quality(case, f"{who} on held-out {rows} rows", _measured(model, arrays)))
    figures.append(_quality(case, "first champion on the drifted traffic, at its clients", during))
    return figures


def _project() -> Path:
    """Make a project below the benchmark's home, and have gateways sample every input."""
    project = current_settings().home / "project"
    project.mkdir(parents=True, exist_ok=True)
    os.environ["STILLHOUSE_PROJECT"] = str(project)
    os.environ["STILLHOUSE_SAMPLE_INPUTS"] = "1"  # for the gateways that are started from here on
    for cached in (current_settings, connect):
        cached.cache_clear()
    return project


def _drift(case: DriftCase) -> tuple[float, str]:
    """Send the drifted rows once; return the accuracy at the clients and the alarm's words.

    Raises:
        ValueError: requests failed, or there is no alarm.
    """
    x, y = case.live.x, case.live.y
    with gateway(connect().settings, case.name) as url:
        sent = replay(x, y, url, case.name, requests=len(y), concurrency=2, seed=_SEED)
    if sent.failed or sent.feedback_failed:
        raise ValueError(f"{sent.failed} requests and {sent.feedback_failed} labels failed: {sent.failures}")
    reason = _alarm(case)
    if reason is None:
        raise ValueError("the drift raised no alarm, so that there is nothing to retrain for")
    accuracy = sent.arms["champion"].accuracy
    assert accuracy is not None, "the rows have classes"
    return accuracy, reason


def _alarm(case: DriftCase) -> str | None:
    """Compare the last labelled answers with all before them, at 3 sigma; the loss of a row is whether it was wrong."""
    log = TrafficLog(connect().settings.traffic_root)
    labels = log.feedback(case.name).to_pandas()[["request_id", "row", "label"]]
    answers = log.predictions(case.name).to_pandas()
    answers = answers[answers["model_digest"] == _champion(case)].merge(labels, on=["request_id", "row"])
    loss = (answers["prediction"] != answers["label"]).to_numpy(dtype=float)
    before, last = loss[:-_WINDOW], loss[-_WINDOW:]
    error = math.sqrt(before.var() / len(before) + last.var() / len(last))
    if last.mean() - before.mean() <= _ALARM_Z * error:
        return None
    return f"the mean loss rose from {before.mean():.3f} to {last.mean():.3f} on the last {_WINDOW} labelled rows"


def _champion(case: DriftCase) -> str:
    champion = connect().ledger.champion(case.name)
    assert champion is not None
    return champion.candidate


def _measured(model: str, rows: Arrays) -> float:
    """Return the accuracy."""
    outputs = predict(connect().artifacts.get(model), rows.x, int(rows.y.max()) + 1)
    return float((outputs.argmax(axis=1) == rows.y).mean())


def _require_promoted(dossier: RunDossier) -> None:
    rollout = dossier.record.rollout
    if rollout is None or rollout.verdict != "promote":
        gates = [(one.name, one.gate.model_dump(mode="json")) for one in dossier.record.candidates]
        failures = [one.failure for one in dossier.candidates.values()]
        raise ValueError(f"no new champion: rollout {rollout}, gates {gates}, failures {failures}")


@contextmanager
def _leg(case: DriftCase, name: str, figures: list[Figure]) -> Iterator[None]:
    started = time.monotonic()
    yield
    figures.append(_minutes(case, name, time.monotonic() - started))


def _retraining_legs(case: DriftCase, dossier: RunDossier, began: float, ended: float) -> list[Figure]:
    """Divide the time of a retraining at the begin and the end of its compression."""
    moments = dossier.started_at, dossier.finished_at
    started, finished = (datetime.fromisoformat(moment).timestamp() for moment in moments)
    return [
        _minutes(case, "retraining: publish the data version", started - began),
        _minutes(case, "retraining: teacher, student, gate", finished - started),
        _minutes(case, "retraining: register and roll out", ended - finished),
        _minutes(case, "from the alarm to the new champion", ended - began),
    ]


def _minutes(case: DriftCase, leg: str, seconds: float) -> Figure:
    return figure(leg, "min", [max(0.0, seconds) / 60], subject=case.name)


def _quality(case: DriftCase, name: str, value: float) -> Figure:
    return figure(f"accuracy: {name}", "%", [100 * value], subject=case.name)
