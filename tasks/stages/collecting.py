"""The work of removing what nothing names any more from the store: mark, then sweep.

Whatever could be the digest of an artifact, in any text that is a root, keeps that artifact, and what it names in
turn. Roots are the whole ledger, every registered version, every document (runs only as long as they are kept, or
registered something), the pinned baselines, and the records of the cache that are young. A record becomes young when a
run hits it, so that what a running flow has found in the cache is kept.

An artifact is removed only if two runs, a day apart, find it unnamed: whoever had just written it, or had just found it
there instead of writing it, has named it by then. Any root that cannot be read ends the run before anything is removed.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from tasks.contracts.errors import ArtifactCorruptError, ArtifactMissingError, UserError
from tasks.contracts.garbage import Amount, Collection, Condemned
from tasks.contracts.registration import RUN_TAG
from tasks.contracts.value import Digest, digests_in
from tasks.runtime.services import Services
from tasks.runtime.stores import StoredFile

GRACE = timedelta(days=1)
"""How young a file may be to be left alone, and how long a condemned artifact waits."""
_CONDEMNED = "garbage/condemned"
_RECORDS, _CHECKPOINTS, _ARTIFACTS = "stages/", "checkpoints/", "sha256/"
_RUNS = "runs/"
_MAX_TEXT_BYTES = 16 * 2**20
"""Larger artifacts are weights and arrays: they name nothing."""


def collect_garbage(services: Services, keep_days: float, now: datetime, *, dry_run: bool = True) -> Collection:
    """Condemn artifacts that nothing names, and remove those condemned a day ago that still nothing names.

    Args:
        services: What is outside.
        keep_days: How long runs and records of the cache keep what they name, days.
        now: The time (UTC).
        dry_run: Change nothing; say what would be.

    Raises:
        UserError: `keep_days` is below 2.
        InfrastructureError: a root cannot be read, or something cannot be removed.
    """
    if keep_days < 2.0:
        raise UserError(f"--keep-days {keep_days:g} is below 2: a run that began yesterday may still rest on its cache")
    with services.locks.hold("store/garbage"):
        since = now - timedelta(days=keep_days)
        expired = _expire(services, since, dry_run)
        named = _named(services, since)
        files = {file.key.rpartition("/")[2]: file for file in services.files.entries(_ARTIFACTS)}
        named = _closure(services, named & files.keys(), files)
        young = {digest for digest, file in files.items() if digest not in named and file.modified > now - GRACE}
        before, unnamed = _condemned(services), files.keys() - named - young
        doomed = {digest for digest in unnamed & before.keys() if before[digest] <= now - GRACE}
        removed = doomed if dry_run else {one for one in doomed if services.files.remove(files[one].key, now - GRACE)}
        waiting = {digest: before.get(digest, now) for digest in unnamed - doomed}
        if not dry_run:
            _condemn(services, waiting)
    return Collection(
        dry_run=dry_run,
        named=_amount(files[digest] for digest in named),
        young=_amount(files[digest] for digest in young),
        condemned=_amount(files[digest] for digest in waiting),
        removed=_amount(files[digest] for digest in removed),
        expired=_amount(expired),
    )


def _expire(services: Services, since: datetime, dry_run: bool) -> list[StoredFile]:
    """Remove records and checkpoints that are older than `since`."""
    old = [
        file
        for prefix in (_RECORDS, _CHECKPOINTS)
        for file in services.files.entries(prefix)
        if file.modified < since and not file.key.startswith(f"{_RECORDS}{_CONDEMNED}")
    ]
    return old if dry_run else [file for file in old if services.files.remove(file.key, since)]


def _named(services: Services, since: datetime) -> set[Digest]:
    """Return what the roots name. Records are read last: whatever is moved to another root meanwhile is seen once."""
    found = services.ledger.digests()
    runs = set()
    for name in services.registry.names():
        for version in services.registry.versions(name):
            found |= digests_in("\n".join(version.tags.values()).encode())
            runs.add(version.tags.get(RUN_TAG, ""))
    for text in _documents(services, since, runs):
        found |= digests_in(text)
    for pin in _pins(services.settings.baselines):
        found |= digests_in(pin.read_bytes())
    for file in services.files.entries(_RECORDS):
        key = file.key.removeprefix(_RECORDS).removesuffix(".json")
        if key != _CONDEMNED and file.modified >= since:
            found |= digests_in(services.records.read(key) or b"")
    return found


def _documents(services: Services, since: datetime, registered: set[str]) -> Iterator[bytes]:
    """Give the newest version of every document, but for old runs that registered nothing."""
    written: dict[str, datetime] = {}
    """When a version of it was written last, by the folder of a run's document."""
    for file in services.files.entries(f"documents/{_RUNS}"):
        folder = file.key.rpartition("/")[0]
        written[folder] = max(file.modified, written.get(folder, file.modified))
    for name in services.documents.names():
        document = services.documents.latest(name)
        if document is None:
            continue
        is_free = name.startswith(_RUNS) and name.removeprefix(_RUNS) not in registered
        if is_free and written.get(f"documents/{name}", since) < since:
            continue
        yield name.encode() + b"\n" + document.data


def _pins(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def _closure(services: Services, named: set[Digest], files: dict[Digest, StoredFile]) -> set[Digest]:
    """Add what the named artifacts name in turn: a gate report names the evaluations that it rests on."""
    reached, waiting = set(named), list(named)
    while waiting:
        digest = waiting.pop()
        if files[digest].size_bytes > _MAX_TEXT_BYTES:
            continue
        try:
            data = services.artifacts.get(digest)
        except (ArtifactMissingError, ArtifactCorruptError):  # whoever needs it is told; here it names nothing
            continue
        more = (digests_in(data) & files.keys()) - reached
        reached |= more
        waiting += more
    return reached


def _condemned(services: Services) -> dict[Digest, datetime]:
    data = services.records.read(_CONDEMNED)
    known = Condemned() if data is None else Condemned.model_validate_json(data)
    return {digest: datetime.fromisoformat(at) for digest, at in known.since.items()}


def _condemn(services: Services, since: dict[Digest, datetime]) -> None:
    document = Condemned(since={digest: at.isoformat(timespec="seconds") for digest, at in since.items()})
    services.records.write(_CONDEMNED, document.canonical_json())


def _amount(files: Iterable[StoredFile]) -> Amount:
    sizes = [file.size_bytes for file in files]
    return Amount(files=len(sizes), size_bytes=sum(sizes))
