import pytest

from flows import diagnosis


def test_diagnose_of_a_new_home_asks_everything_and_finds_nothing_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "server_address", lambda settings: None)
    monkeypatch.setenv("STILLHOUSE_GATEWAY_URL", "http://127.0.0.1:9")

    found = {one.name: one for one in diagnosis.diagnose()}

    expected = "versions store log disk data prefect mlflow ledger locks signing gateway replicas clocks exposure gpu"
    assert list(found) == expected.split()
    assert {name for name, one in found.items() if one.state == "broken"} == set()


def test_a_prefect_server_that_is_away_is_one_finding_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.runtime.services import connect

    (found,) = diagnosis._prefect(connect(), "http://ann:secret@127.0.0.1:9/api")

    assert found.state == "broken"
    assert found.detail.startswith("http://127.0.0.1:9/api/health does not answer")
    assert "PREFECT_API_URL" in found.remedy
