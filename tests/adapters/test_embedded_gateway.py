import sys
import time

import pytest

from tasks.adapters.embedded_gateway import run_gateway
from tasks.adapters.local_store import LocalAcknowledgements, LocalArtifacts, LocalDocuments
from tasks.adapters.route_store import RouteStore
from tasks.adapters.signing_keys import make_key_pair
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.runtime.settings import Settings

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b"))


@pytest.mark.slow
def test_a_gateway_that_is_started_here_verifies_signatures_when_the_settings_say_so(tmp_path):
    make_key_pair(tmp_path / "own.pem", tmp_path / "keys" / "own.pem")
    store = tmp_path / "store"
    routes = RouteStore(LocalDocuments(store), LocalAcknowledgements(store))
    arm = Arm(digest=LocalArtifacts(store).put(b"a model that nobody signed").digest, version=1)
    routes.publish(Route(model_name="digits", signature=SIGNATURE, champion=arm), 0)
    environment = Settings(home=tmp_path, verify_keys=tmp_path / "keys").gateway_environment
    command = (sys.executable, "-m", "infra.gateway")

    with run_gateway(command, store, tmp_path / "traffic", tmp_path / "log", environment):
        deadline = time.monotonic() + 60
        while not (heard := routes.acknowledgements("digits")):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)

    assert "is not signed" in heard[0].message
