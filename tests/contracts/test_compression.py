import pytest

from tasks.contracts.compression import original_form, stored_form
from tasks.contracts.value import sha256_hex


@pytest.mark.parametrize("data", [b"", b"a", b"weights" * 1000, bytes(range(256))])
def test_stored_form_gives_back_the_very_bytes(data: bytes) -> None:
    for compression in ("none", "zstd"):
        assert original_form(stored_form(data, compression), sha256_hex(data)) == data


def test_stored_form_is_small_when_the_data_repeat() -> None:
    assert len(stored_form(b"weights" * 1000, "zstd")) < 100


@pytest.mark.parametrize("length", [0, 3, 4, 10, -1])
def test_original_form_is_none_when_the_frame_is_cut(length: int) -> None:
    data = bytes(range(256)) * 20
    assert original_form(stored_form(data, "zstd")[:length], sha256_hex(data)) is None


def test_original_form_is_none_when_a_byte_changed_or_another_artifact_lies_there() -> None:
    data = bytes(range(256)) * 20
    frame = stored_form(data, "zstd")
    changed = frame[:-1] + bytes([frame[-1] ^ 1])
    assert original_form(changed, sha256_hex(data)) is None
    assert original_form(stored_form(b"another", "zstd"), sha256_hex(data)) is None


def test_original_form_leaves_an_artifact_alone_when_it_is_a_frame_itself() -> None:
    artifact = stored_form(b"weights" * 1000, "zstd")
    assert original_form(artifact, sha256_hex(artifact)) == artifact
    assert original_form(stored_form(artifact, "zstd"), sha256_hex(artifact)) == artifact
