"""The work of keeping the traffic log to a size: what must stay is asked of what still reads it."""

from datetime import datetime, timedelta

from tasks.contracts.errors import UserError
from tasks.contracts.traffic_retention import Pruned
from tasks.decisions.log_retention import Limits
from tasks.runtime.services import Services
from tasks.stages.rollout_record import latest_record

_NEEDED_DAYS = 1.0
"""What monitoring looks back for labels."""


def prune_traffic(
    services: Services,
    keep_days: float | None,
    now: datetime,
    *,
    max_bytes: int | None = None,
    model_name: str | None = None,
    dry_run: bool = False,
) -> list[Pruned]:
    """Remove the log's hours that are older than `keep_days`, and the oldest of those beyond `max_bytes` a model.

    A running rollout counts its traffic from its beginning at every tick, so its model keeps all hours since then,
    and every model keeps the last day, however many bytes that is.

    Raises:
        UserError: `keep_days` is below one day, `max_bytes` is negative, neither is given, or the model has no log.
        InfrastructureError: an hour cannot be removed.
    """
    if keep_days is None and max_bytes is None:
        raise UserError("nothing says what may go; give --keep-days, --max-bytes, or both")
    if keep_days is not None and keep_days < _NEEDED_DAYS:
        raise UserError(f"--keep-days {keep_days:g} is below 1: a day is what monitoring looks back for labels")
    if max_bytes is not None and max_bytes < 0:
        raise UserError(f"--max-bytes {max_bytes} is negative; 0 keeps what is still needed and nothing else")
    traffic = services.traffic
    known = traffic.models()
    if model_name is not None and model_name not in known:
        raise UserError(
            f"model {model_name!r} has no log below {traffic.place}; logged are: {', '.join(known) or 'none'}"
        )
    chosen = known if model_name is None else [model_name]
    return [traffic.prune(name, _limits(services, name, keep_days, max_bytes, now), dry_run=dry_run) for name in chosen]


def _limits(
    services: Services, model_name: str, keep_days: float | None, max_bytes: int | None, now: datetime
) -> Limits:
    needed = now - timedelta(days=_NEEDED_DAYS)
    record = latest_record(services, model_name)
    if record is not None and not record.state.finished:
        began = datetime.fromisoformat(record.state.created_at)
        needed = min(needed, began)
    keep_from = None if keep_days is None else now - timedelta(days=keep_days)
    kept_because = "age removes nothing" if keep_days is None else f"{keep_days:g} days are kept"
    if record is not None and keep_from is not None and needed < keep_from:
        keep_from, kept_because = needed, f"rollout {record.state.rollout_id[:12]} runs since then"
    return Limits(keep_from, kept_because, max_bytes, needed)
