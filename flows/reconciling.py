"""Reconciling: aliases and routes of every model made equal to the ledger, on a schedule."""

from __future__ import annotations

from prefect import flow, get_run_logger

from tasks.contracts.errors import StillhouseError
from tasks.reconcile import reconcile
from tasks.runtime.services import connect


@flow(name="reconcile-models", persist_result=False)
def reconcile_models() -> dict[str, tuple[str, ...]]:
    """Mend every model of the registry; return what was changed, by the name of the model.

    Models without a champion are left alone. One that cannot be mended does not keep the others from it.

    Raises:
        StillhouseError: a model could not be mended; the first such error, after all were tried.
    """
    log = get_run_logger()
    changes: dict[str, tuple[str, ...]] = {}
    errors: list[StillhouseError] = []
    for name in connect().registry.names():
        try:
            outcome = reconcile(name)
        except StillhouseError as error:
            log.error("%s could not be reconciled: %s", name, error)
            errors.append(error)
            continue
        if outcome is not None and outcome.changes:
            log.info("%s was mended: %s", name, "; ".join(outcome.changes))
            changes[name] = outcome.changes
    if errors:
        raise errors[0]
    return changes
