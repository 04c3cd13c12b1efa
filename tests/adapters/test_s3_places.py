from dataclasses import replace

import pytest

from tasks.adapters import s3_places
from tasks.adapters.s3_places import check_places
from tasks.contracts.errors import ServiceUnavailableError, UserError
from tasks.runtime.settings import Settings
from tests.adapters.s3_server import Fault


@pytest.fixture
def settings(s3, tmp_path):
    return Settings(home=tmp_path, bucket_url=f"s3://{s3.name}/team", s3_endpoint=s3.proxy.url)


def test_check_places_tries_all_of_the_bucket_and_leaves_nothing_but_the_probe(s3, settings):
    assert check_places(settings) == [f"s3://{s3.name}/team/{part}" for part in ("store", "traffic", "mlflow", "dvc")]
    assert {key.rpartition("/")[0] for key in s3.objects()} == {"checks/one-writer", "checks/races"}


def test_check_places_asks_nobody_when_everything_lies_in_folders(tmp_path):
    assert check_places(Settings(home=tmp_path)) == []


def test_check_places_names_the_setting_when_a_bucket_is_missing(s3, settings):
    with pytest.raises(UserError, match=r"no bucket nowhere-at-all.*STILLHOUSE_MLFLOW_ARTIFACTS"):
        check_places(settings.model_copy(update={"mlflow_artifacts": "s3://nowhere-at-all/mlflow"}))


def test_check_places_refuses_a_server_that_ignores_conditions(s3, settings):
    if s3.kind != "moto":
        pytest.skip(f"{s3.kind} would notice that a signed header is missing")
    s3.proxy.fault = lambda method, path: Fault(without="If-None-Match")
    with pytest.raises(UserError, match="lets several writers at once create one object"):
        check_places(settings)


def test_check_places_gives_up_soon_when_nobody_answers(s3, settings, monkeypatch):
    patience = replace(s3.clock.patience(total_s=s3_places._PATIENCE.total_s), sdk_attempts=1)
    monkeypatch.setattr(s3_places, "_PATIENCE", patience)
    s3.proxy.fault = lambda method, path: Fault(status=503)
    with pytest.raises(ServiceUnavailableError, match=r"within 15 s.*STILLHOUSE_S3_ENDPOINT"):
        check_places(settings)
