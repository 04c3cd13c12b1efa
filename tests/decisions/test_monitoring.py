import numpy as np
import pytest

from tasks.contracts.verdict import Verdict
from tasks.decisions.monitoring import judge_window, report_window
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Labels, Rows, Service, Window
from tests.decisions.traffic_model import rows, service, window

POLICY = MonitoringPolicy()


def test_judge_window_asks_everything():
    generator = np.random.default_rng(1)
    seen = window(generator, 1000, labelled=1000, accuracy=0.91)
    reference = rows(generator, 2000, labelled=True)
    checks = judge_window(seen, reference, reference, service(generator, 3000), POLICY)
    assert {check.kind for check in checks} == {"drift", "accuracy", "latency", "errors", "cache"}
    assert not [check.name for check in checks if check.verdict is Verdict.FAIL]


def test_judge_window_answers_nothing_without_references_or_without_traffic():
    generator = np.random.default_rng(2)
    empty = Window(Rows("classification"), 0, Service(), Labels())
    unknown = judge_window(window(generator, 1000, labelled=1000), None, None, None, POLICY)
    reference = rows(generator, 2000, labelled=True)
    silent = judge_window(empty, reference, reference, service(generator), POLICY)
    assert {check.verdict for check in (*unknown, *silent)} == {Verdict.INCONCLUSIVE}


def test_report_window_shows_what_people_look_at_first():
    seen = window(np.random.default_rng(3), 200, labelled=40)
    identity = {"model_name": "m", "model_digest": "a" * 64, "version": 1, "since": "s", "until": "u"}
    report = report_window(seen, (), **identity, content_reference=None, service_reference="b" * 64)
    assert (report.rows, report.requests, report.service_reference) == (200, 1000, "b" * 64)
    assert report.latency_ms["p50"] == pytest.approx(np.median(seen.service.latencies_ms[1]))
    assert (report.labelled_share, report.median_label_delay_s) == (1.0, 60.0)

    silent = report_window(
        Window(Rows("classification"), 0, Service(), Labels()),
        (),
        **identity,
        content_reference=None,
        service_reference=None,
    )
    assert (silent.latency_ms, silent.labelled_share, silent.median_label_delay_s) == ({}, None, None)
