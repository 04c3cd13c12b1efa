"""Publication: labelled rows from traffic become a version of a model's data set."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from flows.dossiers import list_dossiers
from flows.plan import CompressionPlan, parse_plan
from tasks.adapters.dvc_remote import remote_of
from tasks.adapters.git import commit_file
from tasks.contracts.errors import PlanError
from tasks.contracts.publication import PublishedData
from tasks.runtime.services import connect
from tasks.stages.announcing import announce_data
from tasks.stages.publishing import Batch, batch_from_traffic, publish


def publish_data(
    plan: CompressionPlan, batch: Batch | None = None, min_rows: int | None = None, *, commit: bool = False
) -> PublishedData:
    """Publish the new rows of `batch` (default: of the traffic) as a version of the plan's data set.

    Args:
        plan: Whose data set and model.
        batch: Labelled rows; None reads the sampled inputs that got a label.
        min_rows: Fewest new rows that are worth a version; the plan's `retraining.min_new_rows` if None.
        commit: Also commit `data.dvc` with Git.

    Raises:
        DataError: the batch is refused; nothing has changed.
        UserError: the commit was refused; the version is there.
    """
    services, name = connect(), plan.registered_name
    published = publish(
        services,
        name,
        plan.dataset,
        plan.seed,
        batch_from_traffic(services, name) if batch is None else batch,
        min_rows=plan.retraining.min_new_rows if min_rows is None else min_rows,
        now=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    announce(published)
    if commit:
        num_new = sum(published.num_new.values())
        message = f"Add {num_new} labelled rows of traffic to the data of {name}"
        commit_file(services.settings.project / "data.dvc", message)
    return published


def announce(published: PublishedData) -> None:
    """Tell others that a version was published and pushed; a server that is away hears of it later."""
    services = connect()
    announce_data(services, published.data_revision, remote_of(services.settings).shown, published.published_at)


def plan_of_champion(model_name: str) -> CompressionPlan:
    """Return the plan by whose run the model's champion was registered.

    Raises:
        PlanError: no run is known that registered it.
    """
    champion = connect().ledger.champion(model_name)
    for dossier in list_dossiers():
        registered, baseline = dossier.record.registered, dossier.record.baseline.model.digest
        if champion is None or registered is None or registered.name != model_name:
            continue
        if registered.version == champion.version or baseline == champion.candidate:
            return parse_plan(dossier.plan_document, f"of run {dossier.record.run_id}")
    raise PlanError(
        f"no run of this store registered the champion of {model_name}; name the plan with --plan, or list the models "
        "with `stillhouse model ls`"
    )


def require_plan_of(plan: CompressionPlan, model_name: str, path: Path) -> None:
    """Check that the plan is about the model.

    Raises:
        PlanError: it registers another one.
    """
    if plan.registered_name != model_name:
        raise PlanError(
            f"plan {path} registers {plan.registered_name!r}, not {model_name!r}; give the plan of that model, or set "
            "its model_name"
        )
