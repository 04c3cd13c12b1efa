import sys

import numpy as np
import pytest

from tasks.adapters.signing_keys import make_key_pair
from tasks.contracts.errors import ServiceUnavailableError
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings, current_settings
from tasks.stages.serving import try_serving

NAMES = ("ant", "bee", "cat")
GATEWAY = (sys.executable, "-m", "infra.gateway")


@pytest.fixture
def data(store_dataset):
    rng = np.random.default_rng(0)
    return store_dataset(
        rng.normal(size=(200, 5)).astype(np.float32), rng.integers(3, size=200), "classification", NAMES
    )


def test_try_serving_has_the_gateway_answer_as_onnxruntime_does(store_model, linear_onnx, data):
    found = try_serving(store_model(linear_onnx(np.eye(5, 3))), data, GATEWAY)
    assert found.num_requests == 65
    assert not found.failures
    assert not found.refusal
    assert found.max_relative_difference < 1e-6


@pytest.mark.parametrize("has_signing_key", [True, False])
def test_try_serving_asks_for_the_file_whether_or_not_the_gateway_verifies_signatures(
    store_model, linear_onnx, data, tmp_path, monkeypatch, has_signing_key
):
    make_key_pair(tmp_path / "own.pem", tmp_path / "own.pub.pem")
    monkeypatch.setenv("STILLHOUSE_VERIFY_KEYS", str(tmp_path / "own.pub.pem"))
    if has_signing_key:
        monkeypatch.setenv("STILLHOUSE_SIGNING_KEY", str(tmp_path / "own.pem"))
    current_settings.cache_clear()
    connect.cache_clear()

    assert not try_serving(store_model(linear_onnx(np.eye(5, 3))), data, GATEWAY).refusal


def test_try_serving_says_why_the_gateway_refuses_the_file(store_model, linear_onnx, data):
    found = try_serving(store_model(linear_onnx(np.eye(5, 4))), data, GATEWAY)
    assert "its route says 3 outputs a row" in found.refusal
    assert found.num_requests == 0


def test_try_serving_counts_requests_that_are_not_answered(store_model, linear_onnx, data):
    weights = np.eye(5, 3)
    weights[0, 0] = 3e38  # overflows where feature 0 is larger than one
    found = try_serving(store_model(linear_onnx(weights)), data, GATEWAY)
    assert 0 < sum(found.failures.values()) < found.num_requests
    assert all("HTTP 50" in reason for reason in found.failures)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("no-such-gateway",), "cannot be started by 'no-such-gateway'"),
        ((sys.executable, "-c", "raise SystemExit(7)"), "ended with code 7"),
    ],
)
def test_try_serving_blames_no_model_when_the_gateway_does_not_start(store_model, linear_onnx, data, command, reason):
    with pytest.raises(ServiceUnavailableError, match=reason):
        try_serving(store_model(linear_onnx(np.eye(5, 3))), data, command)


def test_gateway_command_is_split_as_a_shell_does():
    assert Settings(serving_command="podman run 'my image' gateway").gateway_command == (
        "podman", "run", "my image", "gateway",
    )  # fmt: skip
    assert Settings(serving_command=None).gateway_command[1:] == ("-m", "infra.gateway")
