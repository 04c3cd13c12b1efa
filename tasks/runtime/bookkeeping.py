"""What is asked of the books: the ledger, which leads, the registry and the tracker, which follow, and of events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tasks.contracts.model import EpochRecord, UsageSample
from tasks.contracts.monitoring import Announcement
from tasks.contracts.value import Digest
from tasks.contracts.verdict import LedgerEntry


class Ledger(Protocol):
    """Append-only record of who is champion, and of every tick of a rollout."""

    def champion(self, model_name: str) -> LedgerEntry | None:
        """Return the newest entry of the model, or None."""
        ...

    def append(self, entry: LedgerEntry) -> LedgerEntry:
        """Append `entry` if `entry.expected_champion` still is the champion; idempotent.

        `entry.sequence` is ignored on the way in and set on the way out. An entry of the same
        (model name, candidate, gate report) that is already there is returned as it stands.

        Raises:
            StaleChampionError: another candidate became champion meanwhile.
        """
        ...

    def history(self, model_name: str) -> list[LedgerEntry]:
        """Return all entries of the model, oldest first."""
        ...

    def latest_tick(self, model_name: str) -> tuple[str, int, bytes] | None:
        """Return (rollout id, tick number, state as JSON) of the model's newest rollout tick, or None."""
        ...

    def append_tick(self, model_name: str, rollout_id: str, tick: int, state: bytes) -> None:
        """Record the state after tick number `tick` (0 is the start).

        Raises:
            DocumentConflictError: that tick exists already with another state.
        """
        ...

    def ticks(self, rollout_id: str) -> list[bytes]:
        """Return the states of a rollout, oldest first."""
        ...

    def digests(self) -> set[Digest]:
        """Return every artifact that any row names: models, gate reports, and what rollouts compared."""
        ...


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


class Registry(Protocol):
    """The model registry: versions and aliases. Its aliases follow the ledger, never lead it."""

    def find_version(self, name: str, digest: Digest) -> RegisteredVersion | None:
        """Return the version that was registered from the ONNX artifact `digest`, or None."""
        ...

    def register(
        self,
        name: str,
        digest: Digest,
        onnx_model: bytes,
        example: bytes,
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
        parent_run_id: str,
        description: str = "",
    ) -> RegisteredVersion:
        """Register an ONNX model once; a second call with the same name and digest returns the first's version.

        `example` is an npz with array `x`, from which the signature is taken; `files` are attached
        beside the model (gate report, HTML report, plan) by their relative path, and `description` is what
        its page says first.
        """
        ...

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point `alias` to `version`."""
        ...

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove `alias`, if it is there."""
        ...

    def version_of(self, name: str, alias: str) -> RegisteredVersion | None:
        """Return the version that `alias` points to, or None."""
        ...

    def version(self, name: str, version: int) -> RegisteredVersion:
        """Return one version.

        Raises:
            ModelError: there is none.
        """
        ...

    def names(self) -> list[str]:
        """List the registered models."""
        ...

    def versions(self, name: str) -> list[RegisteredVersion]:
        """List all versions of a model, oldest first."""
        ...


class Tracker(Protocol):
    """Experiment tracking: a parent run per flow run, a child run per stage, never duplicated."""

    def parent_run(self, experiment: str, flow_run_id: str, name: str, params: Mapping[str, str]) -> str:
        """Find or create the run tagged with the flow run's id; return its run id."""
        ...

    def stage_run(
        self,
        experiment: str,
        parent_run_id: str,
        stage_key: str,
        name: str,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        history: tuple[EpochRecord, ...],
        tags: Mapping[str, str],
        usage: tuple[UsageSample, ...] = (),
    ) -> str:
        """Find or create the finished run of a stage, by its key; return its run id.

        The first flow run that records a stage becomes its parent; later ones find it.
        """
        ...

    def finish_parent(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
        status: str,
    ) -> None:
        """Log the outcome on the parent run and end it as `status` (FINISHED or FAILED)."""
        ...

    def flow_run_of(self, run_id: str) -> str | None:
        """Return the flow run that a run of the tracker belongs to; None if there is no such run, or it names none."""
        ...


class Events(Protocol):
    """Where events go. An event that is sent twice under one id counts once."""

    def send(self, announcements: Sequence[Announcement]) -> bool:
        """Send them all; return False, and send none, where no server is addressed.

        Raises:
            ServiceUnavailableError: the server does not answer; none may have arrived.
        """
        ...


class NoEvents:
    """For a process without an event server."""

    def send(self, announcements: Sequence[Announcement]) -> bool:
        """Send nothing."""
        return False
