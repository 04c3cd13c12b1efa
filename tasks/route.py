"""Divide the traffic of a model as its rollout asks for."""

from tasks.adapters.route_store import RouteStore
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.rolling import follow_state
from tasks.stages.rollout_record import RolloutRecord

_ACKNOWLEDGED_WITHIN_S = 60.0


@effect_task
def route(record: RolloutRecord) -> RolloutRecord:
    """Publish the route and wait until every live gateway serves it."""
    services = connect()
    followed = follow_state(services, record)
    newest = max(int(version) for version in followed.weights)
    RouteStore(services.documents, services.settings.store_root).wait_for_acknowledgement(
        record.state.model_name, newest, timeout_s=_ACKNOWLEDGED_WITHIN_S
    )
    return followed
