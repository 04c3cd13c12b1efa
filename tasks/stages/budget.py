"""The work of bounding what automations start: so many runs a week, counted in the store."""

from datetime import datetime, timedelta

from tasks.contracts.errors import DocumentConflictError, UserError
from tasks.contracts.monitoring import Spending, Spent
from tasks.runtime.stores import DocumentStore

_WEEK = timedelta(days=7)


def spend(documents: DocumentStore, name: str, key: str, max_per_week: int, now: datetime) -> int:
    """Count a run of `name` against its budget, and return how many there were in the last seven days, it included.

    A run that was counted already (a retry, a restart under the same key) is counted once and never refused.

    Args:
        documents: Where runs are counted.
        name: What has the budget, such as `recompress/plans-digits`.
        key: The run's own id.
        max_per_week: Runs allowed in any seven days.
        now: UTC.

    Raises:
        UserError: the budget is spent; the message says when it is free again.
    """
    document = f"budgets/{name}"
    while True:
        latest = documents.latest(document)
        runs = Spending.model_validate_json(latest.data).runs if latest else ()
        recent = tuple(run for run in runs if now - datetime.fromisoformat(run.at) < _WEEK)
        if any(run.key == key for run in recent):
            return len(recent)
        if len(recent) >= max_per_week:
            raise UserError(_refusal(name, recent, max_per_week))
        counted = Spending(runs=(*recent, Spent(key=key, at=now.isoformat(timespec="seconds"))))
        try:
            documents.append(document, counted.canonical_json(), latest.version if latest else 0)
        except DocumentConflictError:
            continue  # another run was counted between the read and the write
        return len(counted.runs)


def _refusal(name: str, recent: tuple[Spent, ...], max_per_week: int) -> str:
    starts = ", ".join(run.at for run in recent) or "none"
    free = ""
    if recent and max_per_week:
        free = f" The next may start at {(datetime.fromisoformat(recent[-max_per_week].at) + _WEEK).isoformat()}."
    return (
        f"the budget of {name} is spent: {len(recent)} runs in the last seven days ({starts}), and max_per_week is "
        f"{max_per_week}.{free} An alarm that keeps coming back needs a person; raise max_per_week only if it does not."
    )
