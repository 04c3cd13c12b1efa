import json
import subprocess
import sys
import textwrap
from pathlib import Path

import mlflow
import numpy as np
import pytest

from tasks.adapters.mlflow_connection import connection
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.mlflow_tracking import MlflowTracker
from tasks.contracts.errors import ModelError, UserError
from tasks.contracts.value import sha256_hex
from tasks.runtime.settings import Settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from onnx_models import example_rows, linear_model  # noqa: E402 - a module beside this one

MODEL = linear_model(1.0)
DIGEST = sha256_hex(MODEL)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(home=tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def registry(settings):
    return MlflowRegistry(settings)


@pytest.fixture(scope="module")
def parent(settings):
    return MlflowTracker(settings).parent_run("registry", "flow", "run", {})


def register(registry, parent, name, model=MODEL, **changes):
    values = {"example": example_rows(), "tags": {"stillhouse.plan": "p1"}, "files": {"evidence/gate.json": b"{}"}}
    return registry.register(name, sha256_hex(model), model, parent_run_id=parent, **(values | changes))


def test_register_gives_one_version_per_digest_when_called_again(registry, parent):
    first = register(registry, parent, "once")
    again = register(registry, parent, "once", tags={"stillhouse.plan": "another"})
    other = register(registry, parent, "once", linear_model(2.0))

    assert (first.version, again.version, other.version) == (1, 1, 2)
    assert dict(again.tags) == {"stillhouse.plan": "p1", "stillhouse.digest": DIGEST}
    assert [version.version for version in registry.versions("once")] == [1, 2]


def test_register_keeps_the_artifact_byte_for_byte_when_it_is_downloaded(registry, parent, settings, tmp_path):
    register(registry, parent, "bytes")
    logged = connection(settings).client.search_logged_models([_experiment(settings)], "name = 'bytes'")[0]

    folder = Path(logged.artifact_location.removeprefix("file://"))
    assert (folder / "model.onnx").read_bytes() == MODEL
    assert (folder / "evidence" / "gate.json").read_bytes() == b"{}"
    assert "onnxruntime==" in (folder / "requirements.txt").read_text()
    assert not list(folder.rglob("*.pkl"))


def test_register_links_model_run_and_version_when_seen_from_mlflow(registry, parent, settings):
    register(registry, parent, "linked")
    client = connection(settings).client

    logged = client.search_logged_models([_experiment(settings)], "name = 'linked'")[0]
    assert logged.source_run_id == parent
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "linked", "version": 1}]
    assert logged.model_id in {output.model_id for output in client.get_run(parent).outputs.model_outputs}
    assert client.get_model_version("linked", "1").run_id == parent


def test_register_describes_the_version_and_cuts_what_postgresql_would_refuse(registry, parent, settings):
    register(registry, parent, "described", description="small *and* fast")
    register(registry, parent, "described", linear_model(2.0), description="x" * 6_000)
    client = connection(settings).client

    assert client.get_model_version("described", "1").description == "small *and* fast"
    assert client.get_model_version("described", "2").description == "x" * 5_000


def test_registered_model_answers_through_mlflow_when_loaded_by_alias(registry, parent, settings):
    version = register(registry, parent, "served", linear_model(3.0))
    registry.set_alias("served", "champion", version.version)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(settings.tracking_address)
    try:
        loaded = mlflow.pyfunc.load_model("models:/served@champion")
        proto = mlflow.onnx.load_model("models:/served@champion")
    finally:
        mlflow.set_tracking_uri(before)

    np.testing.assert_array_equal(loaded.predict(np.ones((2, 4), np.float32))["logits"], np.full((2, 3), 12.0))
    assert proto.SerializeToString() == linear_model(3.0)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 4)
    assert loaded.metadata.signature.outputs.inputs[0].name == "logits"


def test_aliases_move_and_vanish_when_set_and_deleted(registry, parent):
    first = register(registry, parent, "aliased")
    second = register(registry, parent, "aliased", linear_model(2.0))
    for version in (first, second):
        registry.set_alias("aliased", "champion", version.version)
    registry.set_alias("aliased", "previous", first.version)

    assert registry.version_of("aliased", "champion").version == 2
    assert registry.version("aliased", 2).aliases == ("champion",)
    assert registry.find_version("aliased", DIGEST).aliases == ("previous",)
    for _ in range(2):
        registry.delete_alias("aliased", "previous")
    assert registry.version_of("aliased", "previous") is None


def test_reading_answers_none_when_nothing_is_registered_under_the_name(registry):
    assert registry.find_version("nobody", DIGEST) is None
    assert registry.version_of("nobody", "champion") is None
    assert registry.versions("nobody") == []
    assert "nobody" not in registry.names()


def test_version_names_what_there_is_when_the_version_is_unknown(registry, parent):
    register(registry, parent, "known")

    with pytest.raises(ModelError, match=r"model known has no version 7 .* it has \[1\]"):
        registry.version("known", 7)
    with pytest.raises(UserError):
        registry.set_alias("known", "champion", 7)


def test_register_refuses_when_bytes_and_digest_differ(registry, parent):
    with pytest.raises(ModelError, match="has the digest"):
        registry.register("wrong", "0" * 64, MODEL, example_rows(), {}, {}, parent)


@pytest.mark.parametrize("model", [b"no onnx", b""])
def test_register_leaves_no_version_when_the_model_does_not_load(registry, parent, model):
    with pytest.raises(ModelError):
        register(registry, parent, "broken", model)

    assert registry.versions("broken") == []


def test_register_makes_a_version_again_when_a_user_deleted_it(registry, parent, settings):
    first = register(registry, parent, "deleted")
    connection(settings).client.delete_model_version("deleted", str(first.version))

    again = register(registry, parent, "deleted")

    assert [version.version for version in registry.versions("deleted")] == [again.version]


KILLS = textwrap.dedent(
    """
    import json, os, shutil, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from onnx_models import example_rows, linear_model
    import mlflow.onnx
    from tasks.adapters import mlflow_registry
    from tasks.adapters.mlflow_connection import _import_mlflow, connection
    from tasks.adapters.mlflow_registry import MlflowRegistry
    from tasks.adapters.mlflow_tracking import MlflowTracker
    from tasks.contracts.value import sha256_hex
    from tasks.runtime.settings import Settings

    settings = Settings(home=Path(sys.argv[1]))
    model = linear_model(1.0)
    WRITES = ["create_registered_model", "create_logged_model", "log_outputs", "log_model_artifacts",
              "finalize_logged_model", "create_model_version", "set_logged_model_tags"]

    class DyingClient:
        def __init__(self, client, victim):
            self.client, self.victim = client, victim
        def __getattr__(self, name):
            method = getattr(self.client, name)
            def call(*args, **kwargs):
                if name == self.victim == "log_model_artifacts":  # half of the files
                    os.remove(os.path.join(args[1], "MLmodel"))
                result = method(*args, **kwargs)
                if name == self.victim:
                    os.kill(os.getpid(), 9)
                return result
            return call

    def register(victim, parent):
        shared = connection(settings)
        shared._client = DyingClient(shared.client, victim)
        MlflowRegistry(settings).register(
            "kill-" + victim.replace("_", "-"), sha256_hex(model), model, example_rows(), {}, {}, parent)

    def in_child(work, *args):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write_end, json.dumps(work(*args)).encode())
                os._exit(0)
            finally:
                os._exit(1)
        os.close(write_end)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, json.loads(os.read(read_end, 100000) or b"null")

    def finish(parent):
        registry, client = MlflowRegistry(settings), connection(settings).client
        experiment = client.get_run(parent).info.experiment_id
        outcome = {}
        for victim in WRITES:
            name = "kill-" + victim.replace("_", "-")
            registry.register(name, sha256_hex(model), model, example_rows(), {}, {}, parent)
            logged = client.search_logged_models([experiment], f"name = '{name}'")
            outcome[victim] = {
                "versions": len(registry.versions(name)),
                "logged": [str(one.status) for one in logged],
                "whole": all(Path(one.artifact_location.removeprefix("file://"), "MLmodel").exists() for one in logged),
            }
        return outcome

    _import_mlflow()
    _, parent = in_child(lambda: MlflowTracker(settings).parent_run("kills", "flow", "run", {}))
    codes = {victim: in_child(register, victim, parent)[0] for victim in WRITES}
    print(json.dumps({"codes": codes, "outcome": in_child(finish, parent)[1]}))
    """
)


@pytest.mark.slow
def test_register_ends_with_one_whole_version_when_killed_after_any_write(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path / "home"), str(HERE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    seen = json.loads(done.stdout)
    assert set(seen["codes"].values()) == {-9}, done.stderr
    assert seen["outcome"] is not None, done.stderr
    for victim, state in seen["outcome"].items():
        assert state == {"versions": 1, "logged": ["READY"], "whole": True}, victim


def _experiment(settings):
    return connection(settings).client.get_experiment_by_name("registry").experiment_id
