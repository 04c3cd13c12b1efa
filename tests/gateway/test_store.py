from pathlib import Path

import pytest

from infra.gateway.store import GatewayStore
from tasks.adapters.local_store import LocalArtifacts
from tasks.contracts.artifact import artifact_key
from tasks.contracts.errors import ArtifactCorruptError, ArtifactMissingError

MODEL = b"the same weight again and again" * 100


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_read_artifact_reads_what_the_pipeline_stored(tmp_path: Path, compression: str) -> None:
    digest = LocalArtifacts(tmp_path, compression).put(MODEL).digest
    assert GatewayStore(tmp_path).read_artifact(digest) == MODEL
    assert ((tmp_path / artifact_key(digest)).stat().st_size < len(MODEL)) == (compression == "zstd")


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_read_artifact_refuses_a_blob_when_it_is_truncated(tmp_path: Path, compression: str) -> None:
    digest = LocalArtifacts(tmp_path, compression).put(MODEL).digest
    path = tmp_path / artifact_key(digest)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactCorruptError, match=digest):
        GatewayStore(tmp_path).read_artifact(digest)


def test_read_artifact_says_so_when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="0000"):
        GatewayStore(tmp_path).read_artifact("0" * 64)
