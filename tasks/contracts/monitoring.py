"""What is found out about a served model, window by window: references, reports, alarms, announcements."""

from typing import Literal

from pydantic import Field

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.data import Task
from tasks.contracts.value import Digest, Slug, Value
from tasks.contracts.verdict import Verdict

CheckKind = Literal["drift", "accuracy", "latency", "errors", "cache"]
ALARM_KINDS: tuple[CheckKind, ...] = ("drift", "accuracy", "latency", "errors")
"""Kinds that can raise an alarm, each by itself; `cache` is reported only."""

ALARM_EVENTS: dict[CheckKind, str] = {
    "drift": "stillhouse.drift.detected",
    "accuracy": "stillhouse.accuracy.dropped",
    "latency": "stillhouse.latency.regressed",
    "errors": "stillhouse.errors.increased",
}
MODEL_PROMOTED = "stillhouse.model.promoted"
ROLLOUT_ABORTED = "stillhouse.rollout.aborted"
ROLLOUT_PAUSED = "stillhouse.rollout.paused"
DATA_PUBLISHED = "stillhouse.data.published"


class ContentReference(Value):
    """What normal inputs and answers of one model version look like: rows, not moments of them."""

    model_name: Slug
    model_digest: Digest
    version: int
    source: Literal["validation", "traffic"]
    """The validation split passed through the model, or the first hours of its traffic."""
    task: Task
    dataset: Digest | None
    """Of the data set whose validation split it is."""
    since: str | None
    """Of the traffic, UTC, ISO 8601; None for a split."""
    until: str | None
    rows: ArtifactRef
    """An npz with what `tasks.decisions.window.Rows` holds."""
    num_rows: int
    """With answers."""
    num_inputs: int | None = None
    """Rows whose inputs are compared; None where they are the same rows."""
    labelled: ArtifactRef | None
    """Rows with labels, in the same form, for accuracy; None where none are known."""


class ServiceReference(Value):
    """How one model version served at first: the first hours of its own traffic, the machines and load included."""

    model_name: Slug
    model_digest: Digest
    version: int
    since: str
    until: str
    latencies: ArtifactRef
    """An npz with `latencies_ms`, one value per answered request of `batch_rows` rows."""
    batch_rows: int
    """Rows per request that most requests had."""
    requests: int
    errors: int
    cached: int


class WindowCheck(Value):
    """One question about one window, with the numbers that answered it."""

    kind: CheckKind
    name: str
    verdict: Verdict
    """FAIL: the effect is proven and matters. PASS: one that matters would have been found. Else INCONCLUSIVE."""
    estimate: float | None
    """In the window; for a drift test, the effect."""
    reference: float | None
    """The same in the reference, where it has that."""
    bound: float | None
    """The confidence bound that was held against the limit; for a drift test, the smallest effect it could find."""
    limit: float | None
    """Effects below it do not matter."""
    p_value: float | None
    num_rows: int
    num_reference: int
    detail: str = ""


class WindowReport(Value):
    """All that was asked of one window of one model's traffic."""

    model_name: Slug
    model_digest: Digest
    version: int
    since: str
    """UTC, ISO 8601."""
    until: str
    content_reference: Digest | None
    """Digest of the `ContentReference`; None when there is none yet."""
    service_reference: Digest | None
    requests: int
    rows: int
    errors: int
    cached: int
    """Requests answered from the cache."""
    latency_ms: dict[str, float]
    """Quantiles of the requests that the model itself answered, `p50`, `p95`, `p99`."""
    labelled_share: float | None
    """Share of the rows that were answered in the labels' look-back and have a label by now."""
    median_label_delay_s: float | None
    """From answer to label, of the labels that arrived in the window."""
    checks: tuple[WindowCheck, ...]

    def verdict_of(self, kind: CheckKind) -> Verdict:
        """Return the worst verdict of a kind: INCONCLUSIVE without checks, since no data is never a pass."""
        return Verdict.worst([check.verdict for check in self.checks if check.kind == kind])

    def failed(self, kind: CheckKind) -> tuple[WindowCheck, ...]:
        """Return the checks of a kind that failed."""
        return tuple(check for check in self.checks if check.kind == kind and check.verdict is Verdict.FAIL)


class WindowVerdict(Value):
    """What is kept of a judged window, to count windows by."""

    since: str
    until: str
    failed: tuple[str, ...]
    """Names of the failed checks; empty for a window that passed."""


class Episode(Value):
    """One alarm from the first suspicious window until the model is well again."""

    episode_id: str
    kind: CheckKind
    since: str
    """Start of the first window that failed."""
    raised_at: str
    """End of the window that made it an alarm."""
    checks: tuple[str, ...]
    summary: str
    windows: int
    """Windows that failed so far."""
    ended_at: str | None = None


class Announcement(Value):
    """One event that is to be sent; its id is made from what it is about, so that sending it twice is one event."""

    event_id: str
    event: str
    subject: str
    """Whose event it is: `model.<name>` or `data`; the resource is `stillhouse.<subject>`."""
    occurred: str
    payload: dict[str, str | int | float | list[dict[str, str | float | None]] | None]


class AlarmState(Value):
    """Where the alarms of one model stand: a versioned document that is changed by compare-and-set."""

    model_name: Slug
    model_digest: Digest
    """Another champion starts anew: it has its own reference."""
    judged_until: str
    """End of the last window that was counted; a window that does not begin after it is not counted again."""
    recent: dict[CheckKind, tuple[WindowVerdict, ...]] = Field(default_factory=dict)
    """The last windows with an answer, oldest first."""
    episodes: dict[CheckKind, Episode] = Field(default_factory=dict)
    """The newest episode of each kind."""
    unsent: tuple[Announcement, ...] = ()

    def running(self) -> tuple[Episode, ...]:
        """Return the episodes that have not ended."""
        return tuple(episode for episode in self.episodes.values() if episode.ended_at is None)


class MonitoringRecord(Value):
    """One judged window and where the alarms stood after it."""

    report: WindowReport
    state: AlarmState
    raised: tuple[Episode, ...]
    """Episodes that began with this window."""


class Outbox(Value):
    """Events about one subject: how far its record was read, and what is still to be sent."""

    ledger_sequence: int = 0
    """Ledger entries up to this one have been announced."""
    rollout_id: str = ""
    """The last rollout that ended without a promotion and was announced."""
    paused: str = ""
    """The last pause for a person that was announced: the event's id."""
    data_revision: str = ""
    unsent: tuple[Announcement, ...] = ()


class Spent(Value):
    """One run that an automation was allowed to start."""

    key: str
    at: str


class Spending(Value):
    """Runs against one budget in the last seven days, oldest first."""

    runs: tuple[Spent, ...] = ()
