from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from tasks.adapters.local_store import LocalArtifacts, LocalDocuments
from tasks.adapters.local_traffic import LocalTraffic
from tasks.contracts.data import DatasetRef, SplitRef
from tasks.datasets.splits import pack_split
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Rows
from tasks.stages.referencing import (
    content_reference,
    load_rows,
    load_service,
    rebase_content,
    service_reference,
)
from tests.adapters.onnx_models import linear_model
from tests.adapters.traffic_files import NOON, Segments, minutes
from tests.stages.monitored_world import MonitoredWorld, champion

POLICY = MonitoringPolicy()


@pytest.fixture
def log(tmp_path):
    return Segments(tmp_path / "traffic")


@pytest.fixture
def services(tmp_path, log):
    registry = SimpleNamespace(version=lambda name, version: SimpleNamespace(tags={}))
    return SimpleNamespace(
        traffic=LocalTraffic(log.root),
        artifacts=LocalArtifacts(tmp_path),
        documents=LocalDocuments(tmp_path),
        registry=registry,
    )


def traffic(log, num, start=0, **changes):
    log.predictions(*({"request_id": f"{start}-{n}", "at": minutes(start)} | changes for n in range(num)))


def test_content_reference_of_a_version_of_unknown_origin_is_its_first_traffic(services, log):
    traffic(log, 150, start=5, input_mean=0.5)
    traffic(log, 150, start=121, input_mean=0.9)
    early = content_reference(services, champion(), "classification", POLICY, minutes(60))
    made = content_reference(services, champion(), "classification", POLICY, minutes(130))
    assert early is None
    assert (made.source, made.num_rows, made.labelled) == ("traffic", 150, None)
    assert set(load_rows(services, made.rows, "classification").input_mean) == {0.5}
    # recorded once: what comes later changes nothing
    assert content_reference(services, champion(), "classification", POLICY, minutes(500)) == made


def test_content_reference_is_the_validation_split_of_the_versions_run(tmp_path):
    generator = np.random.default_rng(3)
    x, y = generator.random((40, 4)).astype(np.float32), generator.integers(0, 3, 40)
    artifacts = LocalArtifacts(tmp_path)
    split = artifacts.put(pack_split(x, y))
    ref = SplitRef(digest=split.digest, size_bytes=split.size_bytes, num_rows=40, composition={})
    data = DatasetRef(
        name="rows", task="classification", revision="r", input_shape=(4,), class_names=("a", "b", "c"),
        splits={"validation": ref},
    )  # fmt: skip
    LocalDocuments(tmp_path).append("datasets/rows/abc", data.canonical_json(), 0)
    digest = artifacts.put(linear_model(1.0)).digest
    world = MonitoredWorld(tmp_path, digest=digest, tags={"stillhouse.data": data.digest})
    made = content_reference(world.services, world.champion, "classification", POLICY, NOON)
    assert (made.source, made.num_rows, made.dataset, made.labelled) == ("validation", 40, data.digest, made.rows)
    assert made.num_inputs == 40  # there is no other split
    rows = load_rows(world.services, made.labelled, "classification")
    assert rows.right.sum() == (y == 0).sum()  # all logits are equal, so the first class is predicted
    assert rows.confidence == pytest.approx(np.full(40, 1 / 3))
    assert sorted(rows.input_mean) == pytest.approx(sorted(x.mean(axis=1)))


def test_content_reference_is_made_anew_for_another_champion(services, log):
    traffic(log, 150)
    content_reference(services, champion(), "classification", POLICY, minutes(130))
    traffic(log, 150, start=2, model_digest="e" * 64)
    other = content_reference(services, champion(NOON, "e" * 64, 2), "classification", POLICY, minutes(130))
    assert (other.model_digest, other.version) == ("e" * 64, 2)


def test_content_reference_waits_when_traffic_is_too_little(services, log):
    traffic(log, 20)
    assert content_reference(services, champion(), "classification", POLICY, minutes(130)) is None


def test_rebase_content_keeps_the_labelled_rows(services, log):
    traffic(log, 150)
    known = content_reference(services, champion(), "classification", POLICY, minutes(130))
    known = known.model_copy(update={"labelled": services.artifacts.put(b"labelled")})
    traffic(log, 120, start=200, input_mean=0.7)
    made = rebase_content(services, champion(), "classification", POLICY, minutes(190), minutes(210), known)
    assert (made.num_rows, made.labelled) == (120, known.labelled)
    assert content_reference(services, champion(), "classification", POLICY, minutes(300)) == made


def test_service_reference_is_the_first_hours_after_the_promotion(services, log):
    traffic(log, 150, start=10, latency_ms=2.0)
    traffic(log, 150, start=300, latency_ms=9.0)
    assert service_reference(services, champion(), "classification", POLICY, minutes(60)) is None
    made = service_reference(services, champion(), "classification", POLICY, minutes(310))
    assert (made.requests, made.since) == (150, NOON.isoformat())
    assert set(load_service(services, made).latencies_ms[1]) == {2.0}


def test_service_reference_is_the_last_hours_when_the_first_are_not_in_the_log(services, log):
    traffic(log, 150, start=300, latency_ms=9.0)
    made = service_reference(services, champion(), "classification", POLICY, minutes(310))
    assert made.since == (minutes(310) - timedelta(hours=2)).isoformat()


def test_references_are_none_when_there_are_none(services):
    assert load_rows(services, None, "classification") is None
    assert load_service(services, None) is None
    assert len(Rows("classification")) == 0
