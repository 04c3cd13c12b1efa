from pydantic import SecretStr

from infra.embedded import _services
from tasks.runtime.settings import Settings, environment_of_services

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
    assert next(one for one in _services(settings, 1, 2, 3) if one.name == "gateway").environment == expected
    (tmp_path / ".env").unlink()
    assert Settings(home=tmp_path).gateway_environment == {}


def test_services_that_are_started_here_get_no_secret_that_they_have_no_use_for(monkeypatch):
    for name in ("SIGNING_KEY", "WEBHOOK_SECRET", "LEDGER_URL", "VERIFY_KEYS"):
        monkeypatch.setenv(f"STILLHOUSE_{name}", "value")

    given = environment_of_services()

    assert not {"STILLHOUSE_SIGNING_KEY", "STILLHOUSE_WEBHOOK_SECRET", "STILLHOUSE_LEDGER_URL"} & set(given)
    assert given["STILLHOUSE_VERIFY_KEYS"] == "value"
