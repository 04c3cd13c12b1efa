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
