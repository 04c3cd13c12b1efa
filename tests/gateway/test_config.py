import os
import re

import pytest
from pydantic import ValidationError

from infra.gateway.config import GatewayConfig, default_replica


def test_from_environment_takes_the_given_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("STILLHOUSE_STORE", "/env/store")
    monkeypatch.setenv("STILLHOUSE_TRAFFIC", "/env/traffic")
    config = GatewayConfig.from_environment(store=tmp_path, port=None)
    assert (config.store, str(config.traffic), config.port) == (tmp_path, "/env/traffic", 8080)


def test_from_environment_falls_back_to_the_home_folder(monkeypatch, tmp_path):
    for name in ("STORE", "TRAFFIC", "REPLICA"):
        monkeypatch.delenv(f"STILLHOUSE_{name}", raising=False)
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path))
    config = GatewayConfig.from_environment()
    assert (config.store, config.traffic) == (tmp_path / "store", tmp_path / "traffic")


def test_default_replica_is_a_file_name_that_holds_the_process_number(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "höst/../x")
    assert re.fullmatch(r"[\w-]+", default_replica())
    assert default_replica().endswith(str(os.getpid()))


def test_from_environment_takes_the_share_of_sampled_inputs_and_samples_none_without(monkeypatch):
    assert GatewayConfig.from_environment().sample_inputs == 0.0
    monkeypatch.setenv("STILLHOUSE_SAMPLE_INPUTS", "0.25")
    assert GatewayConfig.from_environment().sample_inputs == 0.25
    assert GatewayConfig.from_environment(sample_inputs=0.0).sample_inputs == 0.0


@pytest.mark.parametrize(
    "wrong", [{"sample_inputs": 1.5}, {"replica": "../x"}, {"replica": ""}, {"port": 70000}, {"unknown": 1}]
)
def test_config_is_refused_when_a_value_is_wrong(wrong, tmp_path):
    with pytest.raises(ValidationError):
        GatewayConfig(**({"store": tmp_path, "traffic": tmp_path} | wrong))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_config_refuses_to_listen_beyond_loopback_without_tokens(host, tmp_path):
    places = {"store": tmp_path, "traffic": tmp_path, "host": host}
    with pytest.raises(ValidationError, match=r"--tokens.*--allow-anonymous"):
        GatewayConfig(**places)
    assert GatewayConfig(**places, allow_anonymous=True).host == host
    assert GatewayConfig(**places, tokens=tmp_path / "tokens.json").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_config_needs_no_tokens_on_loopback(host, tmp_path):
    assert GatewayConfig(store=tmp_path, traffic=tmp_path, host=host).tokens is None


def test_config_wants_certificate_and_key_together(tmp_path):
    for given in ({"tls_cert": tmp_path / "c"}, {"tls_key": tmp_path / "k"}):
        with pytest.raises(ValidationError, match="belong together"):
            GatewayConfig(store=tmp_path, traffic=tmp_path, **given)


def test_from_environment_takes_the_file_of_tokens(monkeypatch):
    monkeypatch.setenv("STILLHOUSE_GATEWAY_TOKENS", "/run/secrets/tokens.json")
    config = GatewayConfig.from_environment(host="0.0.0.0")
    assert str(config.tokens) == "/run/secrets/tokens.json"


@pytest.mark.parametrize("text", ['{"max_queue": 7, "port": 9000}', "max_queue: 7\nport: 9000\n"])
def test_from_environment_takes_the_file_before_the_environment_and_options_before_the_file(
    monkeypatch, tmp_path, text
):
    monkeypatch.setenv("STILLHOUSE_REPLICA", "r")
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    config = GatewayConfig.from_environment(file=file, port=9001)
    assert (config.max_queue, config.port, config.replica) == (7, 9001, "r")


def test_from_environment_refuses_a_file_with_an_unknown_setting(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text("max_queu: 7\n")
    with pytest.raises(ValidationError, match="max_queu"):
        GatewayConfig.from_environment(file=file)
