from pathlib import Path

import pytest

from infra.engines.detaching import run_detached
from infra.engines.supervising import alone
from tasks.contracts.errors import UserError
from tasks.runtime.settings import Settings

pytestmark = pytest.mark.slow  # starts the command


def test_run_detached_tells_why_the_process_in_the_background_refused(home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    said = []
    with alone(Settings()), pytest.raises(UserError, match=r"^the services of .* run already.*stillhouse down"):
        run_detached(Settings(), ["--prefect-port=0", "--mlflow-port=0", "--gateway-port=0"], said.append)
    assert said == []
