import pytest

from flows.diagnosis.exposure import Reached, is_loopback, judge_exposure, reached
from tasks.runtime.settings import Settings


def test_judge_exposure_names_what_is_missing_beyond_this_host() -> None:
    assert judge_exposure([Reached("gateway", "127.0.0.1", False, False)]).state == "ok"
    assert judge_exposure([Reached("gateway", "gw.internal", True, True)]).state == "ok"
    found = judge_exposure([Reached("mlflow", "ml", False, True), Reached("ray", "head", False, False)])
    assert (found.state, found.detail) == ("note", "mlflow at ml (no TLS), ray at head (no TLS, no authentication)")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("/run/postgresql", True), ("10.0.0.1", False)],
)  # fmt: skip
def test_is_loopback_knows_this_host(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_reached_takes_credentials_from_where_each_client_does(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        home=tmp_path, tracking_url="https://ml.internal", s3_endpoint="http://s3.internal:8333", execution="ray",
        ray_address="ray://head:10001",
    )  # fmt: skip

    def found():
        services = reached(settings, "http://ann:x@prefect.internal/api", "http://127.0.0.1:9")
        return {one.name: (one.host, one.is_encrypted, one.asks_who) for one in services}

    assert found() == {
        "gateway": ("127.0.0.1", False, False),
        "prefect": ("prefect.internal", False, True),
        "mlflow": ("ml.internal", True, False),
        "s3": ("s3.internal", False, True),
        "ray": ("head", False, False),
    }
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert (found()["mlflow"][2], found()["ray"][2]) == (True, True)
