import os
import time
from pathlib import Path

import pytest

from infra.gateway.durable import ABANDONED_AFTER_S
from infra.gateway.store import GatewayStore
from tasks.adapters.local_store import LocalArtifacts
from tasks.contracts.artifact import artifact_key
from tasks.contracts.errors import ArtifactCorruptError, ArtifactMissingError
from tasks.contracts.route import RouteAcknowledgement

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


def acknowledgement(replica: str, version: int) -> RouteAcknowledgement:
    at = f"2026-01-01T00:00:0{version}+00:00"
    return RouteAcknowledgement(model_name="digits", replica=replica, route_version=version, ready=True, at=at)


def test_withdraw_leaves_what_another_process_wrote_under_the_same_name(tmp_path: Path) -> None:
    ending, started = GatewayStore(tmp_path), GatewayStore(tmp_path)
    path = tmp_path / "acknowledgements" / "digits" / "r.json"
    ending.acknowledge(acknowledgement("r", 1))
    started.acknowledge(acknowledgement("r", 2))
    ending.withdraw("digits", "r")
    assert RouteAcknowledgement.model_validate_json(path.read_bytes()).route_version == 2
    started.withdraw("digits", "r")
    assert not path.exists()
    started.withdraw("digits", "r")


def test_forget_the_dead_removes_what_was_not_renewed_for_an_hour(tmp_path: Path) -> None:
    store = GatewayStore(tmp_path)
    for replica in ("alive", "dead"):
        store.acknowledge(acknowledgement(replica, 1))
    folder = tmp_path / "acknowledgements" / "digits"
    (folder / ".staged-x").write_bytes(b"{")
    old = time.time() - ABANDONED_AFTER_S - 60
    for name in ("dead.json", ".staged-x"):
        os.utime(folder / name, (old, old))
    assert store.forget_the_dead("digits") == 2
    assert [path.name for path in folder.iterdir()] == ["alive.json"]
    assert store.forget_the_dead("unknown") == 0
