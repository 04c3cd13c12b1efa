"""Divide the traffic of a model as its rollout asks for."""

from tasks.adapters.route_store import RouteStore
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.rolling import follow_state
from tasks.stages.rollout_record import RolloutRecord

_ACKNOWLEDGED_WITHIN_S = 60.0


@effect_task
def route(record: RolloutRecord) -> RolloutRecord:
    """Publish the route and give every live gateway time to serve it; the look after it judges whether they do."""
    services = connect()
    followed = follow_state(services, record)
    RouteStore(services.documents, services.acknowledgements).wait_until_served(
        record.state.model_name, followed.newest_route, timeout_s=_ACKNOWLEDGED_WITHIN_S
    )
    return followed
