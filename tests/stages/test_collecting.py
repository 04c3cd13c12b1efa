import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from tasks.adapters import local_store, s3_store
from tasks.adapters.ledger import SqlLedger
from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import InfrastructureError, UserError
from tasks.contracts.value import digests_in, sha256_hex
from tasks.contracts.verdict import LedgerEntry
from tasks.stages.collecting import GRACE, collect_garbage
from tests.adapters.conftest import KEEPS_DATA, s3_servers, s3_world  # noqa: F401 - fixtures

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=40)
"""Beyond every age that counts."""


class World:
    """A store, and what names things in it; time passes by asking later."""

    def __init__(self, open_store, root):
        self.registered = {}
        self.ledger = SqlLedger(f"sqlite:///{root / 'ledger.db'}")
        self.baselines = root / "baselines"
        versions = self.registered
        self.services = SimpleNamespace(
            settings=SimpleNamespace(baselines=self.baselines),
            locks=FileLocks(root / "locks"),
            host_locks=FileLocks(root / "host-locks"),
            ledger=self.ledger,
            registry=SimpleNamespace(
                names=lambda: ["m"] if versions else [],
                versions=lambda name: [SimpleNamespace(tags=tags) for tags in versions.values()],
            ),
            **{kind.lower(): open_store(kind) for kind in ("Artifacts", "Documents", "Records", "Files")},
        )
        self.checkpoints = open_store("Checkpoints")

    def put(self, text):
        return self.services.artifacts.put(text.encode()).digest

    def collect(self, now=LATER, *, delete=True, keep_days=30.0):
        return collect_garbage(self.services, keep_days, now, dry_run=not delete)

    def sweep(self, now=LATER):
        """Both runs that it takes."""
        self.collect(now)
        return self.collect(now + GRACE)

    def has(self, digest):
        return self.services.artifacts.contains(digest)


@pytest.fixture(params=["local", "moto", KEEPS_DATA])
def world(request, tmp_path):
    if request.param == "local":
        return World(lambda kind: getattr(local_store, f"Local{kind}")(tmp_path / "store"), tmp_path)
    bucket = request.getfixturevalue("s3_world")(request.param).bucket()
    return World(lambda kind: getattr(s3_store, f"S3{kind}")(bucket), tmp_path)


def entry(candidate, report, expected):
    return LedgerEntry(
        model_name="m", sequence=1, action="promote", candidate=candidate, version=2, gate_report=report,
        expected_champion=expected, actor="ann", reason="better", created_at=NOW.isoformat(),
    )  # fmt: skip


def test_what_nothing_names_goes_with_the_second_run_a_day_after_the_first(world):
    digest = world.put("nobody's")
    assert world.collect(NOW).young.files == 1
    first = world.collect()
    assert (first.condemned.files, first.condemned.size_bytes, first.removed.files) == (1, len("nobody's"), 0)
    assert world.collect(LATER + GRACE / 2).removed.files == 0
    assert world.has(digest)
    assert world.collect(LATER + GRACE).removed.files == 1
    assert not world.has(digest)


def test_a_dry_run_changes_nothing_and_says_what_would_be(world):
    digest = world.put("nobody's")
    world.checkpoints.save("stage", b"weights")
    world.services.records.write("train/a", b"{}")
    dry = world.collect(delete=False)
    assert (dry.dry_run, dry.condemned.files, dry.expired.files) == (True, 1, 2)
    assert world.collect(LATER + GRACE, delete=False).removed.files == 0
    assert world.has(digest)
    assert world.checkpoints.load("stage") == b"weights"


def test_everything_that_the_ledger_names_is_kept(world):
    first, second, report, compared = (world.put(name) for name in ("first", "second", "report", "compared"))
    world.ledger.append(
        entry(first, None, None).model_copy(update={"action": "bootstrap", "version": 1, "expected_champion": None})
    )
    world.ledger.append(entry(second, report, first))
    world.ledger.append_tick("gone-from-the-registry", "r", 0, json.dumps({"challenger": compared}).encode())
    assert world.sweep().removed.files == 0
    assert all(map(world.has, (first, second, report, compared)))


def test_registered_versions_documents_and_pins_keep_what_they_name(world):
    tagged, routed, pinned, signed = (world.put(name) for name in ("tagged", "routed", "pinned", "signed"))
    world.registered[1] = {"stillhouse.digest": tagged}
    world.services.documents.append("routes/m", json.dumps({"champion": {"digest": routed}}).encode(), 0)
    world.services.documents.append(f"signatures/m/{signed}/{'0' * 16}", b"{}", 0)
    world.baselines.mkdir()
    (world.baselines / "digits.json").write_text(json.dumps({"torch_model": pinned}))
    assert world.sweep().removed.files == 0
    assert all(map(world.has, (tagged, routed, pinned, signed)))


def test_what_an_artifact_names_is_kept_with_it_and_goes_with_it(world):
    deep = world.put("rows")
    report = world.put(json.dumps({"evidence": world.put(json.dumps({"rows": deep}))}))
    world.services.documents.append("routes/m", report.encode(), 0)
    assert world.sweep().removed.files == 0
    assert world.has(deep)
    world.services.documents.append("routes/m", b"{}", 1)
    assert world.sweep(LATER + timedelta(days=9)).removed.files == 3


def test_old_runs_keep_nothing_unless_they_registered_a_version(world):
    forgotten, kept = world.put("forgotten"), world.put("kept")
    world.services.documents.append("runs/old", forgotten.encode(), 0)
    world.services.documents.append("runs/registering", kept.encode(), 0)
    world.registered[1] = {"stillhouse.run": "registering"}
    assert world.collect(NOW + timedelta(days=20)).condemned.files == 0
    world.sweep()
    assert (world.has(forgotten), world.has(kept)) == (False, True)


def test_young_records_of_the_cache_keep_their_results_and_old_ones_go(world):
    result = world.put("result")
    world.services.records.write("train/a", json.dumps({"digest": result}).encode())
    world.checkpoints.save("stage", b"weights")
    assert world.collect(NOW + timedelta(days=20)).expired.files == 0
    done = world.collect()
    assert done.expired.files == 2
    assert done.condemned.files == 1
    assert world.services.records.read("train/a") is None
    assert world.checkpoints.load("stage") is None


def test_a_run_that_names_a_condemned_artifact_saves_it(world):
    digest = world.put("found in time")
    assert world.collect().condemned.files == 1
    world.services.documents.append("routes/m", digest.encode(), 0)
    assert world.collect(LATER + GRACE).removed.files == 0
    world.services.documents.append("routes/m", b"{}", 1)
    later = LATER + timedelta(days=5)
    assert world.collect(later).removed.files == 0, "condemned anew, not for what was before"
    assert world.collect(later + GRACE).removed.files == 1


def test_an_artifact_that_is_put_again_is_young_and_is_not_removed(world, monkeypatch):
    for module in (local_store, s3_store):
        monkeypatch.setattr(module, "FRESH_FOR_S", -1.0)
    digest = world.put("put again")
    after = datetime.now(UTC) + GRACE  # the file is a day old then, to the moment
    assert not world.services.files.remove(key(world, digest), after - GRACE - timedelta(seconds=5))
    before = stored(world, digest).modified
    world.put("put again")
    assert stored(world, digest).modified >= before
    assert world.has(digest)


def stored(world, digest):
    return next(file for file in world.services.files.entries("sha256/") if file.key.endswith(digest))


def key(world, digest):
    return stored(world, digest).key


def test_a_root_that_cannot_be_read_ends_the_run_before_anything_is_removed(world):
    digest = world.put("nobody's")
    world.collect()

    def away(_name):
        raise InfrastructureError("the registry does not answer")

    world.registered[1] = {}
    world.services.registry.versions = away
    with pytest.raises(InfrastructureError, match="registry"):
        world.collect(LATER + GRACE)
    assert world.has(digest)


def test_keep_days_below_the_length_of_a_run_are_refused(world):
    with pytest.raises(UserError, match="--keep-days 1"):
        world.collect(keep_days=1.0)


def test_a_damaged_artifact_stops_nothing(world):
    digest = world.put(json.dumps({"a": "b"}))
    world.services.documents.append("routes/m", digest.encode(), 0)
    if hasattr(world.services.files, "_bucket"):
        world.services.files._bucket.write(key(world, digest), b"other")
    else:
        (world.services.files._root / key(world, digest)).write_bytes(b"other")
    assert world.sweep().named.files == 1


def test_digests_in_finds_digests_and_not_parts_of_longer_words():
    digest = sha256_hex(b"")
    assert digests_in(f'"{digest}",{digest}/x'.encode()) == {digest}
    assert digests_in(f"{digest}0 {digest[1:]} {digest.upper()}".encode()) == set()
