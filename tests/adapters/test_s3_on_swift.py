"""What OpenStack Swift lacks is refused by name, and the rest works there."""

import numpy as np
import pytest

from tasks.adapters.s3_store import S3Artifacts, S3Checkpoints, S3Documents, S3Files
from tasks.contracts.artifact import artifact_key
from tasks.contracts.errors import ArtifactCorruptError, UserError
from tests.adapters import swift_server
from tests.adapters.s3_server import Fault, FaultyProxy, World

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    if lacks := swift_server.missing():
        pytest.skip(f"OpenStack Swift is not installed: {lacks} missing")
    with swift_server.swift(tmp_path_factory.mktemp("swift")) as url:
        yield url


@pytest.fixture
def swift(address, monkeypatch):
    for name, value in swift_server.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    host, port = address.removeprefix("http://").split(":")
    proxy = FaultyProxy(host, int(port))
    yield World(address, proxy, "swift")
    proxy.stop()


def test_documents_are_refused_before_anything_is_written(swift):
    with pytest.raises(UserError, match=r"refuses If-None-Match.*STILLHOUSE_STORE_URL"):
        S3Documents(swift.bucket(endpoint=swift.server, checksums="none")).append("routes/digits", b"{}", 0)
    assert swift.objects() == []


def test_checksums_are_refused_with_the_setting_that_helps(swift):
    with pytest.raises(UserError, match="STILLHOUSE_S3_CHECKSUMS=none"):
        S3Artifacts(swift.bucket(endpoint=swift.server)).put(b"a model")


@pytest.mark.parametrize("mib", [0, 20])
def test_artifacts_checkpoints_and_listings_work_without_checksums(swift, mib):
    data = np.random.default_rng(0).bytes(mib * 2**20 + 1)
    bucket = swift.bucket(endpoint=swift.server, checksums="none")
    artifacts = S3Artifacts(bucket)
    digest = artifacts.put(data).digest
    assert artifacts.contains(digest)
    assert artifacts.get(digest) == data
    bucket.touch(artifact_key(digest))
    assert artifacts.contains(digest)
    S3Checkpoints(bucket).save("stage", data)
    assert S3Checkpoints(bucket).load("stage") == data
    assert [item.key for item in S3Files(bucket).entries("sha256/")] == [artifact_key(digest)]
    swift.overwrite(artifact_key(digest), b"other")
    with pytest.raises(ArtifactCorruptError):
        artifacts.get(digest)


def test_the_signature_vouches_for_a_body_where_checksums_do_not(swift):
    """A body that is not what was signed is refused, and goes again."""
    left = [1]

    def ask(method, _path):
        left[0] -= method == "PUT"
        return Fault(sent_changed=True) if method == "PUT" and left[0] == 0 else None

    swift.proxy.fault = ask
    digest = S3Artifacts(swift.bucket(checksums="none")).put(b"a model").digest
    assert swift.raw(artifact_key(digest)) == b"a model"
