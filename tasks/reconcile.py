"""Make the aliases and the route of a model equal its ledger."""

from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.reconciling import Reconciliation, reconcile_known


@effect_task
def reconcile(model_name: str) -> Reconciliation | None:
    """Mend aliases and route, and say what was changed; None for a model without a champion."""
    return reconcile_known(connect(), model_name)
