"""The work of keeping the traffic log to a size: what must stay is asked of what still reads it."""

from datetime import datetime, timedelta

from tasks.contracts.errors import UserError
from tasks.contracts.traffic_retention import Pruned
from tasks.runtime.services import Services
from tasks.stages.rollout_record import latest_record


def prune_traffic(
    services: Services, keep_days: float, now: datetime, *, model_name: str | None = None, dry_run: bool = False
) -> list[Pruned]:
    """Remove the log's hours that are older than `keep_days`, for one model or all.

    A running rollout counts its traffic from its beginning at every tick, so its model keeps all hours since then.

    Raises:
        UserError: `keep_days` is below one day, or the model has no log.
        InfrastructureError: an hour cannot be removed.
    """
    if keep_days < 1.0:
        raise UserError(f"--keep-days {keep_days:g} is below 1: a day is what monitoring looks back for labels")
    traffic = services.traffic
    known = traffic.models()
    if model_name is not None and model_name not in known:
        raise UserError(
            f"model {model_name!r} has no log below {traffic.place}; logged are: {', '.join(known) or 'none'}"
        )
    chosen = known if model_name is None else [model_name]
    return [traffic.prune(name, *_keep_from(services, name, keep_days, now), dry_run=dry_run) for name in chosen]


def _keep_from(services: Services, model_name: str, keep_days: float, now: datetime) -> tuple[datetime, str]:
    oldest = now - timedelta(days=keep_days)
    record = latest_record(services, model_name)
    if record is None or record.state.finished:
        return oldest, f"{keep_days:g} days are kept"
    began = datetime.fromisoformat(record.state.created_at)
    if began >= oldest:
        return oldest, f"{keep_days:g} days are kept"
    return began, f"rollout {record.state.rollout_id[:12]} runs since then"
