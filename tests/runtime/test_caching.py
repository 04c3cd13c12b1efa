import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.contracts.artifact import artifact_key
from tasks.contracts.data import DatasetRef, SplitRef
from tasks.contracts.errors import ArtifactMissingError
from tasks.contracts.model import ModelRef, StageResult
from tasks.runtime.caching import StageLocks, StageRecords, identity, stage_key
from tasks.runtime.services import connect
from tasks.techniques.distillation.distill_response import DistillResponse

MODULES = ["tasks.stages.applying"]


def made(digest: str = "a" * 64, seconds: float = 1.0) -> StageResult:
    return StageResult(
        stage_key="k", kind="train", seconds=seconds, model=ModelRef(digest=digest, format="torch", size_bytes=3)
    )


def test_stage_key_depends_on_the_model_and_not_on_how_long_it_took() -> None:
    fast, slow = made(seconds=1.0), made(seconds=9.0)
    assert stage_key("compress", {"previous": fast}, MODULES) == stage_key("compress", {"previous": slow}, MODULES)
    assert stage_key("compress", {"previous": made("b" * 64)}, MODULES) != stage_key(
        "compress", {"previous": fast}, MODULES
    )


@pytest.mark.parametrize("change", [{"temperature": 6.0}, {"num_threads": 2}, {"label_weight": 0.3}])
def test_stage_key_changes_with_every_field_of_the_spec(change: dict[str, float]) -> None:
    spec = DistillResponse()
    assert stage_key("compress", {"technique": spec}, MODULES) != stage_key(
        "compress", {"technique": spec.model_copy(update=change)}, MODULES
    )


def test_stage_key_changes_with_the_source_of_a_users_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usernets.py").write_text("width = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = DistillResponse.model_validate({"student": {"factory": "usernets:make", "kwargs": {}}})
    before = stage_key("compress", {"technique": spec}, MODULES)
    (tmp_path / "usernets.py").write_text("width = 3  # a comment\n")
    assert stage_key("compress", {"technique": spec}, MODULES) != before


def test_stage_key_is_the_same_in_another_process() -> None:
    script = (
        "from tasks.runtime.caching import stage_key\n"
        "from tasks.techniques.distillation.distill_response import DistillResponse\n"
        "print(stage_key('compress', {'technique': DistillResponse(), 'seed': 1}, ['tasks.stages.applying']))\n"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == stage_key("compress", {"technique": DistillResponse(), "seed": 1}, MODULES)


def test_identity_of_a_data_set_is_its_digest() -> None:
    split = SplitRef(digest="c" * 64, size_bytes=1, num_rows=1, composition={})
    data = DatasetRef(
        name="d", task="regression", revision="r", input_shape=(1,), class_names=(), splits={"train": split}
    )
    assert identity(data) == data.digest


def test_identity_refuses_what_has_no_stable_form() -> None:
    with pytest.raises(TypeError, match="set"):
        identity({1, 2})


def record_of(reference_digest: str) -> bytes:
    result = json.dumps({"__class__": "x", "data": {"model": {"digest": reference_digest, "size_bytes": 7}}})
    return json.dumps({"metadata": {}, "result": result}).encode()


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_read_path_refuses_a_record_when_its_artifact_is_not_whole(damage: str) -> None:
    services = connect()
    reference = services.artifacts.put(b"weights")
    records = StageRecords()
    records.write_path("compress/abc", record_of(reference.digest))
    assert records.read_path("compress/abc") == record_of(reference.digest)
    place = services.settings.store_root / artifact_key(reference.digest)
    if damage == "missing":
        place.unlink()
    else:
        place.write_bytes(b"weigh")
    with pytest.raises(ArtifactMissingError, match=reference.digest):
        records.read_path("compress/abc")


def test_acquire_lock_makes_a_second_holder_wait_until_release() -> None:
    first, second, entered = StageLocks(), StageLocks(), threading.Event()
    first.acquire_lock("k", "one")
    assert not second.acquire_lock("k", "two", acquire_timeout=0)

    def wait() -> None:
        second.acquire_lock("k", "two")
        entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not entered.wait(0.2)
    first.release_lock("k", "one")
    assert entered.wait(10)
    thread.join()
    assert second.is_lock_holder("k", "two")
    second.release_lock("k", "two")
    assert not first.is_locked("k")


def test_release_lock_refuses_a_stranger() -> None:
    locks = StageLocks()
    locks.acquire_lock("k", "one")
    with pytest.raises(ValueError, match="two"):
        locks.release_lock("k", "two")
    locks.release_lock("k", "one")
