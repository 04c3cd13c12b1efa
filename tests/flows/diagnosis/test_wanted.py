from pathlib import Path

import pytest

from flows.diagnosis.wanted import wanted_deployments
from tasks.contracts.errors import UserError

CHECKOUT = Path(__file__).parents[3]


def test_wanted_deployments_reads_the_file_of_this_project() -> None:
    found = {one.name: one for one in wanted_deployments(CHECKOUT)}

    assert found["digits"].entrypoint == "flows/deployments.py:compress_plan"
    assert (found["digits"].work_pool, found["digits"].num_schedules) == ("cpu", 1)
    assert found["retrain"].automations == ("digits-drift",)


def test_wanted_deployments_is_nothing_without_a_file_and_refuses_a_broken_one(tmp_path: Path) -> None:
    assert wanted_deployments(tmp_path) == []
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: a}]")
    with pytest.raises(UserError, match=r"prefect\.yaml cannot be read"):
        wanted_deployments(tmp_path)
