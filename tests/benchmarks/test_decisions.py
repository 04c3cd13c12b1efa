from collections import Counter

import pytest

from benchmarks import decisions
from benchmarks.claims import SHARE_VARIABLE
from benchmarks.result import described
from benchmarks.table import page


@pytest.mark.slow
def test_measure_states_every_claim_once(monkeypatch):
    monkeypatch.setenv(SHARE_VARIABLE, "0.0001")
    findings = decisions.measure()
    assert max(Counter((one.subject, one.name) for one in findings.figures).values()) == 1
    shown = page([described("decisions", findings, 1.0)])
    passed = "gate, at its margin, passed"
    for part in ("gate, accuracy", f"{passed}: RMSE", f"{passed}: macro F1", "rollout, equal", "monitoring, stable"):
        assert f"| {part}" in shown
    assert "Seeds: all draws 0." in shown
