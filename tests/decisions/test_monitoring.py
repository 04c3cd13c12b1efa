import numpy as np

from tasks.contracts.verdict import Verdict
from tasks.decisions.monitoring import judge_window
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
