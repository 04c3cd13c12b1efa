import pytest
from pydantic import SecretStr, ValidationError

from infra.engines.chosen import Options, chosen_services
from tasks.contracts.errors import UserError
from tasks.runtime.settings import Settings, current_settings, environment_of_services, environment_of_stages

PEM = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


def test_key_paths_are_made_absolute_and_key_text_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    settings = Settings(home=tmp_path, signing_key=SecretStr("keys/own.pem"), verify_keys="keys")

    assert settings.signing_key.get_secret_value() == str(tmp_path / "keys" / "own.pem")
    assert settings.verify_keys == tmp_path / "keys"
    assert Settings(home=tmp_path, signing_key=SecretStr(PEM)).signing_key.get_secret_value() == PEM


def test_secrets_are_not_shown(tmp_path):
    shown = repr(Settings(home=tmp_path, signing_key=SecretStr(PEM), webhook_secret=SecretStr("hook secret")))

    assert "AAAA" not in shown
    assert "hook secret" not in shown


def test_verification_keys_of_an_env_file_reach_every_gateway_that_is_started_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STILLHOUSE_VERIFY_KEYS", raising=False)
    (tmp_path / ".env").write_text("STILLHOUSE_VERIFY_KEYS=keys\n")
    expected = {"STILLHOUSE_VERIFY_KEYS": str(tmp_path / "keys")}

    settings = Settings(home=tmp_path)

    assert settings.gateway_environment == expected
    services = chosen_services(settings, Options(), None)
    assert next(one for one in services if one.name == "gateway").environment.items() >= expected.items()
    (tmp_path / ".env").unlink()
    assert Settings(home=tmp_path).gateway_environment == {}


def test_services_that_are_started_here_get_no_secret_that_they_have_no_use_for(monkeypatch):
    for name in ("SIGNING_KEY", "WEBHOOK_SECRET", "LEDGER_URL", "VERIFY_KEYS"):
        monkeypatch.setenv(f"STILLHOUSE_{name}", "value")

    given = environment_of_services()

    assert not {"STILLHOUSE_SIGNING_KEY", "STILLHOUSE_WEBHOOK_SECRET", "STILLHOUSE_LEDGER_URL"} & set(given)
    assert given["STILLHOUSE_VERIFY_KEYS"] == "value"


def test_one_bucket_gives_everything_its_prefix_unless_a_setting_says_otherwise(tmp_path):
    settings = Settings(home=tmp_path, bucket_url="s3://models/team/")
    assert settings.store_url == "s3://models/team/store"
    assert settings.traffic_url == "s3://models/team/traffic"
    assert settings.mlflow_artifacts_address == "s3://models/team/mlflow"
    assert settings.dvc_default_address == "s3://models/team/dvc"

    own = Settings(
        home=tmp_path, bucket_url="s3://models", traffic_url="s3://logs/team", mlflow_artifacts="s3://other/mlflow"
    )
    assert own.store_url == "s3://models/store"
    assert own.traffic_url == "s3://logs/team"
    assert own.mlflow_artifacts_address == "s3://other/mlflow"


def test_one_bucket_is_refused_by_name_when_it_is_no_place_in_s3(tmp_path):
    with pytest.raises(ValidationError, match="STILLHOUSE_BUCKET_URL='models' names no place in S3"):
        Settings(home=tmp_path, bucket_url="models")


def test_stages_get_no_secret_of_what_they_do_not_do(monkeypatch):
    kept = {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "STILLHOUSE_VERIFY_KEYS"}
    dropped = {
        "STILLHOUSE_SIGNING_KEY", "STILLHOUSE_WEBHOOK_SECRET", "STILLHOUSE_LEDGER_URL", "STILLHOUSE_GATEWAY_TOKEN",
        "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PGPASSWORD",
    }  # fmt: skip
    for name in kept | dropped:
        monkeypatch.setenv(name, "value")

    assert set(environment_of_stages()) & (kept | dropped) == kept


def test_passwords_in_addresses_are_not_shown(tmp_path):
    shown = repr(Settings(home=tmp_path, tracking_url="http://ann:canary@ml", dvc_remote="https://ann:canary@rows/x"))

    assert "http://ann:***@ml" in shown
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("EXECUTION", "canary", "STILLHOUSE_EXECUTION: input should be 'local' or 'ray'"),
        ("PLACEMENT_TIMEOUT_S", "canary", "STILLHOUSE_PLACEMENT_TIMEOUT_S: input should be a valid number"),
        ("TRAFFIC", "s3://canary/x", "STILLHOUSE_TRAFFIC is a folder"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_users_error_that_shows_no_value(monkeypatch, name, value, told):
    monkeypatch.setenv(f"STILLHOUSE_{name}", value)
    monkeypatch.setenv("STILLHOUSE_WEBHOOK_SECRET", "canary")
    monkeypatch.setenv("STILLHOUSE_LEDGER_URL", "postgresql://ann:canary@db/stillhouse")
    current_settings.cache_clear()

    with pytest.raises(UserError, match=told) as caught:
        current_settings()

    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
