import pytest
from pydantic import ValidationError

from tasks.decisions.monitoring_policy import MonitoringPolicy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"failing_windows": 4, "of_windows": 3}, "failing_windows 4 cannot exceed"),
        ({"latency_quantiles": (95.0,)}, "0.95 is p95"),
        ({"max_latency": 2.0}, "max_latency"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        MonitoringPolicy(**fields)
