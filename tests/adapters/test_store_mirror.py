import json
import os
import time

import pytest

from infra.gateway.store import GatewayStore
from tasks.adapters import store_mirror
from tasks.adapters.route_store import RouteStore
from tasks.adapters.s3_store import S3Acknowledgements, S3Artifacts, S3Documents
from tasks.adapters.store_mirror import StoreMirror
from tasks.contracts.artifact import artifact_key, document_key
from tasks.contracts.errors import InfrastructureError, ServiceUnavailableError
from tasks.contracts.route import Arm, ModelSignature, Route, RouteAcknowledgement
from tasks.contracts.signing import signature_document
from tests.adapters.s3_server import Fault

SIGNATURE = ModelSignature(task="regression", input_shape=(4,), input_dtype="float32", class_names=())
NOW = "2026-05-04T12:00:00+00:00"


class Site:
    """A store in S3, and a machine whose gateways serve from a mirror of it."""

    def __init__(self, s3, root):
        self.s3, self.root = s3, root
        bucket = s3.bucket()
        self.artifacts, self.documents = S3Artifacts(bucket), S3Documents(bucket)
        self.routes = RouteStore(self.documents, S3Acknowledgements(bucket))
        self.gateway = GatewayStore(root)
        self.restart()

    def restart(self):
        self.mirror = StoreMirror(self.s3.bucket(patience=self.s3.clock.patience(3.0)), self.root)

    def follow(self):
        self.mirror._looked_at = -store_mirror._SLOW_S  # the slow beat's turn
        self.mirror.follow()

    def publish(self, data, name="digits"):
        digest = self.artifacts.put(data).digest
        route = Route(model_name=name, signature=SIGNATURE, champion=Arm(digest=digest, version=1))
        current = self.routes.current(name)
        self.routes.publish(route, current.version if current else 0)
        return digest

    def acknowledge(self, version=1, replica="g1"):
        heard = RouteAcknowledgement(model_name="digits", replica=replica, route_version=version, ready=True, at=NOW)
        self.gateway.acknowledge(heard)
        return heard


@pytest.fixture
def site(s3, tmp_path):
    return Site(s3, tmp_path / "store")


def test_follow_brings_route_model_and_signatures_to_where_a_gateway_looks(site):
    digest = site.publish(b"a model")
    site.documents.append(signature_document("digits", digest, "0" * 16), b"signed", 0)
    site.follow()
    version, document = site.gateway.latest_route("digits", 0)
    assert site.gateway.routed_models() == ["digits"]
    assert (version, json.loads(document)["champion"]["digest"]) == (1, digest)
    assert site.gateway.read_artifact(digest) == b"a model"
    assert site.gateway.read_signatures("digits", digest) == {"0" * 16: b"signed"}


def test_a_route_is_here_only_after_its_model(site):
    digest, seen = site.publish(b"a model"), []

    def look(method, path):
        seen.append(site.gateway.latest_route("digits", 0) if site.gateway.routed_models() else None)

    site.s3.proxy.fault = look
    site.follow()
    assert set(seen) == {None}
    assert site.gateway.read_artifact(digest) == b"a model"


def test_no_route_comes_while_its_model_cannot_be_fetched_and_it_comes_afterwards(site):
    digest = site.publish(b"a model")
    site.s3.proxy.fault = lambda method, path: Fault(status=503) if digest in path else None
    with pytest.raises(ServiceUnavailableError):
        site.follow()
    assert site.gateway.routed_models() == []
    site.s3.proxy.fault = lambda method, path: None
    site.follow()
    assert site.gateway.latest_route("digits", 0)[0] == 1


def test_a_route_whose_model_is_gone_comes_so_that_the_gateway_can_say_so(site, caplog):
    digest = site.publish(b"a model")
    site.s3.client.delete_object(Bucket=site.s3.name, Key=f"team/store/{artifact_key(digest)}")
    site.follow()
    assert site.gateway.latest_route("digits", 0)[0] == 1
    assert digest in caplog.text


def test_versions_that_were_missed_come_too_since_a_gateway_counts_up(site):
    site.publish(b"one")
    site.follow()
    for data in (b"two", b"three", b"four"):
        site.publish(data)
    site.follow()
    assert site.gateway.latest_route("digits", 1)[0] == 4


def test_a_gap_that_a_crash_left_is_filled(site):
    for data in (b"one", b"two", b"three"):
        site.publish(data)
        site.follow()
    (site.root / document_key("routes/digits", 2)).unlink()
    site.restart()
    site.follow()
    assert site.gateway.latest_route("digits", 1)[0] == 3


def test_a_new_machine_needs_the_newest_version_alone(site):
    for data in (b"one", b"two", b"three"):
        site.publish(data)
    site.follow()
    assert [path.name for path in (site.root / "documents" / "routes" / "digits").iterdir()] == ["00000003.json"]


def test_a_quiet_look_costs_one_request_a_model(site):
    site.publish(b"one")
    site.follow()
    site.s3.proxy.seen.clear()
    site.mirror.follow()
    assert [method for method, _ in site.s3.proxy.seen] == ["HEAD"]


def test_acknowledgements_go_to_the_store_when_they_change_and_are_taken_back_with_their_gateway(site):
    site.publish(b"one")
    heard = site.acknowledge()
    site.follow()
    assert site.routes.acknowledgements("digits") == [heard]
    site.s3.proxy.seen.clear()
    site.mirror.follow()
    assert not [path for method, path in site.s3.proxy.seen if method == "PUT"]
    second = site.acknowledge(version=2)
    site.mirror.follow()
    assert site.routes.acknowledgements("digits") == [second]
    site.gateway.withdraw("digits", "g1")
    site.mirror.follow()
    assert site.routes.acknowledgements("digits") == []


def test_a_damaged_model_is_repaired_when_the_mirror_starts_again(site):
    digest = site.publish(b"a model")
    site.follow()
    (site.root / artifact_key(digest)).write_bytes(b"a mode")
    site.restart()
    site.follow()
    assert site.gateway.read_artifact(digest) == b"a model"


def test_a_folder_that_was_kept_for_another_store_is_told_of(site):
    for data in (b"one", b"two"):
        site.publish(data)
    site.follow()
    site.s3.client.delete_object(Bucket=site.s3.name, Key=f"team/store/{document_key('routes/digits', 2)}")
    site.restart()
    with pytest.raises(InfrastructureError, match="kept for another store"):
        site.follow()


def test_models_that_no_route_names_are_removed_after_a_day_and_routed_ones_never(site):
    old, new = site.publish(b"one"), None
    site.follow()
    new = site.publish(b"two")
    site.follow()
    assert (site.root / artifact_key(old)).exists()
    for digest in (old, new):
        os.utime(site.root / artifact_key(digest), (time.time() - 2 * store_mirror._UNUSED_S,) * 2)
    site.follow()
    assert not (site.root / artifact_key(old)).exists()
    assert (site.root / artifact_key(new)).exists()


def test_compressed_models_lie_unpacked_here(s3, site):
    site.artifacts = S3Artifacts(s3.bucket(), "zstd")
    digest = site.publish(b"a model " * 1000)
    site.follow()
    assert (site.root / artifact_key(digest)).read_bytes() == b"a model " * 1000
