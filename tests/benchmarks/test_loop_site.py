import os
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT))  # benchmarks are run from the checkout and not installed


def test_make_project_changes_nothing_of_the_deployments_but_what_it_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.loop_site import PLAN, make_project
    from tasks.runtime.services import connect

    for name in ("STILLHOUSE_PROJECT", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards

    project = make_project({"parameters": {"window_minutes": 1}})

    assert connect().settings.project == project == home / "project"
    given = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
    made = yaml.safe_load((project / "prefect.yaml").read_text())["deployments"]
    changed = [one["name"] for one, other in zip(made, given, strict=True) if one != other]
    assert changed == ["digits-monitor"]
    for deployment in made:
        assert (project / deployment["entrypoint"].partition(":")[0]).is_file()
    (retrain,) = [one for one in made if one["name"] == "retrain"]
    assert retrain["parameters"]["plan"] == str(PLAN)
