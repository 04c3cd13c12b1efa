from flows.diagnosis.tracking import judge_version, mlflow
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings


def test_judge_version_notes_a_server_that_is_older_than_the_client() -> None:
    assert judge_version("m", "3.17.0", "3.17.2").state == "ok"
    assert judge_version("m", "3.18.0", "3.17.2").state == "ok"
    found = judge_version("m", "3.9.1", "3.17.2")
    assert (found.state, found.detail) == ("note", "m; server 3.9.1, client 3.17.2")


def test_mlflow_that_is_away_is_broken_and_its_password_is_not_shown(tmp_path) -> None:
    services = connect(Settings(home=tmp_path, tracking_url="http://ann:secret@127.0.0.1:9"))

    found = mlflow(services)

    assert found.state == "broken"
    assert found.detail.startswith("http://127.0.0.1:9/health does not answer")
    assert "STILLHOUSE_TRACKING_URL" in found.remedy
