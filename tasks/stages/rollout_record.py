"""What the ledger keeps of a rollout, and how it is read back."""

from tasks.contracts.run import RolloutStep, RolloutSummary, RolloutTick
from tasks.contracts.value import Digest, Slug, Value
from tasks.decisions.rollout import RolloutState
from tasks.runtime.services import Services

GATE_REPORT_TAG = "stillhouse.gate_report"
"""Tag of a registered version that names the gate report which it passed."""


class RolloutRecord(Value):
    """What the ledger keeps of every tick."""

    state: RolloutState
    gate_report: Digest
    """What the promotion at the end will rest on."""
    weights: dict[str, float]
    """Challenger's percent for every route version that this rollout has published, by the version as text."""

    @property
    def newest_route(self) -> int:
        """Version of the route that the rollout published last; 0 before the first."""
        return max((int(version) for version in self.weights), default=0)


def latest_record(services: Services, model_name: Slug) -> RolloutRecord | None:
    """Return the newest record of the model's newest rollout, or None."""
    latest = services.ledger.latest_tick(model_name)
    return None if latest is None else RolloutRecord.model_validate_json(latest[2])


def append_record(services: Services, record: RolloutRecord) -> None:
    """Append a tick's record to the ledger.

    Raises:
        DocumentConflictError: that tick is there already with another record.
    """
    state = record.state
    services.ledger.append_tick(state.model_name, state.rollout_id, state.tick, record.canonical_json())


def was_promoted(services: Services, record: RolloutRecord) -> bool:
    """Tell whether the ledger has a promotion that rests on the rollout's gate report."""
    history = services.ledger.history(record.state.model_name)
    return any(entry.gate_report == record.gate_report for entry in history)


def summarise(services: Services, record: RolloutRecord) -> tuple[RolloutSummary, tuple[RolloutTick, ...]]:
    """Return how the rollout went: its steps for the run's record, and every tick for people."""
    ticks = [RolloutRecord.model_validate_json(data) for data in services.ledger.ticks(record.state.rollout_id)]
    shown = tuple(_shown(tick) for tick in ticks if tick.state.latest is not None)
    steps = tuple(RolloutStep(weight=one.judged_weight, verdict=one.verdict) for one in record.state.history)
    verdicts = {"promoted": "promote", "rolled_back": "roll_back", "aborted": "roll_back"}
    verdict = verdicts.get(record.state.status, "hold")
    if verdict == "promote" and not was_promoted(services, record):
        verdict = "roll_back"  # another version became champion before this one could
    return RolloutSummary(verdict=verdict, steps=steps), shown


def _shown(record: RolloutRecord) -> RolloutTick:
    decision = record.state.latest
    assert decision is not None
    return RolloutTick(
        at=decision.at,
        weight=decision.judged_weight,
        verdict=decision.verdict,
        reason=decision.reason,
        route_version=record.newest_route,
        rows=decision.rows,
    )
