"""Continuous traffic through a good rollout and through broken ones: how many requests fail, how much harm is done.

A broken challenger is a model whose output columns are permuted and whose gate report says PASS all
the same: what offline evaluation let through, the rollout has to stop. Gateway, registry, ledger, route
and prediction log are the real ones.
"""

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from benchmarks.digits import NUM_CLASSES, digits, in_memory_context
from benchmarks.onnx_models import linear
from benchmarks.result import Figure, Findings, figure
from tasks.adapters.embedded_gateway import gateway
from tasks.adapters.replay import ReplayResult, replay
from tasks.adapters.route_store import RouteStore
from tasks.adapters.traffic import TrafficLog
from tasks.contracts.registration import CHALLENGER_ALIAS, SIGNATURE_TAG
from tasks.contracts.route import ModelSignature, Route
from tasks.contracts.value import Digest
from tasks.contracts.verdict import Check, GateReport, Verdict
from tasks.decisions.rollout import RolloutPolicy
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import connect
from tasks.stages.promoting import bootstrap
from tasks.stages.rolling import (
    advance,
    begin_rollout,
    follow_state,
    observe,
    settle,
)
from tasks.stages.rollout_record import GATE_REPORT_TAG, RolloutRecord
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.technique import Arrays

_MODEL_NAME = "digits"
_NUM_INPUTS = 64
_NUM_TRAINING_ROWS = 900
_SEED = 0
_TICK_SECONDS = 2.0
_REQUESTS_PER_SECOND = 400.0
_CONCURRENCY = 2
_ACKNOWLEDGED_WITHIN_S = 60.0

_RAMP = (5.0, 25.0, 50.0, 100.0)
_LIMITS = RolloutPolicy(steps=(0.0, *_RAMP), accuracy_margin=0.03, max_latency_ratio=3.0)
"""The latency limit is wide: answers take some 0.1 ms here, and what a busy machine adds to them is no news."""
_UNSHADOWED = RolloutPolicy(**(_LIMITS.model_dump() | {"steps": _RAMP}))


class Models(NamedTuple):
    """ONNX files."""

    champion: bytes
    good: bytes
    """The champion in int8."""
    broken: bytes
    """The champion with permuted output columns."""


class Outcome(NamedTuple):
    """One rollout under traffic."""

    record: RolloutRecord
    traffic: ReplayResult
    route: Route
    """After the rollout was settled."""
    seconds: float


def measure() -> Findings:
    """Roll out the good challenger, then the broken one with and without a shadow step first."""
    train, live = _rows()
    models = _models(train)
    _register_champion(models.champion, train)
    with gateway(connect().settings, _MODEL_NAME) as url:
        good = _roll_out(models.good, _LIMITS, url, train, live)
        broken = _roll_out(models.broken, _LIMITS, url, train, live)
        unshadowed = _roll_out(models.broken, _UNSHADOWED, url, train, live)
    return Findings(
        question="Does a rollout lose requests, and what does a broken challenger cost before it is rolled back?",
        setup=(
            f"Digits as traffic, {_REQUESTS_PER_SECOND:.0f} requests a second with labels as feedback, a tick every "
            f"{_TICK_SECONDS:g} s. The good challenger is the champion in int8, ramped over {_named(_LIMITS.weights)}; "
            "the broken one is the champion with permuted output columns, ramped alike "
            "and then without the shadow step. Traffic goes on until the route is settled; a promoted "
            "challenger answers as champion from then on."
        ),
        seeds={"training and traffic": _SEED},
        figures=(
            *_figures("good challenger", good, "promoted"),
            *_figures("broken challenger", broken, "rolled_back"),
            *_figures("broken challenger, no shadow step", unshadowed, "rolled_back"),
        ),
    )


def _figures(name: str, outcome: Outcome, expected: str) -> list[Figure]:
    """Return the counts of one rollout.

    Raises:
        ValueError: it ended otherwise than `expected`, or requests failed: then there are no figures to show.
    """
    state, traffic = outcome.record.state, outcome.traffic
    _require_end(name, outcome, expected)
    counts: dict[str, tuple[str, float]] = {
        "requests sent": ("requests", traffic.sent),
        "requests failed": ("requests", traffic.failed),
        "rows answered by the champion": ("rows", _rows_answered(traffic, "champion")),
        "rows answered by the challenger": ("rows", _rows_answered(traffic, "challenger")),
        f"number of the tick at which it was {expected.replace('_', ' ')}": ("", state.tick),
        "time from its begin to that": ("s", outcome.seconds),
    }
    return [figure(what, unit, [value], subject=name) for what, (unit, value) in counts.items()]


def _require_end(name: str, outcome: Outcome, expected: str) -> None:
    state, traffic = outcome.record.state, outcome.traffic
    if state.status != expected or traffic.failed:
        reason = state.latest.reason if state.latest else "no tick"
        raise ValueError(
            f"{name}: {state.status} instead of {expected} ({reason}); "
            f"{traffic.failed} requests failed: {traffic.failures}"
        )
    serving = state.challenger if expected == "promoted" else state.champion
    if (outcome.route.champion, outcome.route.challenger, outcome.route.weight) != (serving, None, 0.0):
        raise ValueError(f"{name}: {expected}, but the route is {outcome.route}")


def _rows_answered(traffic: ReplayResult, arm: str) -> int:
    """Count the rows that `arm` was assigned (one in a request), less those that the champion answered for it."""
    one = traffic.arms.get(arm)
    return one.rows - one.fallbacks if one else 0


def _roll_out(model: bytes, policy: RolloutPolicy, url: str, train: Arrays, live: Arrays) -> Outcome:
    """Register a challenger and roll it out while requests come in, from before it begins until it is settled."""
    services = connect()
    version = _register(model, train, gate_report=_gate_report(services.artifacts.put(model).digest))
    services.registry.set_alias(_MODEL_NAME, CHALLENGER_ALIAS, version.version)
    with _traffic(url, live) as sent:
        started = time.monotonic()
        record = begin_rollout(services, _MODEL_NAME, policy, _now(), again=True)
        log = TrafficLog(services.settings.traffic_root)
        while not record.state.finished:
            record = follow_state(services, record)
            _wait_until_served()
            time.sleep(_TICK_SECONDS)
            record = advance(services, record, observe(services, log, record), _now())
        seconds = time.monotonic() - started
        settle(services, record, "benchmark", _now())
        settled = _wait_until_served()
        time.sleep(_TICK_SECONDS)  # requests that meet the settled route count too
    return Outcome(record, sent.result(), settled, seconds)


@contextmanager
def _traffic(url: str, live: Arrays) -> Iterator[Future[ReplayResult]]:
    """Send requests while the block runs; the result is there after it."""
    done = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as sender:
        sent = sender.submit(
            replay, live.x, live.y, url, _MODEL_NAME, requests=None, concurrency=_CONCURRENCY, seed=_SEED,
            stop=done.is_set, rate=_REQUESTS_PER_SECOND,
        )  # fmt: skip
        try:
            yield sent
        finally:
            done.set()


def _wait_until_served() -> Route:
    """Wait until the gateway serves the newest route, and return it."""
    services = connect()
    routes = RouteStore(services.documents, services.acknowledgements)
    newest = routes.current(_MODEL_NAME)
    assert newest is not None
    routes.wait_for_acknowledgement(_MODEL_NAME, newest.version, timeout_s=_ACKNOWLEDGED_WITHIN_S)
    return newest.route


def _register_champion(model: bytes, train: Arrays) -> None:
    services = connect()
    version = _register(model, train, gate_report=None)
    bootstrap(services, _MODEL_NAME, version.version, "benchmark", "first champion", _now())


def _register(model: bytes, train: Arrays, gate_report: Digest | None) -> RegisteredVersion:
    services = connect()
    digest = services.artifacts.put(model).digest
    signature = ModelSignature(
        task="classification",
        input_shape=(_NUM_INPUTS,),
        input_dtype="float32",
        class_names=tuple(str(digit) for digit in range(NUM_CLASSES)),
    )
    tags = {SIGNATURE_TAG: signature.canonical_json().decode()}
    if gate_report is not None:
        tags[GATE_REPORT_TAG] = gate_report
    example = io.BytesIO()
    np.savez(example, x=train.x[:2])
    parent = services.tracker.parent_run("stillhouse-benchmark", "rollout-traffic", "rollout-traffic", {})
    return services.registry.register(_MODEL_NAME, digest, model, example.getvalue(), tags, {}, parent)


def _gate_report(candidate: Digest) -> Digest:
    """Store a report that lets the candidate pass, whatever it is worth."""
    services = connect()
    champion = services.ledger.champion(_MODEL_NAME)
    assert champion is not None
    check = Check(name="accuracy", verdict=Verdict.PASS, estimate=0.0, bound=-0.01, margin=0.03, num_rows=897)
    report = GateReport(
        model_name=_MODEL_NAME,
        candidate_name="benchmark",
        candidate=candidate,
        baseline=champion.candidate,
        dataset="0" * 64,
        plan="0" * 64,
        verdict=Verdict.PASS,
        checks=(check,),
        alpha=0.05,
        created_at=_now(),
    )
    return services.artifacts.put(report.canonical_json()).digest


def _rows() -> tuple[Arrays, Arrays]:
    """Return rows to train on and rows to send: float32 [N, 64] in [0, 1]."""
    rows = digits()
    x, y = rows.x.reshape(len(rows.x), -1), rows.y
    order = np.random.default_rng(_SEED).permutation(len(x))
    train, live = order[:_NUM_TRAINING_ROWS], order[_NUM_TRAINING_ROWS:]
    return Arrays(x[train], y[train]), Arrays(x[live], y[live])


def _models(train: Arrays) -> Models:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=1000).fit(train.x, train.y)
    weight, bias = fitted.coef_.T, fitted.intercept_
    champion = linear(weight, bias)
    permuted = np.roll(np.arange(NUM_CLASSES), 1)
    quantize = QuantizeStatic(allow_slower=True)  # a linear model of 64 features is only made smaller
    return Models(
        champion,
        quantize.apply(champion, in_memory_context(train, _SEED)).model,
        linear(weight[:, permuted], bias[permuted]),
    )


def _named(steps: tuple[float, ...]) -> str:
    return ", ".join("shadow" if step == 0.0 else f"{step:g} %" for step in steps)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
