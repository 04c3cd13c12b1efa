"""What S3 and the way to it can do to a store, beyond what a folder can."""

import hashlib
import threading
import tracemalloc
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest

from tasks.adapters.s3_bucket import Bucket, ObjectFacts
from tasks.adapters.s3_store import S3Artifacts, S3Checkpoints, S3Documents, S3Records, _is_verified
from tasks.contracts.artifact import artifact_key, document_key
from tasks.contracts.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    DocumentConflictError,
    ServiceUnavailableError,
    UserError,
)
from tasks.contracts.object_place import ObjectPlace
from tests.adapters.s3_server import SETTING, Fault

MIB = 2**20


def large(mib=20):
    return np.random.default_rng(0).bytes(mib * MIB)


def requests(s3, method, part=""):
    return [path for seen, path in s3.proxy.seen if seen == method and part in path]


def times(number, fault, method="GET"):
    """A fault of the first `number` requests of a method."""
    left = [number]

    def ask(seen, path):
        if seen == method and left[0]:
            left[0] -= 1
            return fault
        return None

    return ask


def test_a_large_artifact_travels_in_parts_that_s3_verifies_and_comes_back_whole(s3):
    data, artifacts = large(), S3Artifacts(s3.bucket())
    reference = artifacts.put(data)
    parts = requests(s3, "PUT", "partNumber")
    assert len(parts) == 3
    answer = s3.client.get_object(
        Bucket=s3.name, Key=f"team/store/{artifact_key(reference.digest)}", ChecksumMode="ENABLED"
    )
    assert answer["ChecksumSHA256"].endswith("-3")
    answer["Body"].close()
    assert artifacts.contains(reference.digest)
    assert artifacts.get(reference.digest) == data


def test_an_artifact_is_not_seen_before_its_last_part_is_there(s3):
    data, seen = large(), []
    digest = hashlib.sha256(data).hexdigest()

    def look(method, path):
        if method == "POST" and "uploadId" in path:
            seen.append(artifact_key(digest) in s3.objects())

    s3.proxy.fault = look
    S3Artifacts(s3.bucket()).put(data)
    assert seen == [False]
    assert artifact_key(digest) in s3.objects()


def test_a_hit_costs_one_request_and_no_download(s3):
    digest = S3Artifacts(s3.bucket()).put(b"a model" * 1000).digest
    s3.proxy.seen.clear()
    assert S3Artifacts(s3.bucket()).contains(digest)
    assert [method for method, _ in s3.proxy.seen] == ["HEAD"]


@pytest.mark.parametrize(
    ("sha256", "metadata", "verified"),
    [
        ("a" * 64, {"sha256": "d" * 64, "stored-sha256": "a" * 64}, True),
        ("", {"sha256": "d" * 64, "stored-sha256": "a" * 64}, True),
        ("b" * 64, {"sha256": "d" * 64, "stored-sha256": "a" * 64}, False),
        ("a" * 64, {"sha256": "e" * 64, "stored-sha256": "a" * 64}, False),
        (None, {"sha256": "d" * 64, "stored-sha256": "a" * 64}, False),
        (None, {"sha256": "d" * 64}, False),
        ("", {}, False),
    ],
)
def test_s3_vouches_for_an_artifact_by_a_checksum_that_fits_its_metadata(sha256, metadata, verified):
    assert _is_verified(ObjectFacts(1, datetime.now(UTC), metadata, sha256), "d" * 64) is verified


def test_contains_reads_what_came_without_a_checksum_in_little_memory(s3):
    data = large(32)
    digest = hashlib.sha256(data).hexdigest()
    s3.overwrite(artifact_key(digest), data)
    artifacts = S3Artifacts(s3.bucket())
    artifacts.contains("0" * 64)  # so that what the client imports does not count
    sha256 = s3.bucket().sha256
    sha256("absent")
    tracemalloc.start()
    assert sha256(artifact_key(digest)) == digest
    # the server's copies lie in this process too; the adapter's own chunk is what is asked about
    own = sum(
        one.size
        for one in tracemalloc.take_snapshot().statistics("filename")
        if "s3_bucket" in one.traceback[0].filename
    )
    tracemalloc.stop()
    assert own < 4 * MIB
    assert artifacts.contains(digest)


def test_contains_is_false_when_other_bytes_lie_there_under_the_same_metadata(s3):
    reference = S3Artifacts(s3.bucket()).put(b"a model")
    key = artifact_key(reference.digest)
    s3.overwrite(key, b"a modem", Metadata=s3.head(key)["Metadata"], ChecksumAlgorithm="SHA256")
    assert not S3Artifacts(s3.bucket()).contains(reference.digest)


def test_put_repairs_an_artifact_that_a_read_has_found_damaged(s3):
    artifacts, data = S3Artifacts(s3.bucket()), large()
    reference = artifacts.put(data)
    s3.proxy.fault = times(9, Fault(changed=True))
    with pytest.raises(ArtifactCorruptError, match=f"s3://{s3.name}/team/store/sha256"):
        artifacts.get(reference.digest)
    s3.proxy.fault = lambda method, path: None
    assert not artifacts.contains(reference.digest)
    artifacts.put(data)
    assert artifacts.contains(reference.digest)


@pytest.mark.parametrize("mib", [1, 20])
def test_get_heals_when_connections_are_cut_within_the_body(s3, mib):
    data, artifacts = large(mib), S3Artifacts(s3.bucket())
    reference = artifacts.put(data)
    s3.proxy.fault = times(3, Fault(cut_at=1000))
    assert artifacts.get(reference.digest) == data


def test_a_storm_of_503_for_a_minute_heals(s3):
    def storm(method, path):
        return Fault(status=503) if s3.clock.now < 60.0 else None

    s3.proxy.fault = storm
    reference = S3Artifacts(s3.bucket()).put(b"a model")
    assert s3.clock.now >= 60.0
    assert len(s3.clock.slept) < 15
    s3.clock.now = 0.0
    assert S3Artifacts(s3.bucket()).get(reference.digest) == b"a model"
    s3.clock.now = 0.0
    assert S3Documents(s3.bucket()).append("a", b"{}", 0).version == 1


def test_patience_ends_with_an_error_that_names_object_endpoint_and_setting(s3):
    s3.proxy.fault = lambda method, path: Fault(status=503)
    with pytest.raises(ServiceUnavailableError) as caught:
        S3Records(s3.bucket()).write("compress/abc", b"record")
    assert 100.0 < s3.clock.now <= 150.0
    for named in (f"s3://{s3.name}/team/store/stages/compress/abc.json", s3.proxy.url, SETTING, "150 s"):
        assert named in str(caught.value)


def test_an_endpoint_that_does_not_answer_is_named(s3):
    bucket = s3.bucket(endpoint="http://127.0.0.1:9", patience=s3.clock.patience(5.0))
    with pytest.raises(ServiceUnavailableError, match=r"http://127\.0\.0\.1:9"):
        S3Records(bucket).read("a/b")


def test_append_knows_its_own_document_when_the_answer_was_lost(s3):
    documents = S3Documents(s3.bucket())
    documents.append("other", b"{}", 0)
    s3.proxy.fault = times(1, Fault(status=503, forwarded=True), "PUT")
    assert documents.append("a", b"{}", 0).version == 1
    with pytest.raises(DocumentConflictError):
        S3Documents(s3.bucket()).append("a", b"{}", 0)


def test_append_refuses_a_server_that_ignores_the_condition_before_it_writes(s3):
    if s3.kind != "moto":
        pytest.skip(f"{s3.kind} would notice that a signed header is missing")
    s3.proxy.fault = lambda method, path: Fault(without="If-None-Match")
    for _ in range(2):
        with pytest.raises(UserError, match=f"{s3.proxy.url} lets several writers at once.*If-None-Match.*{SETTING}"):
            S3Documents(s3.bucket()).append("routes/digits", b"{}", 0)
    assert document_key("routes/digits", 1) not in s3.objects()


def test_append_refuses_a_server_that_has_ceased_to_honour_the_condition(s3):
    if s3.kind != "moto":
        pytest.skip(f"{s3.kind} would notice that a signed header is missing")
    S3Documents(s3.bucket()).append("a", b"{}", 0)
    s3.proxy.fault = lambda method, path: Fault(without="If-None-Match")
    with pytest.raises(UserError, match="ignores If-None-Match"):
        S3Documents(s3.bucket()).append("routes/digits", b"{}", 0)


def test_append_refuses_a_server_that_says_that_it_knows_no_condition(s3):
    s3.proxy.fault = lambda method, path: Fault(status=501) if method == "PUT" else None
    with pytest.raises(UserError, match=f"{s3.proxy.url} refuses If-None-Match.*{SETTING}"):
        S3Documents(s3.bucket()).append("routes/digits", b"{}", 0)


def test_the_condition_is_proved_once_for_an_address_and_looked_at_once_in_the_life_of_a_connection(s3):
    documents = S3Documents(s3.bucket())
    for version in range(3):
        documents.append("a", b"{}", version)
    assert len(requests(s3, "PUT", "checks/races")) == 4
    assert len(requests(s3, "PUT", "checks/one-writer")) == 2
    s3.proxy.seen.clear()
    S3Documents(s3.bucket()).append("b", b"{}", 0)
    assert len(requests(s3, "PUT", "checks/races")) == 0
    assert len(requests(s3, "PUT", "checks/one-writer")) == 1


@pytest.mark.parametrize("mib", [1, 20])
def test_put_refuses_a_server_that_does_not_say_that_it_verified_the_bytes(s3, mib):
    s3.proxy.fault = lambda method, path: Fault(silent_on="x-amz-checksum-sha256")
    with pytest.raises(UserError, match=r"does not say that it verified.*STILLHOUSE_S3_CHECKSUMS=none"):
        S3Artifacts(s3.bucket()).put(large(mib))


@pytest.mark.parametrize("mib", [1, 20])
def test_a_body_that_is_changed_on_its_way_is_refused_and_sent_again(s3, mib):
    if s3.kind == "moto":
        pytest.skip("moto believes the checksum that it is sent")
    data, artifacts = large(mib), S3Artifacts(s3.bucket())
    s3.proxy.fault = times(1, Fault(sent_changed=True), "PUT")
    digest = artifacts.put(data).digest
    assert s3.raw(artifact_key(digest)) == data
    assert s3.clock.slept


@pytest.mark.parametrize("lost", ["complete", "part"])
def test_a_large_put_whose_answer_was_lost_is_whole_and_leaves_no_parts(s3, lost):
    left = [1]

    def ask(method, path):
        if left[0] and (method == "POST" and "uploadId" in path if lost == "complete" else "partNumber=2" in path):
            left[0] = 0
            return Fault(status=503, forwarded=True)
        return None

    s3.proxy.fault, data = ask, large()
    digest = S3Artifacts(s3.bucket()).put(data).digest
    assert S3Artifacts(s3.bucket()).get(digest) == data
    assert not s3.client.list_multipart_uploads(Bucket=s3.name).get("Uploads")


def test_get_of_a_large_object_reads_a_part_again_when_its_connection_is_cut(s3):
    data, artifacts = large(40), S3Artifacts(s3.bucket())
    digest = artifacts.put(data).digest
    s3.proxy.seen.clear()
    cut = []

    def ask(method, path):
        if method == "GET" and len(s3.proxy.seen) == 3:
            cut.append(path)
            return Fault(cut_at=1000)
        return None

    s3.proxy.fault = ask
    assert artifacts.get(digest) == data
    assert len(requests(s3, "GET")) == 5  # the first 16 MiB, three parts, and one of them again
    assert (len(cut), s3.clock.slept) == (1, [])


def test_get_begins_anew_when_the_object_is_replaced_between_its_parts(s3):
    checkpoints, old, new = S3Checkpoints(s3.bucket()), large(20), large(21)
    checkpoints.save("stage", old)

    def ask(method, path):
        if method == "GET" and len(s3.proxy.seen) == 1:
            s3.proxy.fault = lambda method, path: None
            s3.proxy.after = lambda: S3Checkpoints(s3.bucket(endpoint=s3.server)).save("stage", new)

    s3.proxy.seen.clear()
    s3.proxy.fault = ask
    assert checkpoints.load("stage") == new


@pytest.mark.parametrize("num_bytes", [0, 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 24 * MIB, 24 * MIB + 1])
def test_fetch_returns_bytes_and_digest_at_every_edge_of_the_parts(s3, num_bytes):
    data, bucket = large(25)[:num_bytes], s3.bucket()
    bucket.write("edge", data)
    found = bucket.fetch("edge")
    assert found.data == data
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_latest_costs_two_requests_however_long_the_history(s3):
    documents = S3Documents(s3.bucket())
    for version in range(5):
        documents.append("a", b"%d" % version, version)
    s3.proxy.seen.clear()
    assert documents.latest("a").data == b"4"
    assert len(s3.proxy.seen) == 2


def test_listings_of_several_pages_are_followed(s3, monkeypatch):
    bucket = s3.bucket()
    for number in range(7):
        bucket.write(f"many/{number}", b"")
        bucket.write(f"folders/{number}/x", b"")
    plain = bucket._client.list_objects_v2
    monkeypatch.setattr(bucket._client, "list_objects_v2", lambda **request: plain(**request, MaxKeys=3))
    assert [item.key for item in bucket.entries("many/")] == [f"many/{number}" for number in range(7)]
    assert [item.key for item in bucket.entries("many/", after="many/4")] == ["many/5", "many/6"]
    assert [item.key for item in bucket.entries("folders/", after="folders/5")] == ["folders/5/x", "folders/6/x"]
    assert bucket.folders("folders/") == [str(number) for number in range(7)]


@pytest.mark.slow
def test_a_listing_of_more_than_a_thousand_keys_is_whole_and_in_order(s3):
    bucket, keys = s3.bucket(endpoint=s3.server), [f"many/{number:04d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket.write(key, b"x"), keys))
    assert [item.key for item in bucket.entries("many/")] == keys
    assert [item.key for item in bucket.entries("many/", after=keys[1000])] == keys[1001:]


@pytest.mark.parametrize("mib", [0, 20])
def test_encryption_is_asked_for_by_every_writing_call(s3, mib):
    if s3.kind != "moto":
        pytest.skip(f"{s3.kind} has no such key")
    bucket = s3.bucket(encryption="aws:kms", kms_key="a-key")
    digest = S3Artifacts(bucket).put(large(mib) + b"x").digest
    S3Documents(bucket).append("a", b"{}", 0)
    S3Checkpoints(bucket).save("stage", b"weights")
    bucket.touch(artifact_key(digest))
    for key in s3.objects():
        head = s3.head(key)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "a-key"), key


def test_touch_makes_an_object_young_and_keeps_what_vouches_for_it(s3):
    bucket = s3.bucket()
    artifacts = S3Artifacts(bucket)
    digest = artifacts.put(b"a model").digest
    before = s3.head(artifact_key(digest))
    bucket.touch(artifact_key(digest))
    assert s3.head(artifact_key(digest))["Metadata"] == before["Metadata"]
    assert artifacts.contains(digest)
    assert artifacts.get(digest) == b"a model"
    bucket.touch("absent")


def test_a_signed_url_is_read_without_credentials_and_names_no_secret(s3, monkeypatch):
    artifacts = S3Artifacts(s3.bucket(endpoint=s3.server))
    digest = artifacts.put(b"a model").digest
    url = artifacts.signed_url(digest, 60)
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"a model"
    assert "X-Amz-Expires=60" in url
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    with pytest.raises(ArtifactMissingError):
        artifacts.signed_url("0" * 64, 60)


def test_a_bucket_that_is_not_there_is_named_with_the_setting(s3):
    bucket = Bucket(ObjectPlace.parse("s3://no-such-bucket-here/x", SETTING), s3.options(), SETTING)
    with pytest.raises(UserError, match=rf"no bucket no-such-bucket-here.*{SETTING}"):
        S3Artifacts(bucket).put(b"a model")


def test_a_refusal_points_to_policy_and_credentials_and_is_not_repeated(s3):
    s3.proxy.fault = lambda method, path: Fault(status=403)
    with pytest.raises(UserError, match=r"refuses it \(.*infra/storage"):
        S3Records(s3.bucket()).read("a/b")
    assert len(s3.proxy.seen) == 1


def test_missing_credentials_are_named(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID"):
        S3Records(s3.bucket(region="eu-north-1")).read("a/b")


def test_many_threads_share_one_store(s3):
    artifacts, wrong = S3Artifacts(s3.bucket()), []

    def work(number):
        data = b"%d" % number * 1000
        if artifacts.get(artifacts.put(data).digest) != data:
            wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
