from dataclasses import replace

import pytest

from flows.diagnosis import storage
from tasks.adapters.s3_probe import BucketFacts
from tasks.contracts.shipping import ShippingState
from tasks.runtime.services import connect

BUCKET = BucketFacts("s3://models/store/", 0.123, "on", "AES256")


def test_judge_bucket_notes_what_the_bucket_does_not_promise() -> None:
    found = storage.judge_bucket("store", BUCKET)
    assert (found.state, found.detail) == (
        "ok",
        "s3://models/store/: put, get, conditional put and delete in 0.12 s; versioning on, encryption AES256",
    )
    assert "versioning" in storage.judge_bucket("store", replace(BUCKET, versioning="off")).remedy
    assert "STILLHOUSE_S3_ENCRYPTION" in storage.judge_bucket("store", replace(BUCKET, encryption="off")).remedy
    assert storage.judge_bucket("store", replace(BUCKET, versioning="not told (AccessDenied)")).state == "ok"


def test_store_in_a_folder_is_written_and_read() -> None:
    found = storage.store(connect())

    assert (found.state, found.detail) == ("ok", f"{connect().settings.store_root} can be written and read")


def test_log_notes_what_was_lost_on_its_way_to_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.log(connect()).detail.startswith("gateways write it to ")
    state = ShippingState.model_construct(waiting_segments=3, shipped_rows=10, lost_rows=0, damaged_segments=0)
    monkeypatch.setattr(storage, "shipping_state", lambda settings: state)
    assert storage.log(connect()).state == "ok"
    lossy = state.model_copy(update={"lost_rows": 7})
    monkeypatch.setattr(storage, "shipping_state", lambda settings: lossy)
    found = storage.log(connect())
    assert (found.state, "lost 7" in found.detail, "--max-waiting-gb" in found.remedy) == ("note", True, True)
