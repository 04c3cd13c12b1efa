"""Who serves: promotion, bootstrap and rollback, exactly once each.

The ledger decides; aliases and route only follow. Every operation appends to the ledger first
(compare-and-set) and then converges the rest on it, so repeating it after a crash at any point, or
calling `reconcile`, ends in the same state.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from tasks.contracts.errors import GateError, ModelError, StaleChampionError
from tasks.contracts.registration import DIGEST_TAG, RUN_TAG
from tasks.contracts.value import Digest
from tasks.contracts.verdict import GateReport, LedgerEntry, Verdict
from tasks.decisions.succession import champions_in_effect
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import Services
from tasks.stages.announcing import announce_ledger
from tasks.stages.reconciling import follow_ledger, promotion_lock
from tasks.stages.signing import require_signature

_UNNUMBERED = 1
"""The ledger numbers what is appended to it."""


def promote(
    services: Services,
    gate_report_digest: Digest,
    model_name: str,
    version: int,
    actor: str,
    reason: str,
    expected_champion: Digest | None,
    now: str,
) -> LedgerEntry:
    """Make a gated version champion.

    Args:
        services: What is outside.
        gate_report_digest: Artifact of the `GateReport` that the promotion rests on.
        model_name: Registered model.
        version: Its version that was gated.
        actor: Who asks: a user, or the name of a flow.
        reason: Why, for the ledger's reader.
        expected_champion: Digest of the champion that the decision was made against; None if there was none.
        now: UTC, ISO 8601.

    Raises:
        GateError: the report did not pass, or is not about this version of this model.
        ModelError: verification keys are configured and the version is not signed by one of them.
        StaleChampionError: another champion came meanwhile, or this report's promotion was undone since.
    """
    report = passed_report(services, gate_report_digest, model_name)
    registered = services.registry.version(model_name, version)
    digest = _digest_of(registered)
    if digest != report.candidate:
        raise GateError(
            f"gate report {gate_report_digest[:12]} is about {report.candidate[:12]}, but version {version} of "
            f"{model_name} is {digest[:12]}; promote the version that was gated"
        )
    entry = LedgerEntry(
        model_name=model_name,
        sequence=_UNNUMBERED,
        action="promote",
        candidate=report.candidate,
        version=version,
        gate_report=gate_report_digest,
        expected_champion=expected_champion,
        actor=actor,
        reason=reason,
        created_at=now,
        run_id=registered.tags.get(RUN_TAG),
    )
    with services.locks.hold(promotion_lock(model_name)):
        return _append_and_follow(services, entry)


def bootstrap(services: Services, model_name: str, version: int, actor: str, reason: str, now: str) -> LedgerEntry:
    """Make the first champion of a model, without a gate: the uncompressed baseline.

    A model that has a champion keeps it, and its newest entry is returned.

    Raises:
        ModelError: there is no such version, or it does not say what it was made from.
    """
    with services.locks.hold(promotion_lock(model_name)):
        if services.ledger.champion(model_name) is not None:
            return follow_ledger(services, model_name).champion
        registered = services.registry.version(model_name, version)
        entry = LedgerEntry(
            model_name=model_name,
            sequence=_UNNUMBERED,
            action="bootstrap",
            candidate=_digest_of(registered),
            version=version,
            gate_report=None,
            expected_champion=None,
            actor=actor,
            reason=reason,
            created_at=now,
            run_id=registered.tags.get(RUN_TAG),
        )
        return _append_and_follow(services, entry)


def rollback(
    services: Services, model_name: str, actor: str, reason: str, now: str, expected_champion: Digest | None = None
) -> LedgerEntry:
    """Return to the champion before the present one.

    Args:
        services: What is outside.
        model_name: Registered model.
        actor: Who asks.
        reason: Why.
        now: UTC, ISO 8601.
        expected_champion: The champion to leave; give it so that a repetition is one and not a second
            step back. None leaves whoever is champion now.

    Raises:
        ModelError: there is no champion before the present one.
        StaleChampionError: another than `expected_champion` is champion.
    """
    with services.locks.hold(promotion_lock(model_name)):
        history = services.ledger.history(model_name)
        if expected_champion is not None and _left(history) == expected_champion:
            return follow_ledger(services, model_name).champion
        present, target = _present_and_previous(history, model_name)
        entry = LedgerEntry(
            model_name=model_name,
            sequence=_UNNUMBERED,
            action="rollback",
            candidate=target.candidate,
            version=target.version,
            gate_report=None,
            expected_champion=expected_champion or present.candidate,
            actor=actor,
            reason=reason,
            created_at=now,
            run_id=target.run_id,
        )
        return _append_and_follow(services, entry)


def passed_report(services: Services, digest: Digest, model_name: str) -> GateReport:
    """Return the gate report that a promotion is to rest on.

    Raises:
        GateError: it did not pass, is about another model, or is no gate report.
    """
    data = services.artifacts.get(digest)
    try:
        report = GateReport.model_validate_json(data)
    except ValidationError as error:
        raise GateError(f"artifact {digest} is not a gate report: {error}") from error
    if report.model_name != model_name:
        raise GateError(f"gate report {digest[:12]} is about model {report.model_name}, not {model_name}")
    if report.verdict is not Verdict.PASS:
        unmet = [check.name for check in report.checks if check.blocking and check.verdict is not Verdict.PASS]
        raise GateError(
            f"gate report {digest[:12]} of {report.candidate_name} says {report.verdict} "
            f"({', '.join(unmet) or 'no checks'}); only PASS can be promoted"
        )
    return report


def _append_and_follow(services: Services, entry: LedgerEntry) -> LedgerEntry:
    require_signature(services, entry.model_name, entry.candidate)
    appended = services.ledger.append(entry)
    champion = follow_ledger(services, entry.model_name).champion
    announce_ledger(services, entry.model_name, entry.created_at)
    if champion.candidate != appended.candidate:
        raise StaleChampionError(
            f"{appended.candidate[:12]} became champion of {entry.model_name} as entry {appended.sequence} on this "
            f"evidence already, and entry {champion.sequence} ({champion.action} by {champion.actor}: "
            f"{champion.reason}) has replaced it since. Gate it again for new evidence."
        )
    return appended


def _digest_of(registered: RegisteredVersion) -> Digest:
    digest = registered.tags.get(DIGEST_TAG)
    if digest is None:
        raise ModelError(
            f"version {registered.version} of {registered.name} has no tag {DIGEST_TAG}; "
            "it was not registered by `stillhouse run` and cannot be served"
        )
    return digest


def _left(history: Sequence[LedgerEntry]) -> Digest | None:
    """Return the champion that the newest entry rolled back from, if it is a rollback."""
    return history[-1].expected_champion if history and history[-1].action == "rollback" else None


def _present_and_previous(history: Sequence[LedgerEntry], model_name: str) -> tuple[LedgerEntry, LedgerEntry]:
    in_effect = champions_in_effect(history)
    if len(in_effect) < 2:
        raise ModelError(
            f"model {model_name} has no champion to roll back to; its ledger knows "
            f"{'only the present one' if in_effect else 'none'}"
        )
    return in_effect[-1], in_effect[-2]
