import logging
from types import SimpleNamespace

import httpx
import pytest

from tasks.contracts.model import EpochRecord
from tasks.runtime import progress


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), RuntimeError("Failed to reach API")])
def test_show_goes_on_when_the_prefect_server_is_away_and_publishes_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    away, shown = True, []

    def create(progress: float, description: str) -> None:
        if away:
            raise error
        shown.append(progress)

    monkeypatch.setattr(progress, "TaskRunContext", SimpleNamespace(get=lambda: object()))
    monkeypatch.setattr(progress.ProgressArtifact, "_publish", lambda self, record: create(record.step, ""))
    artifact = progress.ProgressArtifact("train", planned_epochs=4)
    with caplog.at_level(logging.WARNING):
        artifact.show(EpochRecord(step=1, metrics={"loss": 1.0}))
    away = False
    artifact.show(EpochRecord(step=2, metrics={"loss": 0.5}))

    assert "epoch 1 of train is not shown in Prefect" in caplog.text
    assert shown == [2]
