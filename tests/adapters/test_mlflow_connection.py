import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tasks.adapters.mlflow_connection import MlflowConnection, environment_of_mlflow
from tasks.adapters.mlflow_tracking import MlflowTracker
from tasks.contracts.errors import InfrastructureError, ServiceUnavailableError, UserError
from tasks.runtime.settings import Settings

HERE = Path(__file__).parent

RACE = textwrap.dedent(
    """
    import json, os, sys, tempfile
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from onnx_models import example_rows, linear_model
    from tasks.adapters.mlflow_connection import _import_mlflow
    from tasks.adapters.mlflow_registry import MlflowRegistry
    from tasks.adapters.mlflow_tracking import MlflowTracker
    from tasks.contracts.value import sha256_hex
    from tasks.runtime.settings import Settings

    def work():
        settings = Settings(home=Path(sys.argv[1]))
        tracker = MlflowTracker(settings)
        parent = tracker.parent_run("race", "flow-run", "run", {"seed": "1"})
        stage = tracker.stage_run("race", parent, "train/key", "train", {}, {"accuracy": 0.9}, (), {})
        model = linear_model(1.0)
        version = MlflowRegistry(settings).register(
            "race", sha256_hex(model), model, example_rows(), {}, {"gate.json": b"{}"}, parent
        )
        return [parent, stage, version.version]

    _import_mlflow()
    import mlflow.onnx, mlflow.pyfunc, onnxruntime  # before the processes part, so that only one pays for it
    gate_read, gate_write = os.pipe()
    children, pipes = [], []
    for _ in range(4):
        answer_read, answer_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(gate_write)
            os.read(gate_read, 1)  # end-of-file for all at once, when the parent closes its end
            try:
                os.write(answer_write, json.dumps(work()).encode())
            finally:
                os._exit(0)
        os.close(answer_write)
        children.append(child)
        pipes.append(answer_read)
    os.close(gate_write)
    for child in children:
        os.waitpid(child, 0)
    print(json.dumps([json.loads(os.read(pipe, 10000) or b'null') for pipe in pipes]))
    """
)


def test_connection_makes_one_run_and_one_version_when_four_processes_start_on_nothing_at_once(tmp_path):
    command = [sys.executable, "-c", RACE, str(tmp_path / "home"), str(HERE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    answers = json.loads(done.stdout)
    assert answers[0] is not None, done.stderr
    assert answers == [answers[0]] * 4
    assert answers[0][2] == 1
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["home"]  # and no ./mlruns


def test_client_names_address_and_setting_when_the_server_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = Settings(home=tmp_path, tracking_url="http://ann:secret@127.0.0.1:9/")

    with pytest.raises(ServiceUnavailableError, match="STILLHOUSE_TRACKING_URL") as caught:
        MlflowTracker(settings).parent_run("digits", "flow", "run", {})

    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_client_names_the_setting_when_the_database_is_damaged(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)

    with pytest.raises(InfrastructureError, match="STILLHOUSE_TRACKING_URL"):
        MlflowTracker(Settings(home=tmp_path)).parent_run("digits", "flow", "run", {})


def test_experiment_id_says_how_to_go_on_when_the_experiment_is_deleted(tmp_path):
    connection = MlflowConnection(Settings(home=tmp_path))
    connection.client.delete_experiment(connection.experiment_id("digits"))

    with pytest.raises(UserError, match="mlflow experiments restore"):
        MlflowConnection(Settings(home=tmp_path)).experiment_id("digits")


def test_environment_of_mlflow_says_of_s3_what_our_settings_say(tmp_path):
    assert environment_of_mlflow(Settings(home=tmp_path)) == {}
    settings = Settings(home=tmp_path, s3_endpoint="http://127.0.0.1:9", s3_region="eu-1", s3_encryption="AES256")
    assert environment_of_mlflow(settings) == {
        "MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_DEFAULT_REGION": "eu-1",
        "MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"ServerSideEncryption": "AES256"}',
    }
