import threading

import pytest

from flows.diagnosis.finding import Finding, guarded
from tasks.contracts.errors import ServiceUnavailableError, UserError


@pytest.mark.parametrize(
    "error", [ServiceUnavailableError("no answer"), UserError("wrong"), FileNotFoundError(2, "No such file", "/x")]
)
def test_a_check_that_breaks_is_a_finding_and_hides_no_other(error: Exception) -> None:
    def check() -> Finding:
        raise error

    found = guarded("disk", check)

    assert (found.name, found.state, found.detail) == ("disk", "broken", str(error))
    assert found.remedy


def test_a_defect_in_a_check_is_told_as_one() -> None:
    found = guarded("disk", lambda: 1 // 0)  # type: ignore[arg-type,return-value]

    assert (found.state, found.detail) == ("broken", "ZeroDivisionError: integer division or modulo by zero")
    assert "report" in found.remedy


def test_a_check_that_does_not_end_is_broken_and_left_behind() -> None:
    never = threading.Event()

    def check() -> Finding:
        never.wait()
        return Finding("s3", "ok", "late")

    found = guarded("s3", check, limit_s=0.05)
    never.set()

    assert (found.state, found.detail) == ("broken", "no answer within 0.05 s")
    assert 0.05 <= found.seconds < 1
