"""Publication on a project of its own, with the real DVC and Great Expectations."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks.adapters import dvc, dvc_publish
from tasks.adapters.dvc import tracked_revision
from tasks.contracts.errors import DataError, InfrastructureError, TooFewRowsError
from tasks.contracts.publication import published_name
from tasks.datasets.npz import Npz
from tasks.datasets.source import Expectations
from tasks.datasets.splits import row_hashes
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings
from tasks.stages import publishing
from tasks.stages.fetching import prepare_dataset, source_revision
from tasks.stages.publishing import Batch, latest_published, publish, published_source
from tasks.stages.splits import load_split

CHECKOUT = Path(__file__).parents[2]
NOW = "2026-01-01T00:00:00+00:00"

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:_NoneStep\.value will soon raise:DeprecationWarning:dvc"),
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
]


@pytest.fixture
def services(tmp_path, monkeypatch):
    project = tmp_path / "project"
    shutil.copytree(CHECKOUT / ".dvc", project / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    shutil.copy(CHECKOUT / "data.dvc", project)
    monkeypatch.setenv("STILLHOUSE_PROJECT", str(project))
    current_settings.cache_clear()
    connect.cache_clear()
    return connect()


@pytest.fixture
def unvalidated(monkeypatch):
    """Skip Great Expectations, which takes half a second each time, where the test is about something else."""
    monkeypatch.setattr(publishing, "validate", lambda *_: None)
    monkeypatch.setattr("tasks.stages.fetching.validate", lambda *_: None)


@pytest.fixture
def source(services):
    rng = np.random.default_rng(0)
    np.savez(services.settings.project / "rows.npz", x=rng.random((200, 3), dtype=np.float32), y=np.arange(200) % 2)
    return Npz(name="rows", path="rows.npz", expect=Expectations(value_min=0, value_max=1))


def batch(num_rows, seed=1):
    x = np.random.default_rng(seed).random((num_rows, 3), dtype=np.float32)
    return Batch(x, np.arange(num_rows) % 2.0)


def published(services, source, rows, min_rows=10):
    return publish(services, "m", source, 0, rows, min_rows=min_rows, now=NOW)


def hashes_by_split(services, source):
    data = prepare_dataset(source, source_revision(source, services.settings), 0)
    return {name: set(row_hashes(load_split(services.artifacts, data, name).x)) for name in data.splits}


def test_publish_makes_a_tracked_and_pushed_version_in_which_old_rows_keep_their_split(services, source, unvalidated):
    before = hashes_by_split(services, source)

    version = published(services, source, batch(100))

    after = hashes_by_split(services, published_source(version))
    assert all(before[name] <= after[name] for name in before)
    new = {name: len(after[name] - before[name]) for name in before}
    assert new == version.num_new == {"train": 60, "calibration": 10, "validation": 10, "test": 20}
    assert (version.num_rows, version.data_revision) == (300, tracked_revision(services.settings.project))
    status = dvc.status(services.settings, ask_remote=True)
    assert (status.state, status.remote_has_it) == ("equal", True)


def test_publish_adds_to_the_version_before_it_and_gives_equal_bytes_for_equal_rows(services, source, unvalidated):
    first = published(services, source, batch(100))
    folder = services.settings.project / "data" / "published" / "m"
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    both = Batch(np.concatenate([batch(100).x, batch(50, seed=2).x]), np.arange(150) % 2.0)

    second = published(services, source, both)

    assert (second.num_rows, sum(second.num_new.values()), second.left_out["repeats a row"]) == (350, 50, 70)
    assert second.left_out["is a row of test or validation"] == 30
    assert (second.base_revision, second.origin) == (first.revision, first.origin)
    assert latest_published(services, "m", source, 0) == second
    assert latest_published(services, "m", published_source(second), 0) == second, "a plan may name it itself"
    assert latest_published(services, "m", source, 1) is None, "another seed divides the rows otherwise"

    shutil.rmtree(folder)
    services.documents.append(published_name("m"), first.canonical_json(), 2)
    services.documents.append(published_name("m"), first.model_copy(update={"origin": "0" * 64}).canonical_json(), 3)
    dvc.add(services.settings, services.host_locks)
    assert published(services, source, batch(100)).revision == first.revision
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (batch(9), "9 of 9 labelled rows are new.*needs 10"),
        (Batch(batch(20).x, np.full(20, 7.0)), "labels are no class indices 0 to 1, such as 7"),
        (Batch(batch(20).x * 9, batch(20).y), "(?s)breaks 1 of .*value 1.0"),
        (Batch(np.zeros((20, 4), np.float32), batch(20).y), r"rows of shape \(4,\) do not fit"),
    ],
    ids=["too few", "labels", "expectations", "shape"],
)
def test_a_bad_batch_is_refused_with_the_reason_and_changes_nothing(services, source, rows, message):
    dvc.ensure_data(services.settings, services.host_locks, publishing.materialise_shipped)
    before = dvc.status(services.settings)

    with pytest.raises(DataError, match=message):
        published(services, source, rows)

    assert dvc.status(services.settings) == before
    assert services.documents.latest(published_name("m")) is None
    assert not list((services.settings.project / ".dvc" / "tmp").glob("published-*"))


def test_publish_puts_the_version_before_back_when_dvc_fails(services, source, unvalidated, monkeypatch):
    first = published(services, source, batch(100))

    def full(*_):
        raise InfrastructureError("disk full")

    monkeypatch.setattr(dvc_publish, "add", full)
    with pytest.raises(InfrastructureError, match="disk full"):
        published(services, source, batch(50, seed=2))

    assert dvc.status(services.settings).state == "equal"
    assert latest_published(services, "m", source, 0) == first


def test_find_or_publish_falls_back_on_a_version_that_the_champion_has_not_seen(
    services, source, unvalidated, monkeypatch
):
    version = published(services, source, batch(100))
    monkeypatch.setattr(publishing, "batch_from_traffic", lambda *_: batch(100))
    seen = {"stillhouse.data_revision": "another"}
    monkeypatch.setattr(publishing, "_champion_tags", lambda *_: seen)

    assert publishing.find_or_publish(services, "m", source, 0, 10, NOW) == version
    seen["stillhouse.data_revision"] = version.revision
    with pytest.raises(TooFewRowsError):
        publishing.find_or_publish(services, "m", source, 0, 10, NOW)
